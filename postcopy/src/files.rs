//! Files that users name: opened without waiting for anybody, and only if they are of the wanted
//! kind.
//!
//! Opening a FIFO waits for its other end, and so does reading one; a device may never end, and
//! some act when they are only opened. So the path is asked first what stands there, the file is
//! then opened without blocking, and asked once more what it came to be.

use std::fmt;
use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{O_NOCTTY, O_NONBLOCK};

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Bytes on a disk.
    Regular,
    /// A directory.
    Directory,
    /// A pipe with a name.
    Fifo,
    /// A unix socket.
    Socket,
    /// A terminal, `/dev/zero` and the like.
    CharacterDevice,
    /// A disk.
    BlockDevice,
    /// Something that no path leads to, such as an eventfd.
    Other,
}

impl From<FileType> for FileKind {
    fn from(found: FileType) -> Self {
        match found {
            _ if found.is_file() => Self::Regular,
            _ if found.is_dir() => Self::Directory,
            _ if found.is_fifo() => Self::Fifo,
            _ if found.is_socket() => Self::Socket,
            _ if found.is_char_device() => Self::CharacterDevice,
            _ if found.is_block_device() => Self::BlockDevice,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Regular => "a regular file",
            Self::Directory => "a directory",
            Self::Fifo => "a FIFO",
            Self::Socket => "a socket",
            Self::CharacterDevice => "a character device",
            Self::BlockDevice => "a block device",
            Self::Other => "no file",
        })
    }
}

/// Something else stands there than what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is {found}; give {wanted}")]
pub struct WrongKind {
    /// What it is.
    pub found: FileKind,
    /// What it should be, with its article.
    pub wanted: &'static str,
}

impl From<WrongKind> for io::Error {
    fn from(error: WrongKind) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

/// Opens what is at `path` if it is of one of these kinds. Never waits; whoever opens a terminal so
/// is not led by it. Errors: [`WrongKind`] and the system's.
pub fn open(
    path: &Path,
    options: &mut OpenOptions,
    kinds: &[FileKind],
    wanted: &'static str,
) -> io::Result<(File, Metadata)> {
    let refuse = |found: &Metadata| match FileKind::from(found.file_type()) {
        kind if kinds.contains(&kind) => Ok(()),
        found => Err(WrongKind { found, wanted }),
    };
    refuse(&std::fs::metadata(path)?)?;
    let file = options.custom_flags(O_NONBLOCK | O_NOCTTY).open(path)?;
    let metadata = file.metadata()?;
    refuse(&metadata)?;
    Ok((file, metadata))
}

/// Reads all of a regular file of at most so many bytes.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (file, metadata) = open(path, OpenOptions::new().read(true), &[FileKind::Regular], "a regular file")?;
    let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes"));
    if metadata.len() > most {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(metadata.len() as usize).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    // It may grow meanwhile.
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(too_large()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn only_regular_files_are_read_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), b"bytes").unwrap();
        symlink(at("file"), at("link")).unwrap();
        for name in ["file", "link"] {
            assert_eq!(read(&at(name), 5).unwrap(), b"bytes");
        }
        assert_eq!(read(&at("file"), 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let _living = UnixListener::bind(at("socket")).unwrap();
        symlink(at("fifo"), at("to-fifo")).unwrap();
        for (path, what) in [
            (at("fifo"), "a FIFO"),
            (at("to-fifo"), "a FIFO"),
            (at("socket"), "a socket"),
            (dir.path().to_owned(), "a directory"),
            ("/dev/zero".into(), "a character device"),
            ("/dev/tty".into(), "a character device"),
        ] {
            let error = read(&path, 5).unwrap_err().to_string();
            assert_eq!(error, format!("it is {what}; give a regular file"));
        }
        symlink(at("nowhere"), at("dangling")).unwrap();
        assert_eq!(read(&at("dangling"), 5).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
