//! [`Lobby`]: who has connected and not yet said who it is.
//!
//! Anybody can connect to a place where a guest is awaited. All who have are heard at the same
//! time, by one thread: a source that speaks is let in at once, however many others are silent,
//! slow or no sources at all. Each has so much time for its first words and no more; where there
//! are too many, those go first that have been here longest.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::channel::{Acceptor, Channel, ChannelError};
use crate::error::sentence;
use crate::handshake::{self, IncomingHandshake, Until};
use crate::host::{Instant, poll};
use crate::logging as log;
use crate::wire::{Answer, Hello};

/// For so long a connection may say nothing, or not enough.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many may be heard at once. Each costs a descriptor, and the machine needs some for itself.
const MOST: usize = 128;
/// A host that has no descriptor left is asked for one again so much later.
const AGAIN: Duration = Duration::from_millis(100);
/// So many of those that are turned away are told of one by one.
const TOLD: u32 = 20;

/// Somebody.
struct Visitor {
    channel: Channel,
    greeting: IncomingHandshake,
    until: Instant,
}

/// All that have connected to one acceptor.
pub(super) struct Lobby<'a> {
    acceptor: &'a dyn Acceptor,
    patience: Duration,
    /// Who came first stands first.
    visitors: VecDeque<Visitor>,
    turned_away: u32,
    /// The host has no descriptor left before then.
    full: Option<Instant>,
}

impl<'a> Lobby<'a> {
    pub fn new(acceptor: &'a dyn Acceptor) -> Self {
        Self { acceptor, patience: PATIENCE, visitors: VecDeque::new(), turned_away: 0, full: None }
    }

    /// Waits for the next channel whose hello can be read; `None` once it is `deadline`.
    /// [`ChannelError::Interrupted`] if nobody is waited for any more.
    pub fn next(
        &mut self,
        deadline: Option<Instant>,
        until: &Until<'_>,
    ) -> Result<Option<(Channel, Hello)>, ChannelError> {
        if self.acceptor.listener().is_none() {
            return self.only(until).map(Some);
        }
        loop {
            if let Some(heard) = self.hear() {
                return Ok(Some(heard));
            }
            if self.take_in()? {
                continue;
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(None);
            }
            self.wait(deadline, until)?;
        }
    }

    /// Of an acceptor to which nobody connects but the source: it gives the channels one by one.
    fn only(&mut self, until: &Until<'_>) -> Result<(Channel, Hello), ChannelError> {
        loop {
            let channel = match self.acceptor.accept(until.wake) {
                // Most often the fault loop that lost its old channel; only the end of the process
                // ends this wait.
                Err(ChannelError::Interrupted) if !(until.give_up)() => continue,
                accepted => accepted?,
            };
            match handshake::hello(&channel, until) {
                Ok(hello) => return Ok((channel, hello)),
                Err(error @ ChannelError::Interrupted) => return Err(error),
                Err(error) => self.refuse(&channel, &error, true),
            }
        }
    }

    /// Hears everybody out as far as they have spoken, to the first who has said all.
    fn hear(&mut self) -> Option<(Channel, Hello)> {
        let now = Instant::now();
        let mut at = 0;
        while let Some(visitor) = self.visitors.get_mut(at) {
            match visitor.greeting.go_on(&visitor.channel) {
                Ok(Some(hello)) => return self.visitors.remove(at).map(|visitor| (visitor.channel, hello)),
                // However many bytes came: one that says little by little is as good as silent.
                Ok(None) if visitor.until <= now => self.send_off(at, &ChannelError::Io(ErrorKind::TimedOut.into())),
                Ok(None) => at += 1,
                Err(error) => self.send_off(at, &error),
            }
        }
        None
    }

