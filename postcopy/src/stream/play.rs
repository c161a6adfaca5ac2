//! [`Playing`]: the destination's channels, where what comes over them was recorded.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::fault_text::stream_fault;
use super::multiplex::{FRAMES, Multiplex};
use super::scan::{Passed, Scanner};
use super::{BUFFER, answer_for_source, await_end, receive_all, set_nonblocking, welcomed};
use crate::channel::{Acceptor, Channel, ChannelError, Wake};
use crate::error::sentence;
use crate::logging as log;
use crate::wire::{Answer, ChannelKind, Features, Forward, Header, Hello, tag};

/// Why a stream with mapped RAM is not played.
const MAPPED: &str = "it has mapped RAM, whose pages do not come in order: give the file itself, as file:PATH";

/// Between the state and the end of the stream there is little; more is not waited with, in bytes.
const MOST_HELD: usize = 64 * 1024;

/// Gives the channels of a migration that was recorded, by a [`super::Recording`] on whatever host.
///
/// The destination hears nothing of a hand-over before the whole stream was read: a stream that was
/// cut starts no guest.
pub struct Playing {
    next: RefCell<Next>,
}

/// Which channel is given next.
enum Next {
    Control { stream: Stream, hello: Vec<u8> },
    Demand(Box<Channel>),
    None,
}

/// A stream that a migration comes on.
struct Stream {
    from: OwnedFd,
    /// Where the source may hear an answer.
    back: Option<OwnedFd>,
}

impl Playing {
    /// From `stream`, which is read from where it stands. Errors: it cannot be put into
    /// non-blocking mode.
    pub fn new(stream: OwnedFd) -> io::Result<Self> {
        Self::on(Stream { from: stream, back: None })
    }

    /// The same; `back` is where a source may listen for an answer, and if one does, the stream
    /// carries a migration of any kind.
    pub fn with_way_back(stream: OwnedFd, back: OwnedFd) -> io::Result<Self> {
        set_nonblocking(back.as_fd())?;
        Self::on(Stream { from: stream, back: Some(back) })
    }

    fn on(stream: Stream) -> io::Result<Self> {
        set_nonblocking(stream.from.as_fd())?;
        Ok(Self { next: RefCell::new(Next::Control { stream, hello: Vec::new() }) })
    }
}

impl Acceptor for Playing {
    fn is_stream(&self) -> bool {
        true
    }

    fn accept(&self, wake: &Wake) -> Result<Channel, ChannelError> {
        let (given, next) = match self.next.replace(Next::None) {
            Next::Control { stream, mut hello } => match read_hello(&stream.from, &mut hello, wake) {
                Ok(hello) => {
                    let (control, demand) = play(stream, hello)?;
                    (Ok(control), Next::Demand(Box::new(demand)))
                }
                Err(error) => (Err(error), Next::Control { stream, hello }),
            },
            Next::Demand(channel) => (Ok(*channel), Next::None),
            Next::None => (Err(ChannelError::Closed(None)), Next::None),
        };
        self.next.replace(next);
        given
    }
}

/// However long the first bytes take: whoever writes the stream may still be asked for a password.
fn read_hello(stream: &OwnedFd, bytes: &mut Vec<u8>, wake: &Wake) -> Result<Hello, ChannelError> {
    while bytes.len() < Hello::LEN {
        let mut piece = [0; Hello::LEN];
        match read(stream, &mut piece[bytes.len()..], Some(wake))? {
            0 => return Err(ChannelError::Closed(Some("hello"))),
            count => bytes.extend_from_slice(&piece[bytes.len()..][..count]),
        }
    }
    let mut whole = [0; Hello::LEN];
    whole.copy_from_slice(bytes);
    Ok(Hello::decode(&whole)?)
}

/// Waits until something can be read of the stream, or for `wake`: how many bytes; 0 at its end.
fn read(stream: &OwnedFd, buffer: &mut [u8], wake: Option<&Wake>) -> Result<usize, ChannelError> {
    loop {
        match nix::unistd::read(stream, buffer) {
            Ok(count) => return Ok(count),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let readable = PollFd::new(stream.as_fd(), PollFlags::POLLIN);
                match wake {
                    None => drop(poll(&mut [readable], PollTimeout::NONE).map_err(io::Error::from)?),
                    Some(wake) => {
                        let mut fds = [readable, PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
                        poll(&mut fds, PollTimeout::NONE).map_err(io::Error::from)?;
                        if fds[1].any().unwrap_or(false) {
                            wake.clear();
                            return Err(ChannelError::Interrupted);
                        }
                    }
                }
            }
            Err(error) => return Err(ChannelError::Io(error.into())),
        }
    }
}

