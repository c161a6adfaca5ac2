//! [`Sink`]: where a stream is written, and [`Descriptor`], the plain one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::set_nonblocking;

/// Where a stream is written.
pub trait Sink: Send {
    /// What is polled and written to. Where it can block, it is in non-blocking mode.
    fn fd(&self) -> BorrowedFd<'_>;

    /// What is to be said of a guest that stays, behind its stream, where that is a file: for
    /// whoever lists such files.
    fn label(&self) -> &str {
        ""
    }

    /// Why it takes no more, where more is known than the system's `error`.
    fn unwritten(&mut self, error: io::Error) -> io::Error {
        error
    }

    /// All of the stream was written: returns once it is as safe as it can be here. The guest is
    /// given up after that; an error keeps it.
    fn commit(self: Box<Self>) -> io::Result<()>;
}

/// A file, a pipe or a socket.
pub struct Descriptor(OwnedFd);

impl Descriptor {
    /// Written to from where it stands. Errors: it cannot be put into non-blocking mode.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        set_nonblocking(descriptor.as_fd())?;
        Ok(Self(descriptor))
    }
}

impl Sink for Descriptor {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn commit(self: Box<Self>) -> io::Result<()> {
        match nix::unistd::fsync(&self.0) {
            // Nothing that keeps what it is given: whoever reads it has the rest in hand.
            Ok(()) | Err(Errno::EINVAL | Errno::EROFS | Errno::ENOTSUP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
