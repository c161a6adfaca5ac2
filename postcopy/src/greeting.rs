//! Opening a channel: hello and answer, on both sides.

use std::io;
use std::time::{Duration, Instant};

use crate::channel::{Channel, ChannelError, Connector, Handshake, Peer, TlsError, Wake};
use crate::error::MigrationError;
use crate::wire::{Answer, ChannelKind, Features, Hello, Token, VERSION_MAX, VERSION_MIN};

/// How long the other side may take to say its first bytes.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// Destination: the hello of a channel that was just accepted.
pub(crate) fn hello(channel: &Channel, until: &Until<'_>) -> Result<Hello, ChannelError> {
    // Whoever connects speaks first; a stranger that stays silent must not keep the real source waiting for long.
    let deadline = Instant::now() + PATIENCE / 5;
    secure(channel, until, deadline).inspect_err(|error| {
        if let ChannelError::Tls(TlsError::Plain(_)) = error {
            // Nothing else could it read.
            let why = TlsError::Plain(Peer::Source).to_string();
            channel.say_in_clear(&Answer::Refused(why).encode());
        }
    })?;
    let mut bytes = [0; Hello::LEN];
    read_first(channel, &mut bytes, until, deadline)?;
    let hello = Hello::decode(&bytes)?;
    hello.choose()?;
    Ok(hello)
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
