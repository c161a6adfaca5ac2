//! What the machine tells the world.

/// Why the machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownCause {
    /// The guest powered off.
    GuestShutdown,
    /// The guest wrote `code` to the exit port: the process exits with `code`.
    GuestExit(u8),
    /// The guest triple-faulted or KVM gave up: the registers are in the log.
    GuestPanic,
    /// A monitor or a signal asked.
    HostQuit,
}

/// Something that happened to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// vCPUs stopped (event STOP).
    Stop,
    /// vCPUs started (event RESUME).
    Resume,
    /// The machine was reset (event RESET); `guest` when the guest asked.
    Reset {
        /// Whether the guest asked for it.
        guest: bool,
    },
    /// The guest's share of its memory changed (event BALLOON_CHANGE): [`super::Machine::see_balloon_change`] says to what, and until
    /// that was asked this is not told again.
    BalloonChange,
    /// The end (event SHUTDOWN); the process leaves after it.
    Shutdown(ShutdownCause),
}

/// One vCPU as `info cpus` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuInfo {
    /// Its number, from 0.
    pub index: usize,
    /// Its thread.
    pub thread_id: i32,
}
