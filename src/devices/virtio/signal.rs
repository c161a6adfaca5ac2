//! A device's interrupt, with its cause, and the mark that it needs a reset.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::sys::eventfd::EventFd;

/// Bits of InterruptStatus (virtio 1.2, section 4.2.2).
const USED_BUFFER: u32 = 1;
const CONFIG_CHANGE: u32 = 2;

struct Shared {
    cause: AtomicU32,
    needs_reset: AtomicBool,
    line: Arc<EventFd>,
}

/// Shared by a device's registers, its queues and its configuration space.
#[derive(Clone)]
pub struct Signal(Arc<Shared>);

impl Signal {
    /// Interrupts by `line`, an irqfd.
    pub(super) fn new(line: Arc<EventFd>) -> Self {
        Self(Arc::new(Shared { cause: AtomicU32::new(0), needs_reset: AtomicBool::new(false), line }))
    }

    fn raise(&self, cause: u32) {
        self.0.cause.fetch_or(cause, Ordering::SeqCst);
        self.fire();
    }

    fn fire(&self) {
        // Fails only if the counter is full, which 2^64 unread interrupts would take.
        if let Err(error) = self.0.line.write(1) {
            log::error!("an interrupt of a virtio device is lost: {error}");
        }
    }

    /// Buffers were used.
    pub(super) fn used(&self) {
        self.raise(USED_BUFFER);
    }

    /// The configuration space changed.
    pub(super) fn config_changed(&self) {
        self.raise(CONFIG_CHANGE);
    }

    /// The device cannot go on until the driver resets it.
    pub(super) fn demand_reset(&self) {
        self.0.needs_reset.store(true, Ordering::SeqCst);
        self.raise(CONFIG_CHANGE);
    }

    pub(super) fn needs_reset(&self) -> bool {
        self.0.needs_reset.load(Ordering::SeqCst)
    }

    pub(super) fn cause(&self) -> u32 {
        self.0.cause.load(Ordering::SeqCst)
    }

    /// The driver has seen these causes.
    pub(super) fn acknowledge(&self, seen: u32) {
        self.0.cause.fetch_and(!seen, Ordering::SeqCst);
    }

    /// Back to silence, or to what was saved.
    pub(super) fn set(&self, cause: u32, needs_reset: bool) {
        self.0.cause.store(cause, Ordering::SeqCst);
        self.0.needs_reset.store(needs_reset, Ordering::SeqCst);
    }

    /// Interrupts again if there is a cause that the driver has not seen. An irqfd is served by the
    /// kernel later: one that was written just before the interrupt controllers were saved is not
    /// in their state. One too many is harmless, one too few is not.
    pub(super) fn repeat(&self) {
        if self.cause() != 0 {
            self.fire();
        }
    }
}
