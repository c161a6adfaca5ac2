//! [`Recording`]: the source's channels, where what comes over them is kept.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};

use super::multiplex::{FRAMES, Multiplex};
use super::return_path::{Heard, ReturnPath, welcome_in};
use super::scan::{Passed, Scanner};
use super::sink::Sink;
use super::{BUFFER, StreamFileError, receive, receive_all, set_nonblocking};
use crate::channel::{Channel, ChannelError, Connector, Wake};
use crate::error::sentence;
use crate::logging as log;
use crate::wire::{Answer, Features, Hello, Reply, VERSION_MAX, tag};

/// The source is gone: for so long what it said last is still written to who takes it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Gives the channels of one migration, and writes what comes over them to a [`Sink`].
///
/// A thread of its own, which ends with the channels, does the writing; what cannot be written ends
/// the migration with a reason, and the guest stays. It goes one way from the first byte on: a
/// precopy that is recorded. Where there is a way back, and a destination answers on it before the
/// guest's state was written, the stream carries both channels from there on, and a migration of
/// any kind.
pub struct Recording {
    next: Mutex<Next>,
    heard: Arc<Heard>,
}

/// Which channel is asked for next.
enum Next {
    Control { sink: Box<dyn Sink>, back: Option<(OwnedFd, Listening)> },
    Demand(Box<Channel>),
    None,
}

/// How long a source listens for an answer before it goes on. An answer that comes later is heard,
/// too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    /// Without one nothing can begin: a postcopy was asked for from the first page on, or pages
    /// that are not whole.
    Needed,
    /// A postcopy may be asked for: a destination that is there already is heard before the first
    /// page is sent.
    Wished,
    /// Not at all.
    Aside,
}

impl Listening {
    const fn time(self) -> Duration {
        match self {
            // Less than a source waits for its destination.
            Self::Needed => Duration::from_secs(8),
            Self::Wished => Duration::from_millis(100),
            Self::Aside => Duration::ZERO,
        }
    }
}

impl Recording {
    /// Into `sink`.
    pub fn new(sink: Box<dyn Sink>) -> Self {
        Self { next: Mutex::new(Next::Control { sink, back: None }), heard: Arc::default() }
    }

    /// Into `sink`; `back` is where somebody may answer. Errors: it cannot be put into non-blocking
    /// mode.
    pub fn with_way_back(sink: Box<dyn Sink>, back: OwnedFd, listening: Listening) -> io::Result<Self> {
        set_nonblocking(back.as_fd())?;
        let back = Some((back, listening));
        Ok(Self { next: Mutex::new(Next::Control { sink, back }), heard: Arc::default() })
    }
}

impl Connector for Recording {
    fn connect(&self) -> io::Result<Channel> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *next, Next::None) {
            Next::Control { sink, back } => {
                let ((ours, theirs), (asked, demand)) = (Channel::pair()?, Channel::pair()?);
                let (back, listening) = back.map_or((None, Listening::Aside), |(back, it)| (Some(back), it));
                let recorder = Recorder {
                    peer: ours,
                    wake: Wake::new()?,
                    sink: Some(sink),
                    scanner: Scanner::new(),
                    return_path: ReturnPath::new(back, self.heard.clone()),
                    left_since: None,
                };
                let run = move || recorder.run(asked, listening);
                std::thread::Builder::new().name("mig-record".into()).spawn(log::carried(run))?;
                *next = Next::Demand(Box::new(demand));
                Ok(theirs)
            }
            Next::Demand(channel) => Ok(*channel),
            Next::None => Err(io::Error::other(StreamFileError::Used)),
        }
    }

    fn only_keeps(&self) -> bool {
        !self.heard.answered.load(Ordering::Acquire)
    }

    fn joined_late(&self) -> Option<Features> {
        self.heard.joined.get().copied()
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
    return_path: ReturnPath,
    /// Since when the source has been gone, while something is still to be written.
    left_since: Option<Instant>,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(sink) = &self.sink {
            end_stream(sink.fd());
        }
    }
}

/// What follows the bytes that were taken.
enum Then {
    More,
    /// A destination has answered: it is joined behind so many of them.
    Join(Vec<u8>, usize),
}

impl Recorder {
    fn run(mut self, demand: Channel, listening: Listening) {
        if let Err(error) = self.carry(demand, listening) {
            log::debug!("nothing more goes over the stream: {}", sentence(&error));
        }
    }

