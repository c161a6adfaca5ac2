//! Who gets the processor first when there are fewer of them than threads that want one.
//!
//! On a host with a core to spare this changes nothing. On a busy one a demanded page would wait
//! for whole time slices of the threads that stream the background. Those keep their place beside
//! the vCPUs: behind them, a guest with as many busy vCPUs as there are cores would keep its own
//! pages from arriving (a postcopy of 2 hot vCPUs on 2 cores took 2.3 times as long).

use std::io;

use crate::logging as log;

/// How much earlier, as a nice value.
const EARLY: i32 = -10;

/// For a thread that somebody waits for: from now on the calling thread goes as early as the host
/// allows. That needs a privilege; without it the thread keeps its place.
pub(crate) fn raise_priority() {
    // On Linux the "process" 0 of this call is the calling thread.
    if let Err(error) = rustix::process::setpriority_process(None, EARLY) {
        log::debug!("the thread keeps its priority: {error}");
    }
}

/// How much later, as a nice value.
const LATE: i32 = 19;

/// For a thread whose work may as well be done later, or never.
pub(crate) fn lower_priority() {
    if let Err(error) = rustix::process::setpriority_process(None, LATE) {
        log::debug!("the thread keeps its priority: {error}");
    }
}

/// How long that thread has the processor before another one is asked, in nanoseconds: the least
/// that the kernel grants.
const TURN: u64 = 100_000;

/// For the thread that takes in the background: it gets as much of the processor as before, but in
/// short turns, so that a vCPU whose page came does not wait for the end of a long one. Linux 6.12
/// and later; others take no notice. The source's thread has none to give way to, and would only
/// take turns with this one.
pub(crate) fn use_short_slices() {
    if let Err(error) = set_turn(TURN) {
        log::debug!("the thread keeps its time slice: {error}");
    }
}

fn set_turn(nanoseconds: u64) -> io::Result<()> {
    const THIS_THREAD: libc::pid_t = 0;
    let size = size_of::<libc::sched_attr>() as u32;
    // SAFETY: every bit pattern is a value of this structure of numbers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most `size` bytes, the size of `attributes`, which lives until
    // the call returns.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, THIS_THREAD, &raw mut attributes, size, 0) };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    if attributes.sched_policy != libc::SCHED_OTHER as u32 {
        // Somebody has decided otherwise.
        return Ok(());
    }
    attributes.sched_runtime = nanoseconds;
    // SAFETY: the kernel reads `attributes.size` bytes, which it has told itself and which is at
    // most its size here.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, THIS_THREAD, &raw const attributes, 0) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
