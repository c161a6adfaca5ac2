//! The files that guests are written to and read from: which may be used for it, and that nobody
//! else uses them meanwhile.
//!
//! Each is locked as a disk image is ([`crate::block::lock`]), for as long as this process has it
//! open: one that is written is nobody else's, one that is read may be read by others.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rustix::pipe::{SpliceFlags, tee};
use whimbrel_postcopy::logging as log;

use crate::block::lock::{Access, Locked, lock, look};
use crate::fds::FdsError;
use crate::host::files::{self, FileKind};
use crate::launcher::{Launcher, LauncherError};

/// How every guest in a file begins: a channel's hello.
const MAGIC: &[u8] = b"WHIMBREL";
/// How often a file that is in use is tried again, every 5 ms.
const PATIENCE: usize = 20;
/// As many zeros are nobody's data, in bytes: what a disk has, it has up to here.
const NOTHING: usize = 64 << 10;

/// Why a file is not used, in the words behind 'it cannot be written' or 'read'.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It would be lost.
    #[error("it holds something else than a saved guest, which would be lost; remove it first, or give another path")]
    Precious,
    /// A FIFO.
    #[error("it is a FIFO that nobody reads; start its reader first, or use 'exec:cat > FIFO'")]
    NoReader,
    /// A FIFO.
    #[error("it is a FIFO that nobody writes to; start its writer first, or use 'exec:cat FIFO'")]
    NoWriter,
    /// A terminal.
    #[error("it is a terminal; give a regular file")]
    Terminal,
    /// It is this process's own.
    #[error("it is {0}; give another path")]
    Standard(&'static str),
    /// Its other user.
    #[error("{0}; wait for its end, or give another path")]
    InUse(Locked),
    /// Not a file, but the name or number of a descriptor.
    #[error(transparent)]
    Number(#[from] FdsError),
    /// Making one.
    #[error(transparent)]
    Launcher(#[from] LauncherError),
    /// The system, or a file of another kind.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Opens the file at `path` so that a guest can be written to it; it is made, for its owner alone,
/// if it is not there. Changes nothing of one that is: [`check_contents`] says whether that is
/// allowed.
pub fn to_write(path: &Path, launcher: &Launcher) -> Result<File, FileError> {
    let kind = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = File::from(launcher.file(path)?);
            // In the moment since it may have become anything.
            take(&file, Access::Write)?;
            return Ok(file);
        }
        found => FileKind::from(found?.file_type()),
    };
    let mut options = OpenOptions::new();
    options.write(true);
    match kind {
        FileKind::Regular | FileKind::BlockDevice => drop(options.read(true)),
        _ => {}
    }
    let wanted = "a regular file, or a block device";
    let kinds = [FileKind::Regular, FileKind::BlockDevice, FileKind::CharacterDevice, FileKind::Fifo];
    let (file, metadata) = match files::open(path, &mut options, &kinds, wanted) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) && kind == FileKind::Fifo => {
            return Err(FileError::NoReader);
        }
        opened => opened?,
    };
    match FileKind::from(metadata.file_type()) {
        FileKind::CharacterDevice if file.is_terminal() => Err(FileError::Terminal),
        FileKind::CharacterDevice | FileKind::Fifo => Ok(file),
        kind => {
            if kind == FileKind::BlockDevice {
                // Nothing that the host itself uses: this fails while it is mounted.
                OpenOptions::new().write(true).custom_flags(libc::O_EXCL | libc::O_NONBLOCK).open(path)?;
            }
            take(&file, Access::Write)?;
            Ok(file)
        }
    }
}

/// Opens the file at `path`, in which a guest is.
pub fn to_read(path: &Path) -> Result<File, FileError> {
    let kinds = [FileKind::Regular, FileKind::BlockDevice, FileKind::Fifo];
    let (file, metadata) = files::open(path, OpenOptions::new().read(true), &kinds, "a file with a saved guest")?;
    match FileKind::from(metadata.file_type()) {
        FileKind::Fifo => has_writer(&file)?,
        _ => take(&file, Access::Read)?,
    }
    Ok(file)
}

