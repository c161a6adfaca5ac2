//! Open files that go to a process of the same host, over a unix socket, together with bytes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Channel, ChannelError, Wake};
pub use crate::host::socket::MOST_FILES;
use crate::host::socket::{receive_files, send_files};

/// Files that came, until a message says what they are.
#[derive(Debug, Default)]
pub struct Handed {
    /// In the order in which they came.
    pub files: Vec<OwnedFd>,
    /// There were more, which are closed.
    pub too_many: bool,
}

impl Handed {
    /// Receives bytes as [`Channel::receive`] does, and keeps the files that come with them.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
        let (bytes, mut files, more) = receive_files(socket, buffer)?;
        let room = MOST_FILES.saturating_sub(self.files.len());
        self.too_many |= more || files.len() > room;
        files.truncate(room);
        self.files.append(&mut files);
        Ok(bytes)
    }
}

impl Channel {
    /// Whether files can go with bytes: the peer is a process of this host, behind a unix socket.
    pub fn takes_files(&self) -> bool {
        self.is_local()
    }

    /// Sends bytes, few enough that they go at once, and with the first of them the files; waits as
    /// needed.
    pub(crate) fn send_files(
        &self,
        bytes: &[u8],
        files: &[BorrowedFd<'_>],
        wake: &Wake,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<(), ChannelError> {
        if !self.takes_files() || files.len() > MOST_FILES {
            return Err(io::Error::from(io::ErrorKind::Unsupported).into());
        }
        loop {
            match send_files(self.as_fd(), bytes, files) {
                // The rest of them, without the files, which went with the first.
                Ok(sent) => return self.send(bytes.get(sent..).unwrap_or_default(), wake, interrupted),
                Err(error) => self.wait_to_send(error, wake, interrupted)?,
            }
        }
    }
}
