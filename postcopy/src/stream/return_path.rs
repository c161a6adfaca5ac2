//! [`ReturnPath`]: what is said on a stream's way back, where a destination may answer, a program
//! prints, or nobody says anything.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::channel::{Channel, ChannelError, Wake};
use crate::wire::{Answer, Features};

/// What is read at once, in bytes.
const READ: usize = 16 * 1024;
/// So often a pipe is read that may be full.
const LAST_READS: usize = 8;

/// What is known of whoever reads the stream.
#[derive(Default)]
pub(super) struct Heard {
    /// A destination has answered.
    pub answered: AtomicBool,
    /// What it can do, once it was joined after the beginning.
    pub joined: OnceLock<Features>,
}

/// The way back of a stream.
pub(super) struct ReturnPath {
    /// `None` once it has ended: non-blocking.
    pub back: Option<OwnedFd>,
    /// A destination that answers is joined.
    pub joins: bool,
    /// An answer is waited for, before anything else is said: it need not be joined behind a
    /// message.
    awaits: bool,
    pub heard: Arc<Heard>,
    said: Said,
}

/// What has been said so far.
enum Said {
    /// The begin of an answer, as far as one can tell.
    Part(Vec<u8>),
    /// A destination's whole answer.
    Answer(Vec<u8>),
    /// It was taken, or what is said is none.
    Nothing,
}

impl ReturnPath {
    pub fn new(back: Option<OwnedFd>, heard: Arc<Heard>) -> Self {
        Self { back, joins: true, awaits: true, heard, said: Said::Part(Vec::new()) }
    }

    /// Hears what has been said by now. It never waits.
    pub fn listen(&mut self) {
        if matches!(self.said, Said::Answer(_)) && !self.can_join() && !self.awaits {
            // It came too late to be joined, or the destination cannot be: what follows is not for
            // anybody.
            self.said = Said::Nothing;
        }
        let Some(back) = &self.back else { return };
        // Beyond an answer nothing may be taken: whoever is joined reads on from there.
        let mut buffer = [0; READ];
        let wanted = match &self.said {
            Said::Part(part) => match wanted(part) {
                Some(wanted) => wanted - part.len(),
                None => READ,
            },
            Said::Answer(_) => return,
            Said::Nothing => READ,
        };
        match nix::unistd::read(back, &mut buffer[..wanted.min(READ)]) {
            Ok(0) => self.back = None,
            Ok(count) => self.take(&buffer[..count]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.back = None,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let Said::Part(part) = &mut self.said else { return pass_on(bytes) };
        part.extend_from_slice(bytes);
        match wanted(part) {
            Some(wanted) if wanted == part.len() => {
                self.heard.answered.store(true, Ordering::Release);
                self.said = Said::Answer(std::mem::take(part));
            }
            Some(_) => {}
            None => {
                // Whatever a command prints that is no destination is nobody's answer.
                pass_on(part);
                self.said = Said::Nothing;
            }
        }
    }

    /// What becomes readable when there is something to listen to.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.said {
            // One that is held is not followed by anything before it is joined.
            Said::Answer(_) if self.can_join() => None,
            _ => self.back.as_ref().map(AsFd::as_fd),
        }
    }

    /// Waits for an answer, but no longer than until then, or until it is certain that there will
    /// be none. [`ChannelError::Closed`] if the source has closed its channel.
    pub fn listen_until(&mut self, deadline: Instant, peer: &Channel) -> Result<(), ChannelError> {
        let listened = self.await_answer(deadline, peer);
        self.awaits = false;
        listened
    }

    fn await_answer(&mut self, deadline: Instant, peer: &Channel) -> Result<(), ChannelError> {
        loop {
            self.listen();
            let (Some(back), Said::Part(_)) = (&self.back, &self.said) else { return Ok(()) };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let timeout = PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::ZERO);
            let mut fds = [PollFd::new(back.as_fd(), PollFlags::POLLIN), PollFd::new(peer.as_fd(), PollFlags::empty())];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
            if fds[1].any().unwrap_or(false) {
                return Err(ChannelError::Closed(None));
            }
        }
    }

    /// Whether a destination has answered that can be joined behind a message, and is to be.
    pub fn can_join(&self) -> bool {
        match &self.said {
            Said::Answer(answer) => self.joins && welcome_in(answer).is_some_and(|it| it.contains(Features::JOINS)),
            _ => false,
        }
    }

    /// The answer, if there is one: once.
    pub fn take_answer(&mut self) -> Option<Vec<u8>> {
        match std::mem::replace(&mut self.said, Said::Nothing) {
            Said::Answer(answer) => Some(answer),
            other => {
                self.said = other;
                None
            }
        }
    }

    /// Goes on listening while `work` is done: a command may have to print before it can end.
    pub fn listen_while<T>(&mut self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.back.is_none() {
            return work();
        }
        let done = Wake::new()?;
        std::thread::scope(|scope| {
            let listening = std::thread::Builder::new().name("mig-listen".into());
            listening.spawn_scoped(scope, || self.listen_until_rung(&done))?;
            let result = work();
            done.ring();
            result
        })
    }

    fn listen_until_rung(&mut self, done: &Wake) {
        loop {
            let Some(back) = &self.back else { return };
            let mut fds = [PollFd::new(back.as_fd(), PollFlags::POLLIN), PollFd::new(done.as_fd(), PollFlags::POLLIN)];
            if !matches!(poll(&mut fds, PollTimeout::NONE), Ok(_) | Err(Errno::EINTR)) {
                return;
            }
            let [said, done] = fds.map(|fd| fd.any().unwrap_or(false));
            if done {
                // What it said before its end, an answer among it perhaps; another program that
                // goes on is not waited for.
                (0..LAST_READS).for_each(|_| self.listen());
                return;
            }
            if said {
                self.listen();
            }
        }
    }
}

/// How many bytes an answer has that begins so; `None` if it is none.
fn wanted(part: &[u8]) -> Option<usize> {
    match part.first_chunk::<{ Answer::LEN }>() {
        None if Answer::begins_so(part) => Some(Answer::LEN),
        None => None,
        Some(fixed) => Answer::text_len(fixed).ok().map(|text| Answer::LEN + text),
    }
}

/// What a destination can do that has welcomed the source.
pub(super) fn welcome_in(answer: &[u8]) -> Option<Features> {
    let (fixed, text) = answer.split_first_chunk::<{ Answer::LEN }>()?;
    match Answer::decode(fixed, text) {
        Ok(Answer::Welcome { features, .. }) => Some(features),
        _ => None,
    }
}

/// What a command prints is for whoever reads the log, if it can be read at all.
fn pass_on(bytes: &[u8]) {
    let is_text = |text: &str| !text.chars().any(|it| it.is_control() && !matches!(it, '\n' | '\r' | '\t'));
    if std::str::from_utf8(bytes).is_ok_and(is_text) {
        let _ = io::stderr().write_all(bytes);
    }
}
