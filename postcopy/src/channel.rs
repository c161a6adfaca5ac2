//! Byte streams between two hosts: connecting, listening, reading messages, sending batches.
//!
//! A [`Channel`] never blocks by itself: every wait is a `poll` together with a [`Wake`], so that a
//! cancel, a new limit or a shutdown reaches a thread that waits for its peer.

mod address;
mod batch;
mod credentials;
mod network;
mod private;
mod private_key;
mod raw;
mod reader;
mod refusal;
mod scm_rights;
mod tls;
mod vmsplice;
mod wake;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{MsgFlags, Shutdown, sockopt};

pub use address::{Acceptor, Connector, Dialer, Listener, TcpAddress, UnixAddress};
pub use batch::Batch;
pub use credentials::{DestinationTls, SourceTls};
pub use network::Network;
pub use private::{ListenError, PrivateListener, connect_private};
pub use reader::MessageReader;
pub use refusal::{Peer, TlsError};
pub use scm_rights::{Handed, MOST_FILES};
pub(crate) use tls::Handshake;
pub use wake::Wake;

use self::tls::Tls;
use crate::host::{Descriptor, Instant, poll, socket};
use crate::logging as log;
use crate::memory::RawSlice;
use crate::wire::{DecodeError, HelloError};

/// How long a silent peer is believed alive, unless it is said otherwise.
pub const KEEPALIVE: Duration = Duration::from_secs(10);
/// The shortest time for which a silent peer can be believed alive: TCP counts in whole seconds,
/// and probes an idle link at most once in each.
pub const KEEPALIVE_LEAST: Duration = Duration::from_secs(2);
/// And the longest. TCP takes no more than 32767 seconds.
pub const KEEPALIVE_MOST: Duration = Duration::from_secs(8 * 3600);
/// In the time for which a silent peer is believed alive, so many probes go to it while nothing
/// else does, where that is long enough.
const PROBES: u32 = 4;

/// A send that waits for room asks so often whether it is still wanted, also if nobody rings.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What can go wrong on a channel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    /// A file that is read instead of a channel holds no guest that can be read.
    #[error(transparent)]
    File(Box<dyn std::error::Error + Send + Sync>),
    /// The peer refused, with its reason.
    #[error("the peer refused: {0}")]
    Refused(String),
    /// TLS.
    #[error(transparent)]
    Tls(TlsError),
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
            _ => match error.downcast() {
                Ok(error) => Self::Tls(error),
                Err(error) => Self::Io(error),
            },
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
    socket: Descriptor,
    /// The peer is a process of this host, behind a unix socket.
    local: bool,
    /// How long the peer may be silent.
    keepalive: Duration,
    tls: Option<Tls>,
}

impl Channel {
    /// Takes a connected stream socket and sets it up: non-blocking, without Nagle's delay, with
    /// keepalive.
    pub fn new(socket: Descriptor) -> io::Result<Self> {
        Self::with_keepalive(socket, KEEPALIVE)
    }

