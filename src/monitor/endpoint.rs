//! Where monitors are reached: listening sockets, connected ones, and this process's standard input and output.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSliceMut, IsTerminal, Read};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use whimbrel_postcopy::channel::listen_private;

/// At least so many descriptors are taken with one message; the kernel closes what is more. A command takes one.
const MAX_HANDED: usize = 4;

/// A place that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Somebody answers there.
    #[error("a running process already listens at '{0}'; give another path, or end that process")]
    InUse(PathBuf),
    /// Something is in the way.
    #[error("'{0}' exists and is not a socket; remove it or give another path")]
    NotASocket(PathBuf),
    /// The system refused to listen.
    #[error("cannot listen at '{place}'; give a place where this user may")]
    Listen {
        /// The address.
        place: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// Nobody listens there.
    #[error("cannot connect to '{path}'; start its listener first, or add ',server' to listen here")]
    Connect {
        /// The address.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// Standard input or output cannot be used.
    #[error("cannot use standard input and output for a monitor")]
    Stdio(#[source] io::Error),
}

/// A connected client's two directions; for a socket they are the same descriptor. Neither blocks.
#[derive(Debug)]
pub struct Wire {
    /// From the client.
    pub input: File,
    /// To the client, where that is another descriptor.
    pub output: Option<File>,
}

impl Wire {
    fn socket(socket: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&socket)?;
        Ok(Self { input: socket.into(), output: None })
    }

    /// Whether a person sees what is written to it, where it is written.
    pub fn is_terminal(&self) -> bool {
        self.output.as_ref().unwrap_or(&self.input).is_terminal()
    }

    /// Connects to a unix socket.
    pub fn connect(path: &Path) -> Result<Self, EndpointError> {
        UnixStream::connect(path)
            .and_then(|stream| Self::socket(stream.into()))
            .map_err(|source| EndpointError::Connect { path: path.to_owned(), source })
    }

    /// Reads what is there into `chunk`, and the descriptors that came with its last bytes.
    pub fn read(&mut self, chunk: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        match self.output {
            Some(_) => self.input.read(chunk).map(|count| (count, Vec::new())),
            None => receive(&self.input, chunk),
        }
    }

    /// Standard input and output.
    pub fn stdio() -> Result<Self, EndpointError> {
        let open = || {
            Ok(Self {
                input: reopen(io::stdin().as_fd().try_clone_to_owned()?, 0)?,
                output: Some(reopen(io::stdout().as_fd().try_clone_to_owned()?, 1)?),
            })
        };
        open().map_err(EndpointError::Stdio)
    }
}

/// Reads from a socket. The kernel cuts a read behind bytes that came with descriptors.
fn receive(socket: &File, chunk: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_HANDED))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // No program that this process may start one day inherits them.
    let received = recvmsg(socket, &mut [IoSliceMut::new(chunk)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let handed = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok((received.bytes, handed.flatten().collect()))
}

/// Standard descriptor `number` without blocking. Opened anew where possible: O_NONBLOCK belongs to the open file,
/// which the shell shares with us, and would outlive this process.
fn reopen(descriptor: OwnedFd, number: u32) -> io::Result<File> {
    let anew = OpenOptions::new()
        .read(number == 0)
        .write(number != 0)
        .custom_flags(OFlag::O_NONBLOCK.bits() | OFlag::O_NOCTTY.bits())
        .open(format!("/proc/self/fd/{number}"));
    let is_file = File::from(descriptor.try_clone()?).metadata()?.is_file();
    match anew {
        // A regular file opened anew would be written from its start again.
        Ok(file) if !is_file => Ok(file),
        _ => {
            set_nonblocking(&descriptor)?;
            Ok(descriptor.into())
        }
    }
}

fn set_nonblocking(descriptor: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFL)?);
    fcntl(descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// A unix socket, whose file goes when this does.
    Unix(UnixListener, SocketFile),
    /// A tcp port.
    Tcp(TcpListener),
}