    /// Until the source closes its channels.
    fn carry(&mut self, demand: Channel, listening: Listening) -> Result<(), ChannelError> {
        let hello = self.read_hello()?;
        // What follows is of this version, whichever others the source speaks.
        let first = Hello { versions: (VERSION_MAX, VERSION_MAX), ..hello }.encode();
        if let Err(error) = self.write(&first) {
            // Told as whatever fails later is: a stream has no peer that refuses.
            self.welcome(&demand)?;
            self.unwritten(error)?;
            return self.record().map(|_| ());
        }
        let listening = if hello.recover { Listening::Needed } else { listening };
        self.return_path.listen_until(Instant::now() + listening.time(), &self.peer)?;
        if let Some(answer) = self.return_path.take_answer() {
            self.peer.send(&answer, &self.wake, &|| false)?;
            return self.multiplex(demand, &[]);
        }
        if listening == Listening::Needed {
            log::info!("nobody answers on the stream: it goes one way, and can carry no more than a precopy");
        }
        if hello.recover {
            return self.refuse("nobody answers on the stream, and a postcopy is joined by its own destination only");
        }
        self.welcome(&demand)?;
        let (answer, rest) = self.record()?;
        self.join(&answer, demand, &rest)
    }

    /// The source hears of a destination that can do nothing but take pages as they are.
    fn welcome(&self, demand: &Channel) -> Result<(), ChannelError> {
        let welcome = Answer::Welcome { version: VERSION_MAX, features: Features::default() }.encode();
        // Without postcopy nothing is asked for on the demand channel: nobody has to listen.
        [&self.peer, demand].into_iter().try_for_each(|channel| channel.send(&welcome, &self.wake, &|| false))
    }

    /// The source hears that the stream is of no use.
    fn refuse(&self, why: &str) -> Result<(), ChannelError> {
        self.peer.send(&Answer::Refused(why.to_owned()).encode(), &self.wake, &|| false)
    }

    /// A destination has answered while a precopy was being written: it has read what was, and was
    /// answered for. `rest` is what follows.
    fn join(&mut self, answer: &[u8], demand: Channel, rest: &[u8]) -> Result<(), ChannelError> {
        // The source greeted on this channel, too, before it said anything else, and was answered
        // in the destination's place.
        receive_all(&demand, &mut [0; Hello::LEN], &self.wake)?;
        if let Some(features) = welcome_in(answer) {
            let _ = self.heard().joined.set(features);
        }
        self.multiplex(demand, rest)
    }

    fn heard(&self) -> &Heard {
        &self.return_path.heard
    }

    /// A destination is there: both channels go over the stream, this way and that. `rest` was read
    /// of the control channel already.
    fn multiplex(&mut self, demand: Channel, rest: &[u8]) -> Result<(), ChannelError> {
        self.keep(&FRAMES)?;
        let (Some(sink), Some(back)) = (self.sink.take(), self.return_path.back.take()) else { return Ok(()) };
        let control = std::mem::replace(&mut self.peer, Channel::pair()?.0);
        let ended = Multiplex::new(&back, sink.fd(), control, demand).with_control(rest).run();
        end_stream(sink.fd());
        ended?;
        // The command, if it is one, brings away what it still has.
        Ok(sink.commit()?)
    }