    /// The same; a TCP peer that is silent for so long is taken for lost. The time is used as far
    /// as TCP can ([`KEEPALIVE_LEAST`], [`KEEPALIVE_MOST`]).
    pub fn with_keepalive(socket: Descriptor, keepalive: Duration) -> io::Result<Self> {
        let flags = socket::fcntl(&socket, nix::fcntl::FcntlArg::F_GETFL)?;
        let flags = nix::fcntl::OFlag::from_bits_retain(flags) | nix::fcntl::OFlag::O_NONBLOCK;
        socket::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(flags))?;
        let keepalive = keepalive.clamp(KEEPALIVE_LEAST, KEEPALIVE_MOST);
        let mut channel = Self { socket, local: false, keepalive, tls: None };
        channel.tune();
        Ok(channel)
    }

    /// The source's end, from now on with TLS. The handshake follows with the first words of the
    /// protocol.
    pub fn encrypt_to_destination(mut self, tls: &SourceTls) -> Result<Self, TlsError> {
        self.tls = Some(tls.begin()?);
        Ok(self)
    }

    /// The destination's end, from now on with TLS.
    pub fn encrypt_to_source(mut self, tls: &DestinationTls) -> Result<Self, TlsError> {
        self.tls = Some(tls.begin()?);
        Ok(self)
    }

    /// Goes on with the handshake, as far as the socket allows. Without TLS there is none.
    pub(crate) fn handshake(&self) -> io::Result<Handshake> {
        self.tls.as_ref().map_or(Ok(Handshake::Done), |tls| tls.handshake(self.as_fd()))
    }

    /// The certificate of the peer; `None` without TLS.
    pub(crate) fn peer_certificate(&self) -> Option<Vec<u8>> {
        self.tls.as_ref()?.peer_certificate()
    }

    /// Says something to a peer without TLS, if the socket has room for it.
    pub(crate) fn say_in_clear(&self, bytes: &[u8]) {
        let _ = raw::send(self.as_fd(), &[RawSlice::of(bytes)]);
    }

    /// Whether it is one with TLS.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Says something if the channel takes it at once.
    pub(crate) fn say_at_once(&self, bytes: &[u8]) {
        match &self.tls {
            None => self.say_in_clear(bytes),
            Some(tls) => drop(tls.send(self.as_fd(), &[RawSlice::of(bytes)], &mut 0)),
        }
    }

    /// Whether bytes were received that a poll does not see, because they wait to be taken out of
    /// TLS.
    pub(crate) fn holds_received(&self) -> bool {
        self.tls.as_ref().is_some_and(Tls::holds)
    }

    /// Two ends connected to each other.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socket::pair()?;
        Ok((Self::new(a)?, Self::new(b)?))
    }

    /// Options that make a stream fast and its death noticed. None is needed for correctness, so a
    /// refusal is no error.
    fn tune(&mut self) {
        // How long is exact is seen to in `Channel::silence`; here it is only made sure that a peer
        // that lives is heard of in time.
        let seconds = (self.keepalive.as_secs() as u32 / PROBES).max(1);
        self.local = socket::setsockopt(self, sockopt::TcpNoDelay, &true).is_err();
        if !self.local {
            let set = [
                socket::setsockopt(self, sockopt::KeepAlive, &true),
                socket::setsockopt(self, sockopt::TcpKeepIdle, &seconds),
                socket::setsockopt(self, sockopt::TcpKeepInterval, &seconds),
                socket::setsockopt(self, sockopt::TcpKeepCount, &PROBES),
                socket::setsockopt(self, sockopt::TcpUserTimeout, &(self.keepalive.as_millis() as u32)),
            ];
            if let Some(Err(error)) = set.into_iter().find(Result::is_err) {
                log::warn!("a broken link may go unnoticed: setting TCP keepalive failed: {error}");
            }
        } else {
            // A unix socket's default holds 50 pages; with more in flight both ends work instead of
            // waking each other.
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
        if let Some(tls) = &self.tls {
            return tls.is_ended(self.as_fd());
        }
        let mut byte = [0];
        match socket::recv(self.socket.as_raw_fd(), &mut byte, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK) {
            Ok(count) => count == 0,
            Err(error) => !matches!(error, nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR),
        }
    }

    /// Ends this side's receiving: a thread that waits for bytes wakes up with an end of stream. A
    /// last word can still be sent.
    pub fn stop_receiving(&self) {
        let _ = socket::shutdown(self.socket.as_raw_fd(), Shutdown::Read);
    }

    /// Ends this side's sending: what was sent still arrives.
    pub fn finish(&self) {
        if let Some(tls) = &self.tls {
            tls.finish(self.as_fd());
        }
        let _ = socket::shutdown(self.socket.as_raw_fd(), Shutdown::Write);
    }

    /// How much longer the peer may be silent; an error if it was for too long. `None`: for ever,
    /// since no network is in between.
    fn silence(&self) -> io::Result<Option<Duration>> {
        let Some(info) = raw::tcp_info(self.as_fd()).filter(|_| !self.local) else {
            return Ok(None);
        };
        let silent = Duration::from_millis(info.tcpi_last_data_recv.min(info.tcpi_last_ack_recv).into());
        match self.keepalive.checked_sub(silent) {
            Some(left) if !left.is_zero() => Ok(Some(left)),
            _ => Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing came from the peer for {silent:.1?}"))),
        }
    }

    /// Waits until the channel is readable, or also writable if `write`, or `wake` rings, or
    /// `timeout` is over. An error if the peer is silent for too long.
    pub fn wait(&self, write: bool, wake: &Wake, timeout: Option<Duration>) -> io::Result<Ready> {
        if !write && self.holds_received() {
            let mut ready = self.poll(PollFlags::POLLIN, Some(wake), Some(Duration::ZERO))?;
            ready.readable = true;
            return Ok(ready);
        }
        // A waiting writer must not be woken by what it does not read.
        let wanted = if write { PollFlags::POLLOUT } else { PollFlags::POLLIN };
        self.wait_for(wanted, Some(wake), timeout)
    }

    /// Waits until the channel is readable or its stream has ended.
    fn wait_readable(&self) -> io::Result<()> {
        match self.holds_received() {
            true => Ok(()),
            false => self.wait_for(PollFlags::POLLIN, None, None).map(drop),
        }
    }

    /// Polls until something happens, the time is over or the peer is silent for too long.
    fn wait_for(&self, wanted: PollFlags, wake: Option<&Wake>, timeout: Option<Duration>) -> io::Result<Ready> {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        // Most waits are short. Only in those that are not the network is asked about.
        let mut step = Some(self.keepalive / 4).filter(|_| !self.local);
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let ready = self.poll(wanted, wake, [left, step].into_iter().flatten().min())?;
            if ready.readable || ready.writable || ready.woken {
                return Ok(ready);
            }
            step = self.silence()?;
            if until.is_some_and(|until| until <= Instant::now()) {
                return Ok(ready);
            }
        }
    }

    fn poll(&self, wanted: PollFlags, wake: Option<&Wake>, timeout: Option<Duration>) -> io::Result<Ready> {
        let timeout = match timeout {
            None => PollTimeout::NONE,
            Some(time) => PollTimeout::try_from(time.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX),
        };
        let fd = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [PollFd::new(self.socket.as_fd(), wanted), fd(wake.map_or(self.socket.as_fd(), |it| it.as_fd()))];
        let count = if wake.is_some() { 2 } else { 1 };
        match poll(&mut fds[..count], timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = PollFlags::POLLHUP | PollFlags::POLLERR;
        let of = |at: usize| fds[..count].get(at).and_then(PollFd::revents).unwrap_or(PollFlags::empty());
        Ok(Ready {
            readable: of(0).intersects(PollFlags::POLLIN | ended),
            writable: of(0).intersects(PollFlags::POLLOUT | ended),
            woken: of(1).intersects(PollFlags::POLLIN),
        })
    }

    /// Receives what is there into `buffer`. `WouldBlock` when nothing is; 0 at the end of the
    /// stream.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.tls {
            None => Ok(socket::recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?),
            Some(tls) => tls.receive(self.as_fd(), buffer.len(), &mut |done, bytes| {
                buffer[done..done + bytes.len()].copy_from_slice(bytes);
            }),
        }
    }

    /// Like [`Channel::receive`], straight into guest RAM.
    fn receive_raw(&self, target: RawSlice<'_>) -> io::Result<usize> {
        match &self.tls {
            None => raw::receive(self.as_fd(), target),
            Some(tls) => {
                tls.receive(self.as_fd(), target.len(), &mut |done, bytes| raw::fill(target.skip(done), bytes))
            }
        }
    }

    /// Sends all the pieces, waiting as needed. `interrupted` is asked after every wait: also
    /// whenever `wake` rings, and from time to time.
    fn send_all(
        &self,
        pieces: &[RawSlice<'_>],
        wake: &Wake,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<(), ChannelError> {
        if let Some(tls) = &self.tls {
            let mut sent = 0;
            while let Err(error) = tls.send(self.as_fd(), pieces, &mut sent) {
                self.wait_to_send(error, wake, interrupted)?;
            }
            return Ok(());
        }
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

    /// Whether the peer is a process of the same host, behind a unix socket, and gets the bytes as
    /// they are.
    fn is_local(&self) -> bool {
        self.local && self.tls.is_none()
    }

    /// A thread that waits for bytes wakes up once so many are there, or the stream has ended.
    /// Without this it is woken for every segment that comes, which costs more than the copying.
    /// Only TCP can; elsewhere it does nothing.
    fn wake_at(&self, bytes: u32) {
        if !self.local {
            // What of a record has come already comes no more; all else is no shorter for being
            // encrypted.
            let bytes = if self.tls.is_some() { bytes.saturating_sub(tls::RECORD).max(1) } else { bytes };
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
