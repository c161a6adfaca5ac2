//! [`Wake`]: makes a thread that polls a channel look up.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::EfdFlags;

use crate::host::{EventFd, poll};

/// Rings until it is cleared. Made of an eventfd, so that it can be polled next to a socket.
#[derive(Debug)]
pub struct Wake {
    event: EventFd,
}

impl Wake {
    /// Not ringing.
    pub fn new() -> io::Result<Self> {
        Ok(Self { event: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)? })
    }

    /// Rings. What the woken thread is to see must be stored before.
    pub fn ring(&self) {
        // The only failure is a counter at its maximum, which rings all the same.
        let _ = self.event.write(1);
    }

    /// Sleeps until it rings, and clears it.
    pub fn wait(&self) {
        self.sleep(PollTimeout::NONE);
    }

    /// The same, for `time` at most.
    pub fn wait_for(&self, time: Duration) {
        self.sleep(PollTimeout::try_from(time.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX));
    }

    fn sleep(&self, timeout: PollTimeout) {
        let mut fds = [PollFd::new(self.event.as_fd(), PollFlags::POLLIN)];
        // An interrupted wait is a wake-up too many, which every caller must bear anyway.
        let _ = poll(&mut fds, timeout);
        self.clear();
    }

    /// Stops ringing. Look at what was stored after this, not before.
    pub fn clear(&self) {
        let _ = self.event.read();
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
