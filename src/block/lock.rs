//! Locks on image files, by the convention of QEMU's file driver, so that qemu-img and QEMU respect
//! them and we respect theirs.
//!
//! A user of an image has *permissions* that it uses and permissions that it forbids to others. For
//! permission number `n` it holds a shared lock on byte 100 + n if it uses it and on byte 200 + n
//! if it forbids it; then it looks whether anybody else holds the opposite byte. As the locks come
//! before the look, two that start at the same moment may both give up, but never both go on. The
//! bytes need not exist in the file.
//!
//! The locks are those of the open file description (`F_OFD_SETLK`): other than POSIX's they do not
//! vanish when any descriptor of the same file is closed somewhere in the process, and two users
//! inside one process exclude each other, too.

use std::fs::File;
use std::io;
use std::path::Path;

use libc::{c_int, flock};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::BlockError;

/// Byte of the first permission in use.
const USED: i64 = 100;
/// Byte of the first permission forbidden to others.
const FORBIDDEN: i64 = 200;

/// Permissions, by their number in QEMU. Number 2, rewriting what is there, is nothing that a
/// guest's disk does or minds.
#[derive(Clone, Copy)]
enum Permission {
    ConsistentRead = 0,
    Write = 1,
    Resize = 3,
}

/// What an image file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading, while nobody writes. Any number of readers share a file.
    Read,
    /// Reading and writing, alone. (A reader that takes no locks, as 'qemu-img info -U', still
    /// can.)
    Write,
}

impl Access {
    const fn uses(self) -> &'static [Permission] {
        match self {
            Self::Read => &[Permission::ConsistentRead],
            // A qcow2 file grows as it is written.
            Self::Write => &[Permission::ConsistentRead, Permission::Write, Permission::Resize],
        }
    }

    const fn forbids(self) -> &'static [Permission] {
        &[Permission::Write, Permission::Resize]
    }
}

/// Why a file cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum Locked {
    /// Somebody writes to it.
    #[error("it is being written by another process, maybe on another host, or by this one for another purpose")]
    Written,
    /// Somebody relies on its staying as it is.
    #[error("it is in use by another process, maybe on another host, or by this one for another purpose")]
    Guarded,
    /// The file system knows no locks, or its lock server does not answer.
    #[error("it cannot be locked")]
    NoLocks(#[source] io::Error),
}

/// Locks `file` for `access` until all descriptors of its open file description are closed,
/// wherever they are. What it is refused leaves nothing.
pub fn lock(file: &File, access: Access) -> Result<(), Locked> {
    let locked = lock_all(file, access);
    if locked.is_err() {
        let _ = unlock(file);
    }
    locked
}

fn lock_all(file: &File, access: Access) -> Result<(), Locked> {
    let no_locks = |error: Errno| Locked::NoLocks(error.into());
    for byte in bytes(USED, access.uses()).chain(bytes(FORBIDDEN, access.forbids())) {
        share(file, byte).map_err(|error| match error {
            // Somebody holds the byte for itself alone: not QEMU, but no good sign.
            Errno::EAGAIN | Errno::EACCES => Locked::Guarded,
            other => no_locks(other),
        })?;
    }
    look(file, access)
}

/// Whether nobody's lock stands against this use of the file. Takes none itself, which `file` need
/// not be open for.
pub fn look(file: &File, access: Access) -> Result<(), Locked> {
    let no_locks = |error: Errno| Locked::NoLocks(error.into());
    // Who writes is looked for first: of a file that is written to, that is the thing to know.
    if held_by_others(file, bytes(USED, access.forbids())).map_err(no_locks)? {
        return Err(Locked::Written);
    }
    if held_by_others(file, bytes(FORBIDDEN, access.uses())).map_err(no_locks)? {
        return Err(Locked::Guarded);
    }
    Ok(())
}

fn share(file: &File, byte: i64) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&region(libc::F_RDLCK, byte, 1))).map(drop)
}

/// Asks for the lock that shares with nobody; one's own description does not count.
fn held_by_others(file: &File, bytes: impl Iterator<Item = i64>) -> Result<bool, Errno> {
    for byte in bytes {
        let mut found = region(libc::F_WRLCK, byte, 1);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
        if c_int::from(found.l_type) != libc::F_UNLCK {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether nobody else has claimed this number of a directory, which is claimed by it from here on,
/// as long as the directory's file is open. Two that begin at one moment may both hear no, never
/// both yes.
pub fn is_first(directory: &File, number: u64) -> io::Result<bool> {
    // The kernel knows places up to 2^63.
    let byte = (number >> 2) as i64;
    share(directory, byte)?;
    let first = !held_by_others(directory, [byte].into_iter())?;
    if !first {
        unlock(directory)?;
    }
    Ok(first)
}

fn unlock(file: &File) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&region(libc::F_UNLCK, 0, 0))).map(drop)
}

