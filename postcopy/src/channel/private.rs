//! Unix sockets that only this user may connect to.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};

/// Clients that may wait to be accepted: as many as the standard library allows.
const BACKLOG: i32 = 128;

/// Listens at `path` with mode 0600, which the file has from its first moment on.
///
/// On Linux a socket that is not bound has a mode already, and hands it to the file that binding makes. Changing the file's mode afterwards would leave
/// a gap, and the process's umask is shared with other threads.
pub fn listen_private(path: &Path) -> io::Result<UnixListener> {
    let unbound: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    fchmod(&unbound, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(unbound.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&unbound, Backlog::new(BACKLOG)?)?;
    Ok(unbound.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{metadata, remove_file};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn mode(path: &Path) -> Option<u32> {
        metadata(path).ok().map(|found| found.permissions().mode() & 0o7777)
    }

    /// A file that is private only after it was changed would be seen before that, in one of so many rounds.
    #[test]
    fn a_private_socket_is_private_from_its_first_moment() {
        let path = std::env::temp_dir().join(format!("whimbrel-private-{}", std::process::id()));
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
                let listener = listen_private(&path).unwrap();
                assert_eq!(mode(&path), Some(0o600));
                drop(listener);
                remove_file(&path).unwrap();
            }
            ended.store(true, Ordering::Release);
            watch.join().unwrap()
        });
        assert_eq!(seen, Vec::<u32>::new());
    }

    #[test]
    fn a_private_socket_takes_clients() {
        let path = std::env::temp_dir().join(format!("whimbrel-private-clients-{}", std::process::id()));
        let listener = listen_private(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
        assert_eq!(listen_private(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        remove_file(&path).unwrap();
    }
}
