//! Where a channel comes from: connecting to and listening on TCP and unix sockets.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::Backlog;

use super::{Channel, ChannelError, DestinationTls, KEEPALIVE, PrivateListener, SourceTls, Wake, connect_private};
use crate::host::Descriptor;
use crate::wire::Features;

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens channels to one destination: the source asks it for each channel of a migration.
pub trait Connector: Send + Sync {
    /// A new channel.
    fn connect(&self) -> io::Result<Channel>;

    /// Whether what goes over the channels is only written down, in a file or for a reader who has
    /// not been heard of: then nobody is known to run the guest once the migration is over. Certain
    /// from the moment at which the guest was handed over.
    fn only_keeps(&self) -> bool {
        false
    }

    /// What the destination can do, where it was heard of only after the channels had been opened
    /// and answered in its place.
    fn joined_late(&self) -> Option<Features> {
        None
    }
}

/// Gives the channels that a source opens.
pub trait Acceptor: Send {
    /// Waits for the next channel, or for `wake`.
    fn accept(&self, wake: &Wake) -> Result<Channel, ChannelError>;

    /// Whether what comes was written down, or comes out of a command: there is no link and no peer
    /// to speak of.
    fn is_stream(&self) -> bool {
        false
    }

    /// Where anybody can connect: what is readable while connections wait. They are taken with
    /// [`Acceptor::try_accept`] then.
    fn listener(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Takes a connection that waits. `WouldBlock` if none does, as it is where nobody can connect.
    fn try_accept(&self) -> io::Result<Channel> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// `tcp:HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpAddress {
    /// A name or an address.
    pub host: String,
    /// The port; 0 when listening lets the system choose.
    pub port: u16,
}

impl TcpAddress {
    fn dial(&self) -> io::Result<Descriptor> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => return Ok(stream.into()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixAddress(pub PathBuf);

impl UnixAddress {
    fn dial(&self) -> io::Result<Descriptor> {
        Ok(connect_private(&self.0, CONNECT_TIMEOUT)?.into())
    }
}

// In the clear, and with the usual patience with a silent peer.
impl Connector for TcpAddress {
    fn connect(&self) -> io::Result<Channel> {
        Channel::new(self.dial()?)
    }
}

impl Connector for UnixAddress {
    fn connect(&self) -> io::Result<Channel> {
        Channel::new(self.dial()?)
    }
}

/// Connects to an address, each channel with the same settings.
#[derive(Clone, Debug)]
pub struct Dialer {
    to: Address,
    keepalive: Duration,
    tls: Option<SourceTls>,
}

#[derive(Clone, Debug)]
enum Address {
    Tcp(TcpAddress),
    Unix(UnixAddress),
}

/// Where nobody could be reached.
#[derive(Debug, thiserror::Error)]
#[error("{to}")]
struct Unreachable {
    to: String,
    #[source]
    source: io::Error,
}

impl Address {
    fn unreachable(&self, source: io::Error) -> io::Error {
        let to = match self {
            Self::Tcp(TcpAddress { host, port }) if host.contains(':') => format!("tcp:[{host}]:{port}"),
            Self::Tcp(TcpAddress { host, port }) => format!("tcp:{host}:{port}"),
            Self::Unix(UnixAddress(path)) => format!("unix:{}", path.display()),
        };
        io::Error::new(source.kind(), Unreachable { to, source })
    }
}

impl Dialer {
    /// In the clear, with the usual patience with a silent peer.
    pub fn tcp(address: TcpAddress) -> Self {
        Self { to: Address::Tcp(address), keepalive: KEEPALIVE, tls: None }
    }

    /// The same, over a unix socket.
    pub fn unix(address: UnixAddress) -> Self {
        Self { to: Address::Unix(address), keepalive: KEEPALIVE, tls: None }
    }

    /// With a TCP peer that is silent for so long taken for lost.
    pub fn keepalive(self, keepalive: Duration) -> Self {
        Self { keepalive, ..self }
    }

    /// With TLS.
    pub fn tls(self, tls: SourceTls) -> Self {
        Self { tls: Some(tls), ..self }
    }
}

impl Connector for Dialer {
    fn connect(&self) -> io::Result<Channel> {
        let socket = match &self.to {
            Address::Tcp(address) => address.dial(),
            Address::Unix(address) => address.dial(),
        };
        let socket = socket.map_err(|source| self.to.unreachable(source))?;
        let channel = Channel::with_keepalive(socket, self.keepalive)?;
        Ok(match &self.tls {
            None => channel,
            Some(tls) => channel.encrypt_to_destination(tls)?,
        })
    }
}

/// A listening socket. A unix socket's file is removed with it.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    keepalive: Duration,
    tls: Option<DestinationTls>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(PrivateListener),
}

impl Listener {
    /// Listens on TCP.
    pub fn tcp(address: &TcpAddress) -> io::Result<Self> {
        let listener = TcpListener::bind((address.host.as_str(), address.port))?;
        listener.set_nonblocking(true)?;
        wait_in_line(&listener)?;
        Ok(Self { socket: Socket::Tcp(listener), keepalive: KEEPALIVE, tls: None })
    }

    /// Listens on a unix socket, which only this user may open. A socket file that nobody listens
    /// on any more is replaced; anything else stays.
    pub fn unix(address: &UnixAddress) -> io::Result<Self> {
        let listener = PrivateListener::bind(&address.0)?;
        wait_in_line(&listener)?;
        Ok(Self { socket: Socket::Unix(listener), keepalive: KEEPALIVE, tls: None })
    }

    /// With a TCP peer that is silent for so long taken for lost.
    pub fn keepalive(mut self, keepalive: Duration) -> Self {
        self.keepalive = keepalive;
        self
    }

    /// With TLS, and nobody without it.
    pub fn tls(mut self, tls: DestinationTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The TCP address listened on, with its real port.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// The TCP port listened on.
    pub fn port(&self) -> Option<u16> {
        self.address().map(|address| address.port())
    }

    fn channel(&self, socket: Descriptor) -> io::Result<Channel> {
        let channel = Channel::with_keepalive(socket, self.keepalive)?;
        Ok(match &self.tls {
            None => channel,
            Some(tls) => channel.encrypt_to_source(tls)?,
        })
    }

    fn take(&self) -> io::Result<Descriptor> {
        match &self.socket {
            Socket::Tcp(listener) => listener.accept().map(|(stream, _)| stream.into()),
            Socket::Unix(listener) => listener.accept().map(Into::into),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix(listener) => listener.as_fd(),
        }
    }
}

/// As many connections as the host allows may wait to be accepted: where they may not, a source
/// tries again a second later, behind strangers.
fn wait_in_line(listener: &impl AsFd) -> io::Result<()> {
    Ok(nix::sys::socket::listen(listener, Backlog::MAXCONN)?)
}

impl Acceptor for Listener {
    fn accept(&self, wake: &Wake) -> Result<Channel, ChannelError> {
        loop {
            match self.try_accept() {
                Ok(channel) => return Ok(channel),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(ChannelError::Io(error)),
            }
            let mut fds = [PollFd::new(self.fd(), PollFlags::POLLIN), PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
            match nix::poll::poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(ChannelError::Io(error.into())),
            }
            if fds[1].revents().is_some_and(|events| !events.is_empty()) {
                wake.clear();
                return Err(ChannelError::Interrupted);
            }
        }
    }

    fn listener(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd())
    }

    fn try_accept(&self) -> io::Result<Channel> {
        loop {
            match self.take() {
                Ok(socket) => return self.channel(socket),
                // The peer gave up between connecting and being accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
