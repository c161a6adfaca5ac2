//! Who gets the processor first when there are fewer of them than threads that want one.
//!
//! On a host with a core to spare this changes nothing. On a busy one a demanded page would wait for whole time slices of the
//! threads that stream the background, which nobody waits for.

/// What a thread of the engine is to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Somebody waits for its work: as early as the host allows.
    First,
    /// Nobody waits for its work: after everybody else, the vCPUs included.
    Last,
}

impl Turn {
    /// For the calling thread, from now on. Going first needs a privilege; without it the thread keeps its place.
    pub fn take(self) {
        let nice = match self {
            Self::First => -10,
            Self::Last => 10,
        };
        // On Linux the "process" 0 of this call is the calling thread.
        if let Err(error) = rustix::process::setpriority_process(None, nice) {
            log::debug!("the thread keeps its priority: {error}");
        }
    }
}
