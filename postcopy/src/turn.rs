//! Who gets the processor first when there are fewer of them than threads that want one.
//!
//! On a host with a core to spare this changes nothing. On a busy one a demanded page would wait for whole time slices of the
//! threads that stream the background. Those keep their place beside the vCPUs: behind them, a guest with as many busy vCPUs as
//! there are cores would keep its own pages from arriving (a postcopy of 2 hot vCPUs on 2 cores took 2.3 times as long).

/// How much earlier, as a nice value.
const EARLY: i32 = -10;

/// For a thread that somebody waits for: from now on the calling thread goes as early as the host allows. That needs a privilege;
/// without it the thread keeps its place.
pub(crate) fn go_first() {
    // On Linux the "process" 0 of this call is the calling thread.
    if let Err(error) = rustix::process::setpriority_process(None, EARLY) {
        log::debug!("the thread keeps its priority: {error}");
    }
}

/// How much later, as a nice value.
const LATE: i32 = 19;

/// For a thread whose work may as well be done later, or never.
pub(crate) fn go_last() {
    if let Err(error) = rustix::process::setpriority_process(None, LATE) {
        log::debug!("the thread keeps its priority: {error}");
    }
}