    /// Answers for a destination while the stream is written; gives a real one's answer and what
    /// was read beyond it, where one is to be joined.
    fn record(&mut self) -> Result<(Vec<u8>, Vec<u8>), ChannelError> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let mut fds = vec![PollFd::new(self.peer.as_fd(), PollFlags::POLLIN)];
            fds.extend(self.return_path.fd().map(|back| PollFd::new(back, PollFlags::POLLIN)));
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
            let (said, answers) =
                (fds[0].any().unwrap_or(false), fds.get(1).is_some_and(|fd| fd.any().unwrap_or(false)));
            if answers {
                self.return_path.listen();
            }
            if said {
                let count = receive(&self.peer, &mut buffer, &self.wake)?;
                if let Then::Join(answer, at) = self.take(&buffer[..count])? {
                    return Ok((answer, buffer[at..count].to_vec()));
                }
            }
        }
    }

    fn read_hello(&self) -> Result<Hello, ChannelError> {
        let mut hello = [0; Hello::LEN];
        receive_all(&self.peer, &mut hello, &self.wake)?;
        Ok(Hello::decode(&hello)?)
    }

    /// Writes what was read and answers what is to be answered, once everything up to it is
    /// written.
    fn take(&mut self, bytes: &[u8]) -> Result<Then, ChannelError> {
        let (mut written, mut at) = (0, 0);
        while self.sink.is_some() && at < bytes.len() {
            match self.scanner.next(&bytes[at..]) {
                Ok((count, passed)) => {
                    at += count;
                    let Some(passed) = passed else { continue };
                    let ends = passed.tag == tag::STATE;
                    if is_answered(passed.tag) {
                        self.keep(&bytes[written..at])?;
                        written = at;
                        self.answer(passed)?;
                    }
                    if ends {
                        // The guest stands still and goes the way on which it was sent.
                        self.return_path.joins = false;
                    } else if self.return_path.can_join() {
                        self.keep(&bytes[written..at])?;
                        if let Some(answer) = self.return_path.take_answer().filter(|_| self.sink.is_some()) {
                            return Ok(Then::Join(answer, at));
                        }
                        written = at;
                    }
                }
                Err(error) => self.give_up(&sentence(&error))?,
            }
        }
        self.keep(&bytes[written..])?;
        Ok(Then::More)
    }

    /// Writes, unless that failed before.
    fn keep(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        match self.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Err(ChannelError::Closed(None)),
            Err(error) => self.unwritten(error),
            Ok(()) => Ok(()),
        }
    }

    /// Nothing more can be written, and the source hears why.
    fn unwritten(&mut self, error: io::Error) -> Result<(), ChannelError> {
        let Some(mut sink) = self.sink.take() else { return Ok(()) };
        end_stream(sink.fd());
        let why = sentence(&sink.unwritten(error));
        self.say(&Reply::NotStarted(format!("the stream could not be written: {why}")))
    }

    /// Writes all, and hears meanwhile what is said on the way back: a command that cannot print
    /// does not read either. [`io::ErrorKind::ConnectionAborted`] if this had to wait and the
    /// source is gone.
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let Self { sink: Some(sink), return_path, peer, left_since, .. } = self else { return Ok(()) };
        while !bytes.is_empty() {
            match nix::unistd::write(sink.fd(), bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    // Once the source is gone its channel would end every wait.
                    let here = if left_since.is_none() { Some(peer.as_fd()) } else { None };
                    let timeout = match left_since {
                        None => PollTimeout::NONE,
                        Some(since) => {
                            let left = LAST_WORDS.saturating_sub(since.elapsed());
                            PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::ZERO)
                        }
                    };
                    let mut fds = vec![PollFd::new(sink.fd(), PollFlags::POLLOUT)];
                    fds.extend(here.map(|peer| PollFd::new(peer, PollFlags::empty())));
                    fds.extend(return_path.fd().map(|back| PollFd::new(back, PollFlags::POLLIN)));
                    match poll(&mut fds, timeout) {
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                    let happened = |at: usize| fds.get(at).is_some_and(|fd| fd.any().unwrap_or(false));
                    let gone = here.is_some() && happened(1);
                    if happened(1 + usize::from(here.is_some())) {
                        return_path.listen();
                    }
                    if gone {
                        *left_since = Some(Instant::now());
                    }
                    // Who reads on may have the last words. Nobody has to.
                    if left_since.is_some_and(|since| since.elapsed() >= LAST_WORDS) {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What a destination would say to this.
    fn answer(&mut self, Passed { tag, first }: Passed) -> Result<(), ChannelError> {
        if self.sink.is_none() {
            return Ok(());
        }
        match tag {
            tag::DESCRIPTION => self.say(&Reply::Accepted),
            tag::BARRIER => self.say(&Reply::BarrierAck(first)),
            tag::STATE => self.say(&Reply::Ready),
            tag::COMPLETE => {
                let Some(sink) = self.sink.take() else { return Ok(()) };
                end_stream(sink.fd());
                let committed = self.return_path.listen_while(|| sink.commit());
                self.return_path.back = None;
                match committed {
                    Ok(()) => {
                        self.say(&Reply::Running)?;
                        self.say(&Reply::AllReceived)
                    }
                    Err(error) => self.give_up(&format!("the stream is not safe: {}", sentence(&error))),
                }
            }
            _ => Ok(()),
        }
    }

    /// The guest stays; whatever else the source says goes nowhere.
    fn give_up(&mut self, why: &str) -> Result<(), ChannelError> {
        if let Some(sink) = self.sink.take() {
            end_stream(sink.fd());
        }
        self.say(&Reply::NotStarted(why.to_owned()))
    }

    fn say(&self, reply: &Reply) -> Result<(), ChannelError> {
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        self.peer.send(&bytes, &self.wake, &|| false)
    }
}

/// Whoever reads a socket sees the stream's end, also where somebody else holds the socket, too.
fn end_stream(fd: BorrowedFd<'_>) {
    // Of what is no socket the end is seen when it is closed.
    let _ = shutdown(fd.as_raw_fd(), Shutdown::Write);
}

fn is_answered(tag: u16) -> bool {
    matches!(tag, tag::DESCRIPTION | tag::BARRIER | tag::STATE | tag::COMPLETE)
}

/// Writes all of `bytes`. [`io::ErrorKind::ConnectionAborted`] if this had to wait, and meanwhile
/// something (or an end) was to be seen on `end`: nobody wants them any more.
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
