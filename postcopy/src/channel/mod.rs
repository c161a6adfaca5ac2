//! Byte streams between two hosts: connecting, listening, reading messages, sending batches.
//!
//! A [`Channel`] never blocks by itself: every wait is a `poll` together with a [`Wake`], so that a
//! cancel, a new limit or a shutdown reaches a thread that waits for its peer.

mod address;
mod batch;
mod lend;
mod network;
mod private;
mod raw;
mod reader;
mod wake;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{self, MsgFlags, Shutdown, sockopt};

pub use address::{Acceptor, Connector, Listener, TcpAddress, UnixAddress};
pub use batch::Batch;
pub use network::Network;
pub use private::listen_private;
pub use reader::MessageReader;
pub use wake::Wake;

use crate::memory::RawSlice;
use crate::wire::{DecodeError, HelloError};

/// How long a silent peer is believed alive: TCP keepalive and TCP_USER_TIMEOUT.
pub const KEEPALIVE: Duration = Duration::from_secs(10);

/// A send that waits for room asks so often whether it is still wanted, also if nobody rings.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What can go wrong on a channel.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The peer ended the stream where no message begins or ends by agreement.
    #[error("the peer closed the connection{}", .0.map(|name| format!(" in the middle of message '{name}'")).unwrap_or_default())]
    Closed(Option<&'static str>),
    /// The network.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// What came is no message.
    #[error("the peer sent something that is not of the protocol")]
    Decode(#[from] DecodeError),
    /// The first bytes are not ours.
    #[error("the channel was not opened")]
    Hello(#[from] HelloError),
    /// The peer refused, with its reason.
    #[error("the peer refused: {0}")]
    Refused(String),
    /// Somebody on this side wants the thread.
    #[error("interrupted")]
    Interrupted,
}

impl From<io::Error> for ChannelError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
                Self::Closed(None)
            }
            _ => Self::Io(error),
        }
    }
}

/// What a wait ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Bytes (or the end of the stream) can be read.
    pub readable: bool,
    /// Bytes can be sent.
    pub writable: bool,
    /// The [`Wake`] was rung.
    pub woken: bool,
}

/// One connected stream socket.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    /// The peer is a process of this host, behind a unix socket.
    local: bool,
}

