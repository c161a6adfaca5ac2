//! Taking a vCPU out of the guest from another thread.
//!
//! A signal alone is not enough: one that arrives just before `KVM_RUN` begins would be lost. So
//! the `immediate_exit` byte of the vCPU's shared page is set first; `KVM_RUN` looks at it on
//! entry. The signal is for a vCPU that is inside already.

use std::io;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet};

use super::KvmError;

/// A thread's number, as the kernel counts (`gettid`).
pub type ThreadId = i32;

extern "C" fn nothing(_: libc::c_int) {}

/// Gives the kick signal an empty handler, so that it interrupts `KVM_RUN` and nothing else. Once
/// per process; more often does no harm.
pub fn install_kick_signal() -> Result<(), KvmError> {
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // `nix` has no names for real-time signals, so the structure goes through libc.
    let action: libc::sigaction = action.into();
    // SAFETY: The handler does nothing, which is safe at any moment; `action` is initialised.
    let result = unsafe { libc::sigaction(libc::SIGRTMIN(), &action, std::ptr::null_mut()) };
    if result != 0 {
        return Err(KvmError::Signal(io::Error::last_os_error()));
    }
    Ok(())
}

/// The handle by which other threads interrupt one vCPU.
#[derive(Debug)]
pub struct Kick {
    immediate_exit: *const AtomicU8,
    thread: AtomicI32,
}

// SAFETY: The pointer leads to one byte of a shared mapping that `VcpuHandle` keeps alive (a `Kick`
// is only reached through the structure that owns both); every access from here is atomic.
unsafe impl Send for Kick {}
// SAFETY: As above.
unsafe impl Sync for Kick {}

impl Kick {
    /// # Safety
    /// `immediate_exit` is valid for as long as the `Kick` is used.
    pub(super) unsafe fn new(immediate_exit: *mut u8) -> Self {
        Self { immediate_exit: immediate_exit.cast(), thread: AtomicI32::new(0) }
    }

    /// Says that the calling thread runs the vCPU.
    pub fn adopt(&self) -> ThreadId {
        let id = nix::unistd::gettid().as_raw();
        self.thread.store(id, Ordering::Release);
        id
    }

    /// The thread that runs the vCPU, 0 before there is one.
    pub fn thread(&self) -> ThreadId {
        self.thread.load(Ordering::Acquire)
    }

    /// Whether `KVM_RUN` shall come straight back.
    pub fn set_immediate_exit(&self, set: bool) {
        // SAFETY: The pointer is valid (see `new`) and the kernel treats the byte as racy by
        // design.
        unsafe { (*self.immediate_exit).store(u8::from(set), Ordering::SeqCst) }
    }

    /// Makes the vCPU leave the guest now. It stays out until the flag is cleared.
    pub fn interrupt(&self) {
        self.set_immediate_exit(true);
        let thread = self.thread();
        if thread != 0 {
            // SAFETY: tgkill only sends a signal whose handler is empty; a thread that ended
            // meanwhile gives ESRCH.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGRTMIN()) };
        }
    }
}
