//! Where monitors are reached: listening sockets, connected ones, and this process's standard input
//! and output.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IoSliceMut, IsTerminal, Read};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
#[cfg(test)]
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::host::{ListenError, PrivateListener, connect_private};

/// At least so many descriptors are taken with one message; the kernel closes what is more. A
/// command takes one.
const MAX_HANDED: usize = 4;
/// So long a server may take to make room for this client.
const PATIENCE: Duration = Duration::from_secs(5);

/// A place that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Something or somebody is there.
    #[error(transparent)]
    Taken(ListenError),
    /// The system refused to listen.
    #[error("cannot listen at '{place}'")]
    Listen {
        /// The address.
        place: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// Nobody listens there.
    #[error("cannot connect to '{path}' (',server' behind it would listen there)")]
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
        connect_private(path, PATIENCE)
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

/// Standard descriptor `number` without blocking. Opened anew where possible: O_NONBLOCK belongs to
/// the open file, which the shell shares with us, and would outlive this process.
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
    Unix(PrivateListener),
    /// A tcp port.
    Tcp(TcpListener),
}

impl Listener {
    /// Listens at a unix socket, which only this user may open. A file that a dead process left
    /// there is replaced.
    pub fn unix(path: &Path) -> Result<Self, EndpointError> {
        match PrivateListener::bind(path) {
            Ok(listener) => Ok(Self::Unix(listener)),
            Err(ListenError::System(source)) => {
                Err(EndpointError::Listen { place: path.display().to_string(), source })
            }
            Err(taken) => Err(EndpointError::Taken(taken)),
        }
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
            Self::Unix(listener) => listener.accept().map(OwnedFd::from),
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
            Self::Unix(_) => false,
            Self::Tcp(listener) => !listener.local_addr().is_ok_and(|at| at.ip().to_canonical().is_loopback()),
        }
    }

    /// The address listened on, with the port that the system chose.
    pub fn address(&self) -> String {
        match self {
            Self::Unix(listener) => format!("unix:{}", listener.path().display()),
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
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
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