impl Listener {
    /// Listens at a unix socket, which only this user may open. A file that a dead process left there is replaced.
    pub fn unix(path: &Path) -> Result<Self, EndpointError> {
        let failed = |source| EndpointError::Listen { place: path.display().to_string(), source };
        let listener = match listen_private(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                remove_stale(path)?;
                listen_private(path).map_err(failed)?
            }
            other => other.map_err(failed)?,
        };
        listener.set_nonblocking(true).map_err(failed)?;
        let file = SocketFile::of(path).map_err(failed)?;
        Ok(Self::Unix(listener, file))
    }

    /// Listens at a tcp port.
    pub fn tcp(host: &str, port: u16) -> Result<Self, EndpointError> {
        let listen = || {
            let listener = TcpListener::bind((host, port))?;
            listener.set_nonblocking(true)?;
            Ok(Self::Tcp(listener))
        };
        listen().map_err(|source| EndpointError::Listen { place: format!("tcp:{host}:{port}"), source })
    }

    /// The next client; `None` when there is none yet.
    pub fn accept(&self) -> io::Result<Option<Wire>> {
        let accepted = match self {
            Self::Unix(listener, _) => listener.accept().map(|it| OwnedFd::from(it.0)),
            Self::Tcp(listener) => listener.accept().map(|it| OwnedFd::from(it.0)),
        };
        match accepted {
            Ok(socket) => Wire::socket(socket).map(Some),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it is more than this host that can connect.
    pub fn is_open_to_other_hosts(&self) -> bool {
        match self {
            Self::Unix(..) => false,
            Self::Tcp(listener) => !listener.local_addr().is_ok_and(|at| at.ip().to_canonical().is_loopback()),
        }
    }

    /// The address listened on, with the port that the system chose.
    pub fn address(&self) -> String {
        match self {
            Self::Unix(_, file) => format!("unix:{}", file.path.display()),
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("tcp:{address}"),
                Err(error) => format!("tcp (unknown address: {error})"),
            },
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Unix(listener, _) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// Removes a socket file that nobody listens at.
fn remove_stale(path: &Path) -> Result<(), EndpointError> {
    let failed = |source| EndpointError::Listen { place: path.display().to_string(), source };
    let kind = fs::symlink_metadata(path).map_err(failed)?.file_type();
    if !kind.is_socket() {
        return Err(EndpointError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            log::info!("replacing the stale socket '{}'", path.display());
            fs::remove_file(path).map_err(failed)
        }
        _ => Err(EndpointError::InUse(path.to_owned())),
    }
}

/// A socket's file, removed with this value unless another file has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("cannot remove '{}': {error}", self.path.display());
        }
    }
}

/// Sends `bytes` together with `fds`, for tests.
#[cfg(test)]
pub fn send_with(socket: &UnixStream, bytes: &[u8], fds: &[std::os::fd::BorrowedFd<'_>]) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)) || fds.is_empty());
    let sent = sendmsg(socket, &[io::IoSlice::new(bytes)], &mut control, SendFlags::empty());
    assert!(sent.is_ok_and(|count| count == bytes.len()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_private_and_goes_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = Listener::unix(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let live = Listener::unix(&path).unwrap();
        assert!(matches!(Listener::unix(&path), Err(EndpointError::InUse(_))));
        // The refused attempt must not have harmed the live one.
        UnixStream::connect(&path).unwrap();
        assert!(live.accept().unwrap().is_some());
    }

    #[test]
    fn what_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(matches!(Listener::unix(&path), Err(EndpointError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn another_ones_socket_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = Listener::unix(&path).unwrap();
        fs::rename(&path, dir.path().join("moved")).unwrap();
        let _second = Listener::unix(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn descriptors_come_with_the_bytes_they_were_sent_with_and_end_with_this_program() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = Listener::unix(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let mut wire = listener.accept().unwrap().unwrap();
        let mut chunk = [0; 16];
        assert_eq!(wire.read(&mut chunk).unwrap_err().kind(), ErrorKind::WouldBlock);
        send_with(&client, b"one", &[client.as_fd(), client.as_fd()]);
        send_with(&client, b"two", &[]);
        let (count, fds) = wire.read(&mut chunk).unwrap();
        assert_eq!((&chunk[..count], fds.len()), (&b"one"[..], 2));
        for fd in &fds {
            let flags = fcntl(fd, FcntlArg::F_GETFD).unwrap();
            assert_eq!(flags & nix::libc::FD_CLOEXEC, nix::libc::FD_CLOEXEC);
        }
        let (count, fds) = wire.read(&mut chunk).unwrap();
        assert_eq!((&chunk[..count], fds.len()), (&b"two"[..], 0));
        // There is room for somewhat more than MAX_HANDED, since control messages are aligned.
        send_with(&client, b"x", &[client.as_fd(); 2 * MAX_HANDED]);
        assert!((MAX_HANDED..2 * MAX_HANDED).contains(&wire.read(&mut chunk).unwrap().1.len()));
    }

    #[test]
    fn port_0_becomes_a_real_one() {
        let listener = Listener::tcp("127.0.0.1", 0).unwrap();
        let address = listener.address();
        assert!(address.starts_with("tcp:127.0.0.1:") && !address.ends_with(":0"));
        assert!(!listener.is_open_to_other_hosts());
        assert!(Listener::tcp("0.0.0.0", 0).unwrap().is_open_to_other_hosts());
    }
}
