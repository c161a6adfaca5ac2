//! Open files that go to a process of the same host, over a unix socket, together with bytes.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::{Channel, ChannelError, Wake};

/// So many files can go with one message.
pub const MOST_FILES: usize = 16;

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
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        // No program that this process may start one day inherits them.
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
        self.too_many |= received.flags.contains(ReturnFlags::CTRUNC);
        for message in control.drain() {
            let RecvAncillaryMessage::ScmRights(files) = message else { continue };
            for file in files {
                match self.files.len() {
                    ..MOST_FILES => self.files.push(file),
                    _ => self.too_many = true,
                }
            }
        }
        Ok(received.bytes)
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
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::Error::from(io::ErrorKind::Unsupported).into());
        }
        loop {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(self.as_fd(), &[IoSlice::new(bytes)], &mut control, flags) {
                // The rest of them, without the files, which went with the first.
                Ok(sent) => return self.send(bytes.get(sent..).unwrap_or_default(), wake, interrupted),
                Err(error) => self.wait_to_send(error.into(), wake, interrupted)?,
            }
        }
    }
}
