//! [`Recording`]: the source's channels, where what comes over them is kept.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::scan::{Passed, Scanner};
use super::{BUFFER, receive, receive_all, set_nonblocking};
use crate::channel::{Channel, ChannelError, Connector, Wake};
use crate::error::sentence;
use crate::wire::{Answer, Features, Hello, Reply, VERSION_MAX, tag};

/// Where a stream is written.
pub trait Sink: Send {
    /// What is polled and written to. Where it can block, it is in non-blocking mode.
    fn fd(&self) -> BorrowedFd<'_>;

    /// All of the stream was written: returns once it is as safe as it can be here. The guest is given up after that; an error keeps it.
    fn commit(self: Box<Self>) -> io::Result<()>;
}

/// A file, a pipe or a socket.
pub struct Descriptor(OwnedFd);

impl Descriptor {
    /// Written to from where it stands. Errors: it cannot be put into non-blocking mode.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        set_nonblocking(descriptor.as_fd())?;
        Ok(Self(descriptor))
    }
}

impl Sink for Descriptor {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn commit(self: Box<Self>) -> io::Result<()> {
        match nix::unistd::fsync(&self.0) {
            // Nothing that keeps what it is given: whoever reads it has the rest in hand.
            Ok(()) | Err(Errno::EINVAL | Errno::EROFS | Errno::ENOTSUP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Gives the channels of one precopy, and writes what comes over them to a [`Sink`].
///
/// A thread of its own, which ends with the channels, does the writing; what cannot be written ends the migration with a reason, and
/// the guest stays.
pub struct Recording {
    next: Mutex<Next>,
}

/// Which channel is asked for next.
enum Next {
    Control(Box<dyn Sink>),
    Demand,
    None,
}

impl Recording {
    /// Into `sink`.
    pub fn new(sink: Box<dyn Sink>) -> Self {
        Self { next: Mutex::new(Next::Control(sink)) }
    }
}

impl Connector for Recording {
    fn connect(&self) -> io::Result<Channel> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let (ours, theirs) = Channel::pair()?;
        let wake = Wake::new()?;
        // A destination that can do nothing but take pages as they are.
        let welcome = Answer::Welcome { version: VERSION_MAX, features: Features::default() };
        ours.send(&welcome.encode(), &wake, &|| false).map_err(io::Error::other)?;
        match std::mem::replace(&mut *next, Next::None) {
            Next::Control(sink) => {
                let recorder = Recorder { peer: ours, wake, sink: Some(sink), scanner: Scanner::new() };
                std::thread::Builder::new().name("mig-record".into()).spawn(move || recorder.run())?;
                *next = Next::Demand;
            }
            // Without postcopy nothing is asked for on it: nobody has to listen.
            Next::Demand => {}
            Next::None => return Err(io::Error::other("a stream that goes one way cannot be joined again")),
        }
        Ok(theirs)
    }
}

/// The thread behind the control channel.
struct Recorder {
    peer: Channel,
    /// Nobody rings it.
    wake: Wake,
    /// `None` once the stream is whole, or cannot be.
    sink: Option<Box<dyn Sink>>,
    scanner: Scanner,
}

impl Recorder {
    fn run(mut self) {
        let Err(error) = self.record();
        log::debug!("nothing more is recorded: {}", sentence(&error));
    }

    /// Until the source closes the channel.
    fn record(&mut self) -> Result<Infallible, ChannelError> {
        let hello = self.read_hello()?;
        // What follows is of this version, whichever others the source speaks.
        self.keep(&Hello { versions: (VERSION_MAX, VERSION_MAX), ..hello }.encode())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = receive(&self.peer, &mut buffer, &self.wake)?;
            self.take(&buffer[..count])?;
        }
    }

    fn read_hello(&self) -> Result<Hello, ChannelError> {
        let mut hello = [0; Hello::LEN];
        receive_all(&self.peer, &mut hello, &self.wake)?;
        Ok(Hello::decode(&hello)?)
    }

    /// Writes what was read and answers what is to be answered, once everything up to it is written.
    fn take(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        let (mut written, mut at) = (0, 0);
        while self.sink.is_some() && at < bytes.len() {
            match self.scanner.next(&bytes[at..]) {
                Ok((count, passed)) => {
                    at += count;
                    if let Some(passed) = passed.filter(|passed| is_answered(passed.tag)) {
                        self.keep(&bytes[written..at])?;
                        written = at;
                        self.answer(passed)?;
                    }
                }
                Err(error) => self.give_up(&sentence(&error))?,
            }
        }
        self.keep(&bytes[written..])
    }

    /// Writes, unless that failed before.
    fn keep(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        let Some(sink) = &self.sink else { return Ok(()) };
        match write_all(sink.fd(), bytes, (self.peer.as_fd(), PollFlags::empty())) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Err(ChannelError::Closed(None)),
            Err(error) => self.give_up(&format!("the stream could not be written: {error}")),
            Ok(()) => Ok(()),
        }
    }

    /// What a destination would say to this.
    fn answer(&mut self, Passed { tag, first }: Passed) -> Result<(), ChannelError> {
        if self.sink.is_none() {
            return Ok(());
        }
        match tag {
            tag::DESCRIPTION => self.say(&Reply::Accepted),
            tag::MARK => self.say(&Reply::Reached(first)),
            tag::STATE => self.say(&Reply::Ready),
            tag::COMPLETE => {
                let Some(sink) = self.sink.take() else { return Ok(()) };
                match sink.commit() {
                    Ok(()) => {
                        self.say(&Reply::Running)?;
                        self.say(&Reply::AllReceived)
                    }
                    Err(error) => self.give_up(&format!("the stream is not safe: {error}")),
                }
            }
            _ => Ok(()),
        }
    }

    /// The guest stays; whatever else the source says goes nowhere.
    fn give_up(&mut self, why: &str) -> Result<(), ChannelError> {
        self.sink = None;
        self.say(&Reply::NotStarted(why.to_owned()))
    }

    fn say(&self, reply: &Reply) -> Result<(), ChannelError> {
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        self.peer.send(&bytes, &self.wake, &|| false)
    }
}

fn is_answered(tag: u16) -> bool {
    matches!(tag, tag::DESCRIPTION | tag::MARK | tag::STATE | tag::COMPLETE)
}

/// Writes all of `bytes`. [`io::ErrorKind::ConnectionAborted`] if this had to wait, and meanwhile something (or an end) was to be seen on `end`: nobody
/// wants them any more.
pub(super) fn write_all(
    to: BorrowedFd<'_>,
    mut bytes: &[u8],
    (end, seen): (BorrowedFd<'_>, PollFlags),
) -> io::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut fds = [PollFd::new(to, PollFlags::POLLOUT), PollFd::new(end, seen)];
                poll(&mut fds, PollTimeout::NONE)?;
                let [to, end] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
                if to.is_empty() && !end.is_empty() {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
