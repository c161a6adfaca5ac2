//! [`Playing`]: the destination's channels, where what comes over them was recorded.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::scan::{Passed, Scanner};
use super::{BUFFER, answer_for_source, await_end, set_nonblocking, welcomed};
use crate::channel::{Acceptor, Channel, ChannelError, Wake};
use crate::error::sentence;
use crate::wire::{ChannelKind, Forward, Hello, tag};

/// Between the state and the end of the stream there is little; more is not waited with, in bytes.
const MOST_HELD: usize = 64 * 1024;

/// Gives the channels of a migration that was recorded, by a [`super::Recording`] on whatever host.
///
/// The destination hears nothing of a hand-over before the whole stream was read: a stream that was cut starts no guest.
pub struct Playing {
    next: RefCell<Next>,
}

/// Which channel is given next.
enum Next {
    Control { stream: OwnedFd, hello: Vec<u8> },
    Demand(Box<Channel>),
    None,
}

impl Playing {
    /// From `stream`, which is read from where it stands. Errors: it cannot be put into non-blocking mode.
    pub fn new(stream: OwnedFd) -> io::Result<Self> {
        set_nonblocking(stream.as_fd())?;
        Ok(Self { next: RefCell::new(Next::Control { stream, hello: Vec::new() }) })
    }
}

impl Acceptor for Playing {
    fn accept(&self, wake: &Wake) -> Result<Channel, ChannelError> {
        let (given, next) = match self.next.replace(Next::None) {
            Next::Control { stream, mut hello } => match read_hello(&stream, &mut hello, wake) {
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

/// Begins to play what follows the hello: the destination's ends of the control and of the demand channel.
fn play(stream: OwnedFd, hello: Hello) -> io::Result<(Channel, Channel)> {
    let wake = Wake::new()?;
    let ((ours, control), (asked, demand)) = (Channel::pair()?, Channel::pair()?);
    for (channel, kind) in [(&ours, ChannelKind::Control), (&asked, ChannelKind::Demand)] {
        channel.send(&Hello { kind, ..hello }.encode(), &wake, &|| false).map_err(io::Error::other)?;
    }
    let player = Player {
        stream,
        peer: Arc::new(ours),
        _asked: asked,
        wake,
        scanner: Scanner::new(),
        offset: Hello::LEN as u64,
    };
    std::thread::Builder::new().name("mig-play".into()).spawn(move || player.run())?;
    Ok((control, demand))
}

/// The thread behind the control channel.
struct Player {
    stream: OwnedFd,
    peer: Arc<Channel>,
    /// The other end of the demand channel, on which nobody answers: no page is missing.
    _asked: Channel,
    /// Nobody rings it.
    wake: Wake,
    scanner: Scanner,
    /// So many bytes of the stream were read.
    offset: u64,
}

impl Player {
    fn run(mut self) {
        match self.play() {
            // The destination has said itself why it closed the channel.
            Ok(()) | Err(ChannelError::Closed(None)) => {}
            Err(error) => log::error!("the stream cannot be read on after {} bytes: {}", self.offset, sentence(&error)),
        }
        await_end(&self.peer, &self.wake);
    }

    fn play(&mut self) -> Result<(), ChannelError> {
        welcomed(&self.peer, &self.wake)?;
        self.forward()?;
        answer_for_source(&self.peer, &self.wake)
    }

    /// The stream up to its last message, or up to where it was cut.
    fn forward(&mut self) -> Result<(), ChannelError> {
        let mut buffer = vec![0; BUFFER];
        // What follows the state: nothing of it is said before its end is here.
        let mut held = Vec::new();
        let mut holds = false;
        loop {
            let count = match read(&self.stream, &mut buffer, None)? {
                0 if holds => return self.cancel("the stream was cut after the guest's state"),
                0 => return Err(ChannelError::Closed(self.scanner.inside().or(Some("stream")))),
                count => count,
            };
            let bytes = &buffer[..count];
            let (mut at, mut begin) = (0, 0);
            while at < bytes.len() {
                let (count, passed) = match self.scanner.next(&bytes[at..]) {
                    Ok(passed) => passed,
                    Err(error) if holds => return self.cancel(&sentence(&error)),
                    Err(error) => {
                        // The destination says what is wrong with it.
                        self.send(&bytes[begin..])?;
                        return Err(error.into());
                    }
                };
                at += count;
                self.offset += count as u64;
                match passed {
                    Some(Passed { tag: tag::MAPPED, .. }) => {
                        return self.cancel(
                            "it has mapped RAM, whose pages do not come in order: give the file itself, as file:PATH",
                        );
                    }
                    Some(Passed { tag: tag::STATE, .. }) => {
                        self.send(&bytes[begin..at])?;
                        (begin, holds) = (at, true);
                    }
                    Some(Passed { tag: tag::COMPLETE | tag::CANCEL, .. }) => {
                        held.extend_from_slice(&bytes[begin..at]);
                        return self.send(&held);
                    }
                    _ => {}
                }
            }
            match holds {
                true if held.len() > MOST_HELD => {
                    return self.cancel("the stream does not end after the guest's state");
                }
                true => held.extend_from_slice(&bytes[begin..]),
                false => self.send(&bytes[begin..])?,
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
