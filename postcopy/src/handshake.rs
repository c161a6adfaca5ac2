//! Opening a channel: hello and answer, on both sides.

use std::io;
use std::time::Duration;

use nix::poll::PollFlags;

use crate::channel::{Channel, ChannelError, Connector, Handshake, Peer, TlsError, Wake};
use crate::error::{MigrationError, sentence};
use crate::host::Instant;
use crate::wire::{Answer, ChannelKind, Features, Hello, Token, VERSION_MAX, VERSION_MIN, is_hello};

/// How long the other side may take to say its first bytes.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many bytes tell a Whimbrel from others.
const MAGIC: usize = 8;

/// When to stop waiting for the other side.
pub(crate) struct Until<'a> {
    pub wake: &'a Wake,
    pub give_up: &'a dyn Fn() -> bool,
}

/// Waits until the channel can be read, or written to if `write`.
fn wait(channel: &Channel, write: bool, until: &Until<'_>, deadline: Instant) -> Result<(), ChannelError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        // However many bytes came: one that says little by little is as good as silent.
        return Err(ChannelError::Io(io::ErrorKind::TimedOut.into()));
    }
    if channel.wait(write, until.wake, Some(left))?.woken {
        // Whatever else it rang for is looked at once the channel is open.
        until.wake.clear();
        if (until.give_up)() {
            return Err(ChannelError::Interrupted);
        }
    }
    Ok(())
}

/// Both sides prove who they are, on a channel with TLS.
fn secure(channel: &Channel, until: &Until<'_>, deadline: Instant) -> Result<(), ChannelError> {
    loop {
        match channel.handshake().map_err(|error| cut_in(ChannelError::from(error), "TLS handshake"))? {
            Handshake::Done => return Ok(()),
            Handshake::Reads => wait(channel, false, until, deadline)?,
            Handshake::Writes => wait(channel, true, until, deadline)?,
        }
    }
}

/// Reads exactly `bytes.len()` first bytes of a channel.
fn read_first(channel: &Channel, bytes: &mut [u8], until: &Until<'_>, deadline: Instant) -> Result<(), ChannelError> {
    let mut done = 0;
    while done < bytes.len() {
        match channel.receive(&mut bytes[done..]) {
            Ok(0) => return Err(ChannelError::Closed(Some("hello"))),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(channel, false, until, deadline)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(cut_in(error.into(), "hello")),
        }
    }
    Ok(())
}

/// The same error, with the place where the stream ended.
fn cut_in(error: ChannelError, place: &'static str) -> ChannelError {
    match error {
        ChannelError::Closed(_) => ChannelError::Closed(Some(place)),
        other => other,
    }
}

/// Source: opens one channel of the migration `token`.
pub(crate) fn open(
    connector: &dyn Connector,
    kind: ChannelKind,
    recover: bool,
    token: Token,
    until: &Until<'_>,
) -> Result<(Channel, Features), MigrationError> {
    let channel = connector.connect().map_err(MigrationError::Connect)?;
    let hello = Hello { versions: (VERSION_MIN, VERSION_MAX), kind, recover, token, features: Features::POSTCOPY };
    let exchange = || {
        secure(&channel, until, Instant::now() + PATIENCE)?;
        match channel.send(&hello.encode(), until.wake, until.give_up) {
            // A destination that does not want this side's certificate says so and closes.
            Ok(()) | Err(ChannelError::Closed(_)) => {}
            Err(error) => return Err(error),
        }
        let deadline = Instant::now() + PATIENCE;
        let mut fixed = [0; Answer::LEN];
        read_first(&channel, &mut fixed, until, deadline)?;
        let mut text = vec![0; Answer::text_len(&fixed)?];
        read_first(&channel, &mut text, until, deadline)?;
        match Answer::decode(&fixed, &text)? {
            Answer::Welcome { features, .. } => Ok(features),
            Answer::Refused(why) => Err(ChannelError::Refused(why)),
        }
    };
    let features = exchange().map_err(|source| MigrationError::Link { peer: "destination", source })?;
    Ok((channel, features))
}

/// Destination: the first words of a channel that was accepted, as far as they have come. It never
/// waits.
#[derive(Debug)]
pub(crate) struct IncomingHandshake {
    step: HandshakeStep,
    hello: [u8; Hello::LEN],
    have: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HandshakeStep {
    /// Both sides prove who they are.
    Securing { writes: bool },
    /// The hello is coming.
    Hearing,
}

impl IncomingHandshake {
    /// Of this channel.
    pub fn on(channel: &Channel) -> Self {
        let step = match channel.is_encrypted() {
            true => HandshakeStep::Securing { writes: false },
            false => HandshakeStep::Hearing,
        };
        Self { step, hello: [0; Hello::LEN], have: 0 }
    }

    /// Takes what has come; the hello, once it is whole and can be answered.
    pub fn go_on(&mut self, channel: &Channel) -> Result<Option<Hello>, ChannelError> {
        if let HandshakeStep::Securing { writes } = &mut self.step {
            match channel.handshake() {
                Ok(Handshake::Done) => self.step = HandshakeStep::Hearing,
                Ok(waits) => {
                    *writes = waits == Handshake::Writes;
                    return Ok(None);
                }
                Err(error) => {
                    let error = cut_in(error.into(), "TLS handshake");
                    if let ChannelError::Tls(TlsError::Plain(_)) = error {
                        // A plaintext peer cannot read a TLS alert, so answer in the clear.
                        let why = sentence(&TlsError::Plain(Peer::Source));
                        channel.say_in_clear(&Answer::Refused(why).encode());
                    }
                    return Err(error);
                }
            }
        }
        while self.have < self.hello.len() {
            match channel.receive(&mut self.hello[self.have..]) {
                Ok(0) => return Err(ChannelError::Closed(Some("hello"))),
                Ok(count) => {
                    self.have += count;
                    if self.have >= MAGIC && !is_hello(&self.hello[..MAGIC]) {
                        // It will be none, however much more of it comes.
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(cut_in(error.into(), "hello")),
            }
        }
        let hello = Hello::decode(&self.hello)?;
        hello.choose()?;
        Ok(Some(hello))
    }

    /// What is to be polled for before it can go on.
    pub fn waits_for(&self) -> PollFlags {
        match self.step {
            HandshakeStep::Securing { writes: true } => PollFlags::POLLOUT,
            _ => PollFlags::POLLIN,
        }
    }

    /// Whether what is said on the channel now can be heard.
    pub fn is_secured(&self) -> bool {
        self.step == HandshakeStep::Hearing
    }
}

/// Destination: the hello of a channel that was just accepted.
pub(crate) fn hello(channel: &Channel, until: &Until<'_>) -> Result<Hello, ChannelError> {
    let deadline = Instant::now() + PATIENCE / 5;
    let mut greeting = IncomingHandshake::on(channel);
    loop {
        if let Some(hello) = greeting.go_on(channel)? {
            return Ok(hello);
        }
        wait(channel, greeting.waits_for() == PollFlags::POLLOUT, until, deadline)?;
    }
}

/// Destination: answers a hello.
pub(crate) fn answer(channel: &Channel, answer: &Answer, until: &Until<'_>) -> Result<(), ChannelError> {
    channel.send(&answer.encode(), until.wake, until.give_up)
}

/// A token nobody can guess.
pub(crate) fn draw_token() -> std::io::Result<Token> {
    use std::io::Read;
    let mut token = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut token)?;
    Ok(Token(token))
}
