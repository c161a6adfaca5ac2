//! Unix sockets that only this user may connect to, and connecting to one without waiting for ever.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::logging as log;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod};
use nix::sys::time::TimeVal;

/// Clients that may wait to be accepted: as many as the standard library allows.
const BACKLOG: i32 = 128;

/// Why a path cannot be listened at. Whatever stands there is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Somebody answers there, or might.
    #[error("a running process already listens at '{}'; give another path, or end that process", .0.display())]
    InUse(PathBuf),
    /// Something is in the way, a symbolic link included.
    #[error("'{}' exists and is not a socket; remove it or give another path", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl From<ListenError> for io::Error {
    fn from(error: ListenError) -> Self {
        match error {
            ListenError::System(source) => source,
            ListenError::InUse(_) => Self::new(io::ErrorKind::AddrInUse, error),
            ListenError::NotASocket(_) => Self::new(io::ErrorKind::AlreadyExists, error),
        }
    }
}

/// A listening socket with mode 0600. Its file goes with it, unless that is another's by then.
#[derive(Debug)]
pub struct PrivateListener {
    // Dropped first. As long as the socket lives, no other file can get its file's inode number.
    file: SocketFile,
    socket: UnixListener,
}

impl PrivateListener {
    /// Listens at `path`, without blocking when it accepts. A socket on which nobody listens any
    /// more is replaced; everything else that stands there stays, and is named by the error.
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let (socket, file) = match listen_at(path) {
            Err(Errno::EADDRINUSE) => {
                remove_dead(path)?;
                listen_at(path)
            }
            other => other,
        }
        .map_err(|error| match error {
            // Somebody was faster.
            Errno::EADDRINUSE => ListenError::InUse(path.to_owned()),
            other => ListenError::System(other.into()),
        })?;
        // Between binding and listening another process may have taken the socket for a dead one.
        if identity(path).ok() != Some(file.identity) {
            return Err(ListenError::InUse(path.to_owned()));
        }
        socket.set_nonblocking(true)?;
        Ok(Self { file, socket })
    }

    /// The next client; [`io::ErrorKind::WouldBlock`] if there is none.
    pub fn accept(&self) -> io::Result<UnixStream> {
        self.socket.accept().map(|(client, _)| client)
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

impl AsFd for PrivateListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The file has its mode from its first moment on.
///
/// On Linux a socket that is not bound has a mode already, and hands it to the file that binding
/// makes. Changing the file's mode afterwards would leave a gap, and the process's umask is shared
/// with other threads.
fn listen_at(path: &Path) -> Result<(UnixListener, SocketFile), Errno> {
    let unbound: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    fchmod(&unbound, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(unbound.as_raw_fd(), &UnixAddr::new(path)?)?;
    let file = SocketFile::of(path)?;
    listen(&unbound, Backlog::new(BACKLOG)?)?;
    Ok((unbound.into(), file))
}

/// Removes a socket's file if nobody listens there.
fn remove_dead(path: &Path) -> Result<(), ListenError> {
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    let client: OwnedFd =
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
            .map_err(io::Error::from)?;
    let address = UnixAddr::new(path).map_err(io::Error::from)?;
    match connect(client.as_raw_fd(), &address) {
        // Nobody has it open. One that cannot take another client just now, or is of another type,
        // lives.
        Err(Errno::ECONNREFUSED) if identity(path).ok() == Some((found.dev(), found.ino())) => {
            log::info!("replacing the stale socket '{}'", path.display());
            Ok(std::fs::remove_file(path)?)
        }
        Err(Errno::ENOENT) => Ok(()),
        _ => Err(ListenError::InUse(path.to_owned())),
    }
}

/// A socket's file, which is removed with this value unless another has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> Result<Self, Errno> {
        let identity = identity(path).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
        Ok(Self { path: path.to_owned(), identity })
    }
}

/// Device and inode.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn!("cannot remove '{}': {error}", self.path.display());
        }
    }
}

/// Connects to a unix socket. Where so many clients wait that another has to wait even to be one of
/// them, that takes no longer than `patience`.
pub fn connect_private(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let client: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let limit = |time: Duration| TimeVal::new(time.as_secs() as i64, i64::from(time.subsec_micros()));
    setsockopt(&client, sockopt::SendTimeout, &limit(patience))?;
    connect(client.as_raw_fd(), &UnixAddr::new(path)?).map_err(|error| match error {
        Errno::EAGAIN => io::Error::new(io::ErrorKind::TimedOut, "its server is there, but takes no more clients"),
        other => other.into(),
    })?;
    setsockopt(&client, sockopt::SendTimeout, &limit(Duration::ZERO))?;
    Ok(client.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixDatagram;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn mode(path: &Path) -> Option<u32> {
        fs::metadata(path).ok().map(|found| found.permissions().mode() & 0o7777)
    }

    fn bind(path: &Path) -> Result<PrivateListener, ListenError> {
        PrivateListener::bind(path)
    }

    /// A file that is private only after it was changed would be seen before that, in one of so
    /// many rounds.
    #[test]
    fn a_private_socket_is_private_from_its_first_moment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let ended = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut seen = Vec::new();
                while !ended.load(Ordering::Acquire) {
                    seen.extend(mode(&path).filter(|mode| *mode != 0o600));
                }
                seen
            });
            for _ in 0..2000 {
                let listener = bind(&path).unwrap();
                assert_eq!(mode(&path), Some(0o600));
                drop(listener);
                assert_eq!(mode(&path), None);
            }
            ended.store(true, Ordering::Release);
            watch.join().unwrap()
        });
        assert_eq!(seen, Vec::<u32>::new());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let living = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(ListenError::InUse(_))));
        // The refused attempt has not harmed it.
        connect_private(&path, Duration::from_secs(1)).unwrap();
        living.accept().unwrap();
        living.accept().unwrap();
        assert_eq!(living.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    /// A listener whose queue is full, one that is of another type, and one that only binds, live
    /// all the same.
    #[test]
    fn a_socket_that_takes_no_client_is_not_a_dead_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("full");
        let full: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        nix::sys::socket::bind(full.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&full, Backlog::new(0).unwrap()).unwrap();
        let _waits = UnixStream::connect(&path).unwrap();
        assert!(matches!(bind(&path), Err(ListenError::InUse(_))));
        let error = connect_private(&path, Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let datagrams = dir.path().join("datagrams");
        let _living = UnixDatagram::bind(&datagrams).unwrap();
        assert!(matches!(bind(&datagrams), Err(ListenError::InUse(_))));
    }

    #[test]
    fn what_is_no_socket_stays_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "precious").unwrap();
        fs::create_dir(at("dir")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRUSR).unwrap();
        let living = bind(&at("living")).unwrap();
        symlink(at("living"), at("link")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        for name in ["file", "dir", "fifo", "link", "dangling"] {
            let error = bind(&at(name)).unwrap_err();
            assert!(matches!(error, ListenError::NotASocket(_)), "{name}: {error}");
            assert!(error.to_string().contains(name), "{error}");
            assert!(fs::symlink_metadata(at(name)).is_ok());
        }
        assert_eq!(fs::read(at("file")).unwrap(), b"precious");
        drop(living);
        assert!(!at("living").exists());
    }

    #[test]
    fn whoever_ends_removes_only_the_socket_that_he_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        // Its inode number could be the first one's, were that free.
        let second = bind(&path).unwrap();
        drop(first);
        connect_private(&path, Duration::from_secs(1)).unwrap();
        drop(second);
        let third = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        drop(third);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