/// A held lock: dropping it lets go.
#[derive(Debug)]
pub struct Lock {
    file: File,
    access: Access,
}

impl Lock {
    /// Locks `file`, which was opened from `path`, for `access`.
    pub fn take(file: &File, path: &Path, access: Access) -> Result<Self, BlockError> {
        let open = |source| BlockError::Open { path: path.to_owned(), source };
        // A second descriptor of the same description, so that the lock goes only after the first
        // was closed.
        let own = file.try_clone().map_err(open)?;
        match lock(&own, access) {
            Ok(()) => Ok(Self { file: own, access }),
            Err(Locked::Written) => Err(BlockError::Written(path.to_owned())),
            Err(Locked::Guarded) => Err(BlockError::Guarded(path.to_owned())),
            Err(Locked::NoLocks(source)) => Err(BlockError::NoLocks { path: path.to_owned(), source }),
        }
    }

    /// What it was taken for.
    pub fn access(&self) -> Access {
        self.access
    }

    /// A further descriptor of what it locks. The lock does not last longer for it.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

impl Drop for Lock {
    /// Closing the file would do, if no child process that was just forked had it, too.
    fn drop(&mut self) {
        if let Err(error) = unlock(&self.file) {
            log::warn!("the lock on a disk image cannot be released before its file is closed: {error}");
        }
    }
}

fn bytes(base: i64, permissions: &'static [Permission]) -> impl Iterator<Item = i64> {
    permissions.iter().map(move |it| base + *it as i64)
}

/// `length` 0 reaches to the end of all files.
fn region(kind: c_int, start: i64, length: i64) -> flock {
    // The kernel wants no process id in here when the lock is to belong to the description.
    flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: start, l_len: length, l_pid: 0 }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    fn take(path: &Path, access: Access) -> Result<Lock, BlockError> {
        let file = OpenOptions::new().read(true).write(access == Access::Write).open(path).unwrap();
        Lock::take(&file, path, access)
    }

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let path = image.path();
        let first = take(path, Access::Read).unwrap();
        let second = take(path, Access::Read).unwrap();
        assert!(matches!(take(path, Access::Write), Err(BlockError::Guarded(_))));
        drop(first);
        assert!(matches!(take(path, Access::Write), Err(BlockError::Guarded(_))));
        drop(second);

        let writer = take(path, Access::Write).unwrap();
        assert!(matches!(take(path, Access::Write), Err(BlockError::Written(_))));
        assert!(matches!(take(path, Access::Read), Err(BlockError::Written(_))));
        drop(writer);
        take(path, Access::Write).unwrap();
    }

    #[test]
    fn a_refused_lock_leaves_nothing_behind() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let reader = take(image.path(), Access::Read).unwrap();
        take(image.path(), Access::Write).unwrap_err();
        take(image.path(), Access::Read).unwrap();
        drop(reader);
        take(image.path(), Access::Write).unwrap();
    }

    #[test]
    fn a_lock_without_a_holder_goes_with_the_last_descriptor() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let file = OpenOptions::new().read(true).write(true).open(image.path()).unwrap();
        lock(&file, Access::Write).unwrap();
        let other = OpenOptions::new().read(true).write(true).open(image.path()).unwrap();
        let second = file.try_clone().unwrap();
        drop(file);
        assert!(matches!(lock(&other, Access::Write), Err(Locked::Written)));
        // Looking needs no more than a descriptor, of whatever mode.
        let blind = OpenOptions::new().write(true).open(image.path()).unwrap();
        assert!(matches!(look(&blind, Access::Write), Err(Locked::Written)));
        drop(second);
        look(&blind, Access::Write).unwrap();
        lock(&other, Access::Write).unwrap();
    }

    #[test]
    fn closing_another_descriptor_of_the_file_keeps_the_lock() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let _writer = take(image.path(), Access::Write).unwrap();
        drop(File::open(image.path()).unwrap());
        take(image.path(), Access::Read).unwrap_err();
    }

    #[test]
    fn a_whole_file_lock_of_a_stranger_is_respected() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let stranger = OpenOptions::new().read(true).write(true).open(image.path()).unwrap();
        fcntl(&stranger, FcntlArg::F_OFD_SETLK(&region(libc::F_WRLCK, 0, 0))).unwrap();
        assert!(matches!(take(image.path(), Access::Read), Err(BlockError::Guarded(_))));
    }

    #[test]
    fn a_lock_that_cannot_be_had_is_told_of() {
        let image = tempfile::NamedTempFile::new().unwrap();
        // The nearest thing to a file system without locks: a file that cannot be read has no
        // shared locks.
        let file = OpenOptions::new().write(true).open(image.path()).unwrap();
        let error = Lock::take(&file, image.path(), Access::Write).unwrap_err();
        assert!(matches!(error, BlockError::NoLocks { .. }), "{error}");
        assert!(error.to_string().contains("cannot be locked"), "{error}");
    }
}