    /// Takes in all that wait at the door; whether anybody came.
    fn take_in(&mut self) -> Result<bool, ChannelError> {
        if self.full.is_some_and(|full| Instant::now() < full) {
            return Ok(false);
        }
        self.full = None;
        for taken in 0..MOST {
            match self.acceptor.try_accept() {
                Ok(channel) => {
                    if self.visitors.len() == MOST {
                        self.send_off(0, &too_many());
                    }
                    let (greeting, until) = (IncomingHandshake::on(&channel), Instant::now() + self.patience);
                    self.visitors.push_back(Visitor { channel, greeting, until });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(taken > 0),
                Err(error) if lacks_descriptors(&error) => {
                    // Those that are silent must not use up what the machine itself needs.
                    for _ in 0..self.visitors.len().div_ceil(2) {
                        self.send_off(0, &too_many());
                    }
                    self.full = Some(Instant::now() + AGAIN);
                    return Ok(taken > 0);
                }
                // One connection that failed is no reason to give up on all others.
                Err(error) if is_of_one_connection(&error) => log::debug!("a connection failed: {error}"),
                Err(error) => return Err(ChannelError::Io(error)),
            }
        }
        Ok(true)
    }

    fn wait(&self, deadline: Option<Instant>, until: &Until<'_>) -> Result<(), ChannelError> {
        let first = self.visitors.front().map(|visitor| visitor.until);
        let next = [first, deadline, self.full].into_iter().flatten().min();
        let timeout = match next {
            None => PollTimeout::NONE,
            Some(next) => {
                let left = next.saturating_duration_since(Instant::now());
                PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = vec![PollFd::new(until.wake.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.visitors.iter().map(|it| PollFd::new(it.channel.as_fd(), it.greeting.waits_for())));
        if let (Some(listener), None) = (self.acceptor.listener(), self.full) {
            fds.push(PollFd::new(listener, PollFlags::POLLIN));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(ChannelError::Io(error.into())),
        }
        if fds[0].any().unwrap_or(false) {
            until.wake.clear();
            if (until.give_up)() {
                return Err(ChannelError::Interrupted);
            }
        }
        Ok(())
    }

    /// Lets go of one visitor, for this reason.
    fn send_off(&mut self, at: usize, why: &ChannelError) {
        if let Some(visitor) = self.visitors.remove(at) {
            self.refuse(&visitor.channel, why, visitor.greeting.is_secured());
        }
    }

    /// Tells the log, and the peer if it `hears` words.
    fn refuse(&mut self, channel: &Channel, why: &ChannelError, hears: bool) {
        let why = sentence(why);
        self.tell(&why);
        if hears {
            say(channel, &why);
        }
    }

    /// Turns a channel away that was heard.
    pub fn turn_away(&mut self, channel: &Channel, why: &str) {
        self.tell(why);
        say(channel, why);
    }

    fn tell(&mut self, why: &str) {
        self.turned_away = self.turned_away.saturating_add(1);
        match self.turned_away {
            0..=TOLD => log::warn!("a connection was turned away: {why}"),
            number if number == TOLD + 1 => {
                log::warn!("a connection was turned away: {why}; those that follow are not told of one by one");
            }
            _ => log::debug!("a connection was turned away: {why}"),
        }
    }
}

/// As far as the channel takes it at once: whoever does not listen is no concern of ours.
fn say(channel: &Channel, why: &str) {
    channel.say_at_once(&Answer::Refused(why.to_owned()).encode());
}

fn too_many() -> ChannelError {
    ChannelError::Io(io::Error::other("it said nothing, and too many others have connected since"))
}

fn lacks_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// What accept(2) hands on of the network's errors: to be treated as if nobody had come.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ENETDOWN
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
                | libc::ETIMEDOUT
                | libc::ECONNRESET
                | libc::EINVAL
                | libc::EINTR
        )
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;
    use crate::channel::{Listener, TcpAddress, Wake};
    use crate::wire::{ChannelKind, Features, Token};

    fn listener() -> (Listener, impl Fn() -> TcpStream) {
        let listener = Listener::tcp(&TcpAddress { host: "127.0.0.1".into(), port: 0 }).unwrap();
        let address = listener.address().unwrap();
        (listener, move || TcpStream::connect(address).unwrap())
    }

    fn hello() -> [u8; Hello::LEN] {
        let features = Features::default();
        Hello { versions: (1, 1), kind: ChannelKind::Control, recover: false, token: Token([7; 16]), features }.encode()
    }

    /// What the destination says before it closes the connection.
    fn last_words(mut stranger: &TcpStream) -> String {
        let mut said = Vec::new();
        stranger.read_to_end(&mut said).unwrap();
        String::from_utf8_lossy(&said).into_owned()
    }

    #[test]
    fn who_says_nothing_or_too_little_is_let_go_of_after_a_time() {
        let (listener, connect) = listener();
        let (silent, mut slow) = (connect(), connect());
        slow.write_all(&hello()[..39]).unwrap();
        let mut lobby = Lobby { patience: Duration::from_millis(1), ..Lobby::new(&listener) };
        let wake = Wake::new().unwrap();
        let until = Until { wake: &wake, give_up: &|| false };
        // Nobody else is to be heard until both are gone.
        while lobby.next(Some(Instant::now() + Duration::from_millis(5)), &until).unwrap().is_none() {
            if lobby.turned_away == 2 {
                break;
            }
        }
        assert!(last_words(&silent).contains("timed out"));
        assert!(last_words(&slow).contains("timed out"));
    }

    #[test]
    fn however_many_are_silent_who_speaks_is_heard_and_only_so_many_are_kept() {
        let (listener, connect) = listener();
        let mut lobby = Lobby::new(&listener);
        let wake = Wake::new().unwrap();
        let until = Until { wake: &wake, give_up: &|| false };
        let mut silent = Vec::new();
        const STRANGERS: usize = MOST + 72;
        for _ in 0..STRANGERS {
            silent.push(connect());
            while lobby.take_in().unwrap() {}
        }
        assert_eq!(lobby.visitors.len(), MOST);
        let mut source = connect();
        source.write_all(&hello()).unwrap();
        let (_, heard) = lobby.next(None, &until).unwrap().unwrap();
        assert_eq!(heard.token, Token([7; 16]));
        // Those that were here longest went first, and know why.
        for gone in &silent[..STRANGERS - MOST + 1] {
            let words = last_words(gone);
            assert!(words.contains("too many others"), "{words}");
        }
        drop(lobby);
        assert!(silent[STRANGERS - MOST + 1..].iter().all(|it| last_words(it).is_empty()));
    }

    #[test]
    fn what_is_no_hello_is_turned_away_by_its_first_bytes() {
        let (listener, connect) = listener();
        let mut stranger = connect();
        stranger.write_all(b"GET / HTTP").unwrap();
        drop(connect());
        let mut source = connect();
        let mut lobby = Lobby::new(&listener);
        let wake = Wake::new().unwrap();
        let until = Until { wake: &wake, give_up: &|| false };
        let soon = || Some(Instant::now() + Duration::from_millis(5));
        while lobby.turned_away < 2 {
            assert!(lobby.next(soon(), &until).unwrap().is_none());
        }
        assert!(last_words(&stranger).contains("does not speak"));
        source.write_all(&hello()).unwrap();
        assert!(lobby.next(None, &until).unwrap().is_some());
    }

    #[test]
    fn whoever_ends_the_wait_is_heard_beside_strangers() {
        let (listener, connect) = listener();
        let _stranger = connect();
        let mut lobby = Lobby::new(&listener);
        let wake = Wake::new().unwrap();
        wake.ring();
        let until = Until { wake: &wake, give_up: &|| true };
        assert!(matches!(lobby.next(None, &until), Err(ChannelError::Interrupted)));
    }
}