impl Channel {
    /// Takes a connected stream socket and sets it up: non-blocking, without Nagle's delay, with keepalive.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let flags = nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_GETFL)?;
        let flags = nix::fcntl::OFlag::from_bits_retain(flags) | nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(flags))?;
        let mut channel = Self { socket, local: false };
        channel.tune();
        Ok(channel)
    }

    /// Two ends connected to each other.
    pub fn pair() -> io::Result<(Self, Self)> {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType};
        let (a, b) = socket::socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self::new(a)?, Self::new(b)?))
    }

    /// Options that make a stream fast and its death noticed. None is needed for correctness, so a refusal is no error.
    fn tune(&mut self) {
        let seconds = KEEPALIVE.as_secs() as u32;
        self.local = socket::setsockopt(self, sockopt::TcpNoDelay, &true).is_err();
        if !self.local {
            let set = [
                socket::setsockopt(self, sockopt::KeepAlive, &true),
                socket::setsockopt(self, sockopt::TcpKeepIdle, &(seconds / 2)),
                socket::setsockopt(self, sockopt::TcpKeepInterval, &(seconds / 5)),
                socket::setsockopt(self, sockopt::TcpKeepCount, &3),
                socket::setsockopt(self, sockopt::TcpUserTimeout, &(seconds * 1000)),
            ];
            if let Some(Err(error)) = set.into_iter().find(Result::is_err) {
                log::warn!("a broken link may go unnoticed: setting TCP keepalive failed: {error}");
            }
        } else {
            // A unix socket's default holds 50 pages; with more in flight both ends work instead of waking each other.
            let _ = socket::setsockopt(self, sockopt::SndBufForce, &(4 << 20))
                .or_else(|_| socket::setsockopt(self, sockopt::SndBuf, &(4 << 20)));
        }
    }

    /// Ends both directions; a thread that waits on the channel wakes up with an end of stream.
    pub fn shutdown(&self) {
        // A peer that is gone already makes this fail, which changes nothing.
        let _ = socket::shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }

    /// Whether the peer is gone. What it sent before is not consumed.
    pub fn is_closed(&self) -> bool {
        let mut byte = [0];
        match socket::recv(self.socket.as_raw_fd(), &mut byte, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK) {
            Ok(count) => count == 0,
            Err(error) => !matches!(error, nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR),
        }
    }

    /// Ends this side's receiving: a thread that waits for bytes wakes up with an end of stream. A last word can still be sent.
    pub fn stop_receiving(&self) {
        let _ = socket::shutdown(self.socket.as_raw_fd(), Shutdown::Read);
    }

    /// Ends this side's sending: what was sent still arrives.
    pub fn finish(&self) {
        let _ = socket::shutdown(self.socket.as_raw_fd(), Shutdown::Write);
    }

    /// Waits until the channel is readable, or also writable if `write`, or `wake` rings, or `timeout` is over.
    pub fn wait(&self, write: bool, wake: &Wake, timeout: Option<Duration>) -> io::Result<Ready> {
        let mut wanted = PollFlags::POLLIN;
        if write {
            // A waiting writer must not be woken by what it does not read.
            wanted = PollFlags::POLLOUT;
        }
        let timeout = match timeout {
            None => PollTimeout::NONE,
            Some(time) => PollTimeout::try_from(time.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX),
        };
        let mut fds = [PollFd::new(self.socket.as_fd(), wanted), PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
        match nix::poll::poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = PollFlags::POLLHUP | PollFlags::POLLERR;
        let of = |at: usize| fds[at].revents().unwrap_or(PollFlags::empty());
        Ok(Ready {
            readable: of(0).intersects(PollFlags::POLLIN | ended),
            writable: of(0).intersects(PollFlags::POLLOUT | ended),
            woken: of(1).intersects(PollFlags::POLLIN),
        })
    }

    /// Waits until the channel is readable or its stream has ended.
    fn wait_readable(&self) -> io::Result<()> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match nix::poll::poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Receives what is there into `buffer`. `WouldBlock` when nothing is; 0 at the end of the stream.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(socket::recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?)
    }

    /// Like [`Channel::receive`], straight into guest RAM.
    fn receive_raw(&self, target: RawSlice<'_>) -> io::Result<usize> {
        raw::receive(self.as_fd(), target)
    }

    /// Sends all the pieces, waiting as needed. `interrupted` is asked after every wait: also whenever `wake` rings, and
    /// from time to time.
    fn send_all(
        &self,
        pieces: &[RawSlice<'_>],
        wake: &Wake,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<(), ChannelError> {
        let mut at = 0;
        let mut pieces = pieces.to_vec();
        while at < pieces.len() {
            match raw::send(self.as_fd(), &pieces[at..]) {
                Ok(mut sent) => {
                    while at < pieces.len() && sent >= pieces[at].len() {
                        sent -= pieces[at].len();
                        at += 1;
                    }
                    if sent > 0 {
                        pieces[at] = pieces[at].skip(sent);
                    }
                }
                Err(error) => self.wait_to_send(error, wake, interrupted)?,
            }
        }
        Ok(())
    }

    /// After a call that sent nothing: waits for room, or tells the error.
    fn wait_to_send(&self, error: io::Error, wake: &Wake, interrupted: &dyn Fn() -> bool) -> Result<(), ChannelError> {
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            io::ErrorKind::WouldBlock => {
                if self.wait(true, wake, Some(LOOK_AGAIN))?.woken {
                    wake.clear();
                }
                if interrupted() { Err(ChannelError::Interrupted) } else { Ok(()) }
            }
            _ => Err(error.into()),
        }
    }

    /// Whether the peer is a process of the same host, and the channel a unix socket.
    fn is_local(&self) -> bool {
        self.local
    }

    /// A thread that waits for bytes wakes up once so many are there, or the stream has ended. Without this it is woken for every segment that
    /// comes, which costs more than the copying. Only TCP can; elsewhere it does nothing.
    fn wake_at(&self, bytes: u32) {
        if !self.local {
            let _ = raw::set_option(self.as_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes);
        }
    }

    /// Sends bytes, waiting as needed.
    pub fn send(&self, bytes: &[u8], wake: &Wake, interrupted: &dyn Fn() -> bool) -> Result<(), ChannelError> {
        self.send_all(&[RawSlice::of(bytes)], wake, interrupted)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
