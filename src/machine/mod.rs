//! The virtual machine.

use crate::config::MachineConfig;
use std::sync::Arc;

/// What the guest does right now, by QEMU's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Built, started with `--paused`, never ran.
    Prelaunch,
    /// Waits for a guest to arrive.
    Inmigrate,
    /// vCPUs run.
    Running,
    /// Stopped by the user.
    Paused,
    /// Stopped by a migration that ends.
    FinishMigrate,
    /// The guest went to another host.
    Postmigrate,
    /// KVM gave up on the guest.
    InternalError,
    /// The guest powered off.
    Shutdown,
}

impl RunState {
    /// QEMU's name, as `query-status` and `info status` show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prelaunch => "prelaunch",
            Self::Inmigrate => "inmigrate",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::FinishMigrate => "finish-migrate",
            Self::Postmigrate => "postmigrate",
            Self::InternalError => "internal-error",
            Self::Shutdown => "shutdown",
        }
    }
}

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
    /// The end (event SHUTDOWN); the process leaves after it.
    Shutdown(ShutdownCause),
}

/// A machine command that cannot be carried out now.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// One sentence for the user.
    #[error("{0}")]
    Refused(String),
}

/// One vCPU as `info cpus` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuInfo {
    /// Its number, from 0.
    pub index: usize,
    /// Its thread.
    pub thread_id: i32,
}

/// The virtual machine. Shared by the monitor, the migration and the vCPU threads.
pub struct Machine {}

impl Machine {
    /// Builds it: RAM, vCPUs, devices; with a kernel also loads that. Nothing runs yet. `events` is called from any thread.
    pub fn build(
        _config: &MachineConfig,
        _events: Arc<dyn Fn(MachineEvent) + Send + Sync>,
    ) -> Result<Arc<Self>, MachineError> {
        Ok(Arc::new(Self {}))
    }
    /// How it stands.
    pub fn run_state(&self) -> RunState {
        RunState::Running
    }
    /// `stop`.
    pub fn stop(&self) -> Result<(), MachineError> {
        Ok(())
    }
    /// `cont`. Refused in `inmigrate` (it then starts by itself once the guest is there) and in `postmigrate`.
    pub fn cont(&self) -> Result<(), MachineError> {
        Ok(())
    }
    /// `system_reset`.
    pub fn reset(&self) -> Result<(), MachineError> {
        Ok(())
    }
    /// The vCPUs.
    pub fn vcpus(&self) -> Vec<VcpuInfo> {
        Vec::new()
    }
    /// Ends every thread and gives the memory back. Idempotent.
    pub fn shutdown(&self) {}
    /// Guest RAM in bytes.
    pub fn memory_size(&self) -> u64 {
        0
    }
}