/// Begins to play what follows the hello: the destination's ends of the control and of the demand
/// channel.
fn play(stream: Stream, hello: Hello) -> io::Result<(Channel, Channel)> {
    let ((ours, control), (asked, demand)) = (Channel::pair()?, Channel::pair()?);
    let player = Player {
        stream: stream.from,
        begin: Vec::new(),
        peer: Arc::new(ours),
        wake: Wake::new()?,
        scanner: Scanner::new(),
        offset: Hello::LEN as u64,
        answered: 0,
    };
    player.greet(&player.peer, Hello { kind: ChannelKind::Control, ..hello }).map_err(io::Error::other)?;
    let run = move || player.run(hello, asked, stream.back);
    std::thread::Builder::new().name("mig-play".into()).spawn(log::carried(run))?;
    Ok((control, demand))
}

/// The thread behind the channels.
struct Player {
    stream: OwnedFd,
    /// What was read of the stream already.
    begin: Vec<u8>,
    /// The control channel.
    peer: Arc<Channel>,
    /// Nobody rings it.
    wake: Wake,
    scanner: Scanner,
    /// So many bytes of the stream were read.
    offset: u64,
    /// So many of its messages are answered, which the source was told in this side's place.
    answered: u64,
}

/// What the stream holds.
enum Content {
    /// One channel's messages, which nobody hears an answer to; unless the source joins this side
    /// behind one of them, where it can.
    Messages { joins: bool },
    /// Both channels, in frames; the other end answers.
    Frames,
}

/// A source that has heard this side's answer, and speaks in frames from there on.
#[derive(Default)]
struct Joined {
    /// What was read of its frames.
    read: Vec<u8>,
    /// What it has yet to hear of this side, which was said before.
    refusal: Vec<u8>,
}

impl Player {
    fn run(mut self, hello: Hello, demand: Channel, back: Option<OwnedFd>) {
        let welcome = self.welcome(back.as_ref());
        match (welcome, back) {
            (Ok(Content::Frames), Some(back)) => self.multiplex(demand, &back, &Joined::default()),
            (welcome, back) => {
                if let (Some(joined), Some(back)) = (self.play(welcome, hello, &demand), back) {
                    self.multiplex(demand, &back, &joined);
                }
            }
        }
    }

    /// The source is at the other end.
    fn multiplex(self, demand: Channel, back: &OwnedFd, joined: &Joined) {
        let Some(control) = Arc::into_inner(self.peer) else { return };
        let carried = Multiplex::new(&self.stream, back.as_fd(), control, demand)
            .with_read(&joined.read)
            .with_control(&joined.refusal)
            .run();
        if let Err(error) = carried {
            log::debug!("nothing more comes over the stream: {}", sentence(&error));
        }
    }

    /// The source was here once; or it is, and is joined: then there is more to be done.
    fn play(&mut self, welcome: Result<Content, ChannelError>, hello: Hello, demand: &Channel) -> Option<Joined> {
        match welcome.and_then(|content| self.play_messages(&content, hello, demand)) {
            Ok(Some(joined)) => return Some(joined),
            // The destination has said itself why it closed the channel.
            Ok(None) | Err(ChannelError::Closed(None)) => {}
            Err(error) => {
                log::error!("the stream cannot be read on after {} bytes: {}", self.offset, stream_fault(&error))
            }
        }
        await_end(&self.peer, &self.wake);
        None
    }

    fn play_messages(
        &mut self,
        content: &Content,
        hello: Hello,
        demand: &Channel,
    ) -> Result<Option<Joined>, ChannelError> {
        let Content::Messages { joins } = content else { return Err(ChannelError::Closed(None)) };
        // Nobody answers on the demand channel: no page is missing.
        self.greet(demand, Hello { kind: ChannelKind::Demand, ..hello })?;
        match self.forward(*joins)? {
            None => answer_for_source(&self.peer, &self.wake).map(|()| None),
            Some(read) => {
                welcomed(demand, &self.wake)?;
                Ok(Some(Joined { refusal: self.take_replies()?, read }))
            }
        }
    }

    /// The source was answered in this side's place up to here: takes what this side has said to
    /// it. A refusal it has yet to hear.
    fn take_replies(&self) -> Result<Vec<u8>, ChannelError> {
        for _ in 0..self.answered {
            let mut header = [0; Header::LEN];
            receive_all(&self.peer, &mut header, &self.wake)?;
            let Header { tag, length } = Header::decode(header)?;
            let mut body = vec![0; length as usize];
            receive_all(&self.peer, &mut body, &self.wake)?;
            if tag == tag::NOT_STARTED {
                return Ok([header.as_slice(), &body].concat());
            }
        }
        Ok(Vec::new())
    }

    fn greet(&self, channel: &Channel, hello: Hello) -> Result<(), ChannelError> {
        channel.send(&hello.encode(), &self.wake, &|| false)
    }