/// Locks it. Where there are no locks, whoever saves or restores there is warned, no more: a guest
/// is worth more than that.
pub fn take(file: &File, access: Access) -> Result<(), FileError> {
    let mut locked = lock(file, access);
    for _ in 0..PATIENCE {
        // A thread that has just read, or written, the last of a guest may not have closed the file
        // yet.
        if !matches!(locked, Err(Locked::Guarded | Locked::Written)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
        locked = lock(file, access);
    }
    match locked {
        Err(Locked::NoLocks(error)) => {
            log::warn!("the file with the guest cannot be locked, so that nothing keeps others from it: {error}");
            Ok(())
        }
        Err(used) => Err(FileError::InUse(used)),
        Ok(()) => Ok(()),
    }
}

/// Whether nothing is lost when the file is written from `offset` on: there is nothing, or zeros,
/// or a guest that was saved before.
pub fn check_contents(file: &File, offset: u64) -> Result<(), FileError> {
    if !matches!(FileKind::from(file.metadata()?.file_type()), FileKind::Regular | FileKind::BlockDevice) {
        return Ok(());
    }
    let mut begin = vec![0; NOTHING];
    let mut have = 0;
    while have < begin.len() {
        match file.read_at(&mut begin[have..], offset.saturating_add(have as u64)) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let begin = &begin[..have];
    match begin.starts_with(MAGIC) || begin.iter().all(|byte| *byte == 0) {
        true => Ok(()),
        false => Err(FileError::Precious),
    }
}

/// Whether somebody has the FIFO open for writing, or has written to it. Takes nothing out of it.
fn has_writer(fifo: &File) -> Result<(), FileError> {
    let (_read, write) = io::pipe()?;
    match tee(fifo, &write, 1, SpliceFlags::NONBLOCK) {
        Ok(0) => Err(FileError::NoWriter),
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(error) => Err(FileError::System(error.into())),
    }
}

/// What a descriptor that was handed over must be open for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A guest is written to it.
    Out,
    /// A guest is read from it.
    In,
}

/// Looks whether a descriptor can carry a guest. Where it is a file, gives what locks that: it is
/// locked as long as this is open.
pub fn check_handed(file: &File, direction: Direction) -> Result<Option<File>, FileError> {
    let kind = FileKind::from(file.metadata()?.file_type());
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL).map_err(io::Error::from)?);
    let mode = flags & OFlag::O_ACCMODE;
    let (other, access, doing) = match direction {
        Direction::Out => (OFlag::O_RDONLY, Access::Write, "writing"),
        Direction::In => (OFlag::O_WRONLY, Access::Read, "reading"),
    };
    if mode == other || kind == FileKind::Directory {
        let why = format!("it is {kind} that is not open for {doing}");
        return Err(FileError::System(io::Error::other(why)));
    }
    if !matches!(kind, FileKind::Regular | FileKind::BlockDevice) {
        return Ok(None);
    }
    // Opened once more: a lock on what the client has open, too, would stay as long as the client
    // has it.
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    let Ok(own) = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(again) else {
        // An ordinary user's process, which nobody may look into, may not open its own files so.
        // What others have, it sees all the same.
        return match look(file, access) {
            Ok(()) | Err(Locked::NoLocks(_)) => Ok(None),
            Err(used) => Err(FileError::InUse(used)),
        };
    };
    take(&own, access)?;
    Ok(Some(own))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use nix::sys::stat::Mode;

    use super::*;

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }
        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }
        fn with(&self, name: &str, bytes: &[u8]) -> PathBuf {
            std::fs::write(self.at(name), bytes).unwrap();
            self.at(name)
        }
        fn fifo(&self, name: &str) -> PathBuf {
            nix::unistd::mkfifo(&self.at(name), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
            self.at(name)
        }
    }

    fn write(path: &Path, offset: u64) -> Result<File, String> {
        let file = to_write(path, &Launcher::none()).map_err(|error| error.to_string())?;
        check_contents(&file, offset).map_err(|error| error.to_string())?;
        Ok(file)
    }

    fn read(path: &Path) -> Result<File, String> {
        to_read(path).map_err(|error| error.to_string())
    }

    #[test]
    fn only_a_saved_guest_or_nothing_is_overwritten() {
        let dir = Dir::new();
        let mut later = vec![0; NOTHING];
        later[NOTHING - 1] = 1;
        for (name, bytes) in [("text", &b"precious\n"[..]), ("image", b"QFI\xfb\0\0\0\x03"), ("later", &later)] {
            let path = dir.with(name, bytes);
            let error = write(&path, 0).unwrap_err();
            assert!(error.contains("would be lost"), "{name}: {error}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name}");
            // What stands before the offset stays.
            write(&path, bytes.len() as u64).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name}");
        }
        for (name, bytes) in [("empty", &b""[..]), ("zeros", &[0; 100]), ("guest", b"WHIMBREL and more")] {
            write(&dir.with(name, bytes), 0).unwrap();
        }
        let offset = dir.with("header", b"a header, then WHIMBREL");
        write(&offset, 15).unwrap();
        assert!(write(&offset, 14).is_err());
    }

    #[test]
    fn what_is_no_file_is_refused_by_name_and_nothing_is_waited_for() {
        let dir = Dir::new();
        let _living = UnixListener::bind(dir.at("socket")).unwrap();
        let fifo = dir.fifo("fifo");
        symlink(&fifo, dir.at("link")).unwrap();
        for (path, out, back) in [
            (fifo, "FIFO that nobody reads", "FIFO that nobody writes to"),
            (dir.at("link"), "FIFO that nobody reads", "FIFO that nobody writes to"),
            (dir.at("socket"), "it is a socket", "it is a socket"),
            (dir.0.path().to_owned(), "it is a directory", "it is a directory"),
            ("/dev/zero".into(), "", "it is a character device"),
            ("/dev/ptmx".into(), "it is a terminal", "it is a character device"),
        ] {
            let written = write(&path, 0).err().unwrap_or_default();
            assert!(written.contains(out), "{}: {written}", path.display());
            let read = read(&path).unwrap_err();
            assert!(read.contains(back), "{}: {read}", path.display());
        }
    }

    #[test]
    fn a_fifo_with_somebody_at_its_other_end_carries_a_guest() {
        let dir = Dir::new();
        let fifo = dir.fifo("fifo");
        let mut writer = File::options().read(true).write(true).open(&fifo).unwrap();
        write(&fifo, 0).unwrap();
        read(&fifo).unwrap();
        writer.write_all(b"WHIM").unwrap();
        // Looking takes nothing out.
        let mut got = [0; 4];
        read(&fifo).unwrap().read_exact(&mut got).unwrap();
        assert_eq!(&got, b"WHIM");
    }

    #[test]
    fn a_file_that_is_written_is_nobody_elses_and_one_that_is_read_is_not_written() {
        let dir = Dir::new();
        let path = dir.with("guest", b"WHIMBREL");
        let writer = write(&path, 0).unwrap();
        for refused in [write(&path, 0), read(&path)] {
            let error = refused.unwrap_err();
            assert!(error.contains("is being written by another process"), "{error}");
        }
        drop(writer);
        let (one, other) = (read(&path).unwrap(), read(&path).unwrap());
        let again = one.try_clone().unwrap();
        drop((one, other));
        assert!(write(&path, 0).unwrap_err().contains("in use by another process"));
        drop(again);
        write(&path, 0).unwrap();
    }

    #[test]
    fn a_descriptor_is_looked_at_and_its_file_is_locked_while_it_is_used() {
        let dir = Dir::new();
        let path = dir.with("guest", b"WHIMBREL");
        let open = |write: bool| File::options().read(!write).write(write).open(&path).unwrap();
        let wrong = check_handed(&open(false), Direction::Out).unwrap_err().to_string();
        assert!(wrong.contains("not open for writing"), "{wrong}");
        assert!(check_handed(&open(true), Direction::In).unwrap_err().to_string().contains("not open for reading"));
        assert!(check_handed(&File::open(dir.0.path()).unwrap(), Direction::In).is_err());
        let client = open(true);
        let lock = check_handed(&client, Direction::Out).unwrap();
        assert!(lock.is_some());
        assert!(check_handed(&open(true), Direction::Out).unwrap_err().to_string().contains("being written"));
        // The client still has it; it is free all the same.
        drop(lock);
        read(&path).unwrap();
        drop(client);
        let (_read, pipe) = io::pipe().unwrap();
        assert!(check_handed(&File::from(std::os::fd::OwnedFd::from(pipe)), Direction::Out).unwrap().is_none());
    }
}
