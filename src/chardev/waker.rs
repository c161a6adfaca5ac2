//! What wakes the thread of a character device, and tells it to end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Wakes the thread: there may be room for input, or something to write, or it is to end.
#[derive(Clone)]
pub struct Waker(Arc<WakerState>);

struct WakerState {
    event: EventFd,
    stopped: AtomicBool,
}

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(Arc::new(WakerState { event: EventFd::from_flags(flags)?, stopped: AtomicBool::new(false) })))
    }

    /// Wakes it.
    pub fn wake(&self) {
        // Only fails when it is full of wake-ups.
        let _ = self.0.event.write(1);
    }

    pub(super) fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }

    /// Takes the wake-ups so far.
    pub(super) fn clear(&self) {
        // Fails where there is none.
        let _ = self.0.event.read();
    }
}

impl AsFd for Waker {
    /// Readable when it was woken.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}