    /// Passes the destination's answer to the hello on, where there is a way back; tells what
    /// follows in the stream.
    fn welcome(&mut self, back: Option<&OwnedFd>) -> Result<Content, ChannelError> {
        let mut fixed = [0; Answer::LEN];
        receive_all(&self.peer, &mut fixed, &self.wake)?;
        let mut text = vec![0; Answer::text_len(&fixed)?];
        receive_all(&self.peer, &mut text, &self.wake)?;
        let answer = Answer::decode(&fixed, &text)?;
        if let Some(back) = back {
            let said = match &answer {
                // This side takes frames wherever they begin.
                Answer::Welcome { version, features } => {
                    Answer::Welcome { version: *version, features: features.and(Features::JOINS) }.encode()
                }
                Answer::Refused(_) => [&fixed, text.as_slice()].concat(),
            };
            // A pipe or socket that is empty takes all of it; whoever does not listen does not miss
            // it.
            let _ = nix::unistd::write(back, &said);
        }
        match answer {
            Answer::Refused(why) => return Err(ChannelError::Refused(why)),
            Answer::Welcome { .. } if back.is_none() => return Ok(Content::Messages { joins: false }),
            Answer::Welcome { .. } => {}
        }
        while self.begin.len() < FRAMES.len() {
            let mut piece = [0; FRAMES.len()];
            let wanted = FRAMES.len() - self.begin.len();
            match read(&self.stream, &mut piece[..wanted], None)? {
                0 => return Ok(Content::Messages { joins: false }),
                count => self.begin.extend_from_slice(&piece[..count]),
            }
        }
        Ok(if self.begin == FRAMES { Content::Frames } else { Content::Messages { joins: true } })
    }

    /// The stream's next bytes: how many; 0 at its end, whatever is held of it.
    fn next(&mut self, buffer: &mut [u8]) -> Result<usize, ChannelError> {
        let held = std::mem::take(&mut self.begin);
        buffer[..held.len()].copy_from_slice(&held);
        // What came with the hello is looked at first.
        if held.len() == FRAMES.len() {
            return Ok(held.len());
        }
        match read(&self.stream, &mut buffer[held.len()..], None)? {
            0 => Ok(0),
            count => Ok(held.len() + count),
        }
    }

    /// The stream up to its last message, or up to where it was cut; or, if the source `joins` this
    /// side, up to its frames: what was read of these.
    fn forward(&mut self, joins: bool) -> Result<Option<Vec<u8>>, ChannelError> {
        let mut buffer = vec![0; BUFFER];
        // What follows the state: nothing of it is said before its end is here.
        let mut held = Vec::new();
        let mut holds = false;
        loop {
            let count = match self.next(&mut buffer)? {
                0 if holds => return self.cancel("the stream was cut after the guest's state").map(|()| None),
                0 => return Err(ChannelError::Closed(self.scanner.inside().or(Some("stream")))),
                count => count,
            };
            let bytes = &buffer[..count];
            let (mut at, mut begin) = (0, 0);
            while at < bytes.len() {
                if joins && !holds && self.scanner.inside().is_none() {
                    let rest = &bytes[at..];
                    if let Some(follows) = rest.strip_prefix(&FRAMES[..]) {
                        self.send(&bytes[begin..at])?;
                        return Ok(Some(follows.to_vec()));
                    }
                    if FRAMES.starts_with(rest) {
                        // Whether they are, the next bytes tell.
                        self.begin = rest.to_vec();
                        break;
                    }
                }
                let (count, passed) = match self.scanner.next(&bytes[at..]) {
                    Ok(passed) => passed,
                    Err(error) if holds => return self.cancel(&sentence(&error)).map(|()| None),
                    Err(error) => {
                        // The destination says what is wrong with it.
                        self.send(&bytes[begin..])?;
                        return Err(error.into());
                    }
                };
                at += count;
                self.offset += count as u64;
                match passed {
                    Some(Passed { tag: tag::MAPPED, .. }) => return self.cancel(MAPPED).map(|()| None),
                    Some(Passed { tag: tag::STATE, .. }) => {
                        self.send(&bytes[begin..at])?;
                        (begin, holds) = (at, true);
                    }
                    Some(Passed { tag: tag::COMPLETE | tag::CANCEL, .. }) => {
                        held.extend_from_slice(&bytes[begin..at]);
                        return self.send(&held).map(|()| None);
                    }
                    Some(Passed { tag: tag::DESCRIPTION | tag::BARRIER, .. }) => self.answered += 1,
                    _ => {}
                }
            }
            match holds {
                true if held.len() > MOST_HELD => {
                    return self.cancel("the stream does not end after the guest's state").map(|()| None);
                }
                true => held.extend_from_slice(&bytes[begin..at]),
                false => self.send(&bytes[begin..at])?,
            }
        }
    }

    /// The destination has the whole state and would wait for the source's word.
    fn cancel(&self, why: &str) -> Result<(), ChannelError> {
        self.say(&Forward::Cancel(why.to_owned()))
    }

    fn say(&self, message: &Forward) -> Result<(), ChannelError> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.send(&bytes)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), ChannelError> {
        self.peer.send(bytes, &self.wake, &|| false)
    }
}
