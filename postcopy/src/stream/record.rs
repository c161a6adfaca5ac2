//! [`Recording`]: the source's channels, where what comes over them is kept.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::multiplex::{FRAMES, Multiplex};
use super::scan::{Passed, Scanner};
use super::{BUFFER, receive, receive_all, set_nonblocking};
use crate::channel::{Channel, ChannelError, Connector, Wake};
use crate::error::sentence;
use crate::wire::{Answer, Features, Hello, Reply, VERSION_MAX, tag};

/// Where somebody may answer on the stream, so long is waited for that: less than a source waits for its destination.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

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

/// Gives the channels of one migration, and writes what comes over them to a [`Sink`].
///
/// A thread of its own, which ends with the channels, does the writing; what cannot be written ends the migration with a reason, and
/// the guest stays. Where there is a way back, and a destination answers on it, the stream carries both channels and a migration of any kind. Where
/// nobody does it is recorded: a precopy.
pub struct Recording {
    next: Mutex<Next>,
}

/// Which channel is asked for next.
enum Next {
    Control { sink: Box<dyn Sink>, back: Option<OwnedFd> },
    Demand(Box<Channel>),
    None,
}

impl Recording {
    /// Into `sink`.
    pub fn new(sink: Box<dyn Sink>) -> Self {
        Self { next: Mutex::new(Next::Control { sink, back: None }) }
    }

    /// Into `sink`; `back` is where somebody may answer. Errors: it cannot be put into non-blocking mode.
    pub fn with_way_back(sink: Box<dyn Sink>, back: OwnedFd) -> io::Result<Self> {
        set_nonblocking(back.as_fd())?;
        Ok(Self { next: Mutex::new(Next::Control { sink, back: Some(back) }) })
    }
}

impl Connector for Recording {
    fn connect(&self) -> io::Result<Channel> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *next, Next::None) {
            Next::Control { sink, back } => {
                let ((ours, theirs), (asked, demand)) = (Channel::pair()?, Channel::pair()?);
                let recorder = Recorder { peer: ours, wake: Wake::new()?, sink: Some(sink), scanner: Scanner::new() };
                let run = move || recorder.run(asked, back);
                std::thread::Builder::new().name("mig-record".into()).spawn(run)?;
                *next = Next::Demand(Box::new(demand));
                Ok(theirs)
            }
            Next::Demand(channel) => Ok(*channel),
            Next::None => Err(io::Error::other("a stream cannot be opened again: give it anew with 'migrate -r'")),
        }
    }
}

/// The thread behind the channels.
struct Recorder {
    /// The control channel.
    peer: Channel,
    /// Nobody rings it.
    wake: Wake,
    /// `None` once the stream is whole, or cannot be.
    sink: Option<Box<dyn Sink>>,
    scanner: Scanner,
}

impl Recorder {
    fn run(mut self, demand: Channel, back: Option<OwnedFd>) {
        if let Err(error) = self.carry(demand, back) {
            log::debug!("nothing more goes over the stream: {}", sentence(&error));
        }
    }

    /// Until the source closes its channels.
    fn carry(&mut self, demand: Channel, back: Option<OwnedFd>) -> Result<(), ChannelError> {
        let hello = self.read_hello()?;
        // What follows is of this version, whichever others the source speaks.
        let first = Hello { versions: (VERSION_MAX, VERSION_MAX), ..hello }.encode();
        if let Some(Err(error)) =
            self.sink.as_ref().map(|sink| write_all(sink.fd(), &first, (self.peer.as_fd(), PollFlags::empty())))
        {
            return self.refuse(&format!("the stream could not be written: {error}"));
        }
        if let Some(back) = back {
            match await_answer(&back, &self.peer)? {
                Some(answer) => return self.multiplex(&answer, demand, &back),
                None => {
                    log::info!("nobody answers on the stream: it goes one way, and the migration is a precopy");
                    drain(back)?;
                }
            }
        }
        // A destination that can do nothing but take pages as they are.
        let welcome = Answer::Welcome { version: VERSION_MAX, features: Features::default() }.encode();
        if hello.recover {
            return self.refuse("nobody answers on the stream, and a postcopy is joined by its own destination only");
        }
        // Without postcopy nothing is asked for on the demand channel: nobody has to listen.
        for channel in [&self.peer, &demand] {
            channel.send(&welcome, &self.wake, &|| false)?;
        }
        let Err(error) = self.record();
        Err(error)
    }

    /// The source hears that the stream is of no use.
    fn refuse(&self, why: &str) -> Result<(), ChannelError> {
        self.peer.send(&Answer::Refused(why.to_owned()).encode(), &self.wake, &|| false)
    }

    /// A destination has answered: both channels go over the stream, this way and that.
    fn multiplex(&mut self, answer: &[u8], demand: Channel, back: &OwnedFd) -> Result<(), ChannelError> {
        self.peer.send(answer, &self.wake, &|| false)?;
        self.keep(&FRAMES)?;
        let Some(sink) = self.sink.take() else { return Ok(()) };
        let control = std::mem::replace(&mut self.peer, Channel::pair()?.0);
        Multiplex::new(back, sink.fd(), control, demand).run()?;
        // The command, if it is one, brings away what it still has.
        Ok(sink.commit()?)
    }

    /// Until the source closes the channel.
    fn record(&mut self) -> Result<Infallible, ChannelError> {
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

/// A destination's answer to the hello, once it is whole; `None` if nobody answers. [`ChannelError::Closed`] if the source has closed its channel.
fn await_answer(back: &OwnedFd, peer: &Channel) -> Result<Option<Vec<u8>>, ChannelError> {
    let deadline = Instant::now() + ANSWERS_WITHIN;
    let mut answer = Vec::new();
    loop {
        let wanted = match answer.first_chunk::<{ Answer::LEN }>() {
            None => Answer::LEN,
            // Whatever a command prints that is no destination is none's answer.
            Some(fixed) => match Answer::text_len(fixed) {
                Ok(text) => Answer::LEN + text,
                Err(_) => return Ok(None),
            },
        };
        if answer.len() == wanted {
            return Ok(Some(answer));
        }
        let mut bytes = vec![0; wanted - answer.len()];
        match nix::unistd::read(back, &mut bytes) {
            Ok(0) => return Ok(None),
            Ok(count) => answer.extend_from_slice(&bytes[..count]),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::ZERO);
                let mut fds =
                    [PollFd::new(back.as_fd(), PollFlags::POLLIN), PollFd::new(peer.as_fd(), PollFlags::empty())];
                if poll(&mut fds, timeout).map_err(io::Error::from)? == 0 {
                    return Ok(None);
                }
                if fds[1].any().unwrap_or(false) {
                    return Err(ChannelError::Closed(None));
                }
            }
            Err(error) => return Err(ChannelError::Io(error.into())),
        }
    }
}

/// Takes what a command prints, so that it can print.
fn drain(back: OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&back, FcntlArg::F_GETFL)?);
    fcntl(&back, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    let drain = move || drop(io::copy(&mut File::from(back), &mut io::sink()));
    std::thread::Builder::new().name("mig-drain".into()).spawn(drain)?;
    Ok(())
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
