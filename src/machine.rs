//! The virtual machine.
//!
//! | file | what is in it |
//! |---|---|
//! | `machine` | [`Machine`]: what it is made of |
//! | `build` | putting it together |
//! | `peripherals` | its virtio devices, and how they stand still and go on together |
//! | `run_state` | how it stands, and what may follow what |
//! | `operation`, `timed_mutex` | operations, one after the other; no monitor waits for ever |
//! | `ownership` | the disks' locks: acquired to run the guest here, released before it leaves |
//! | `kernel` | loading the kernel that the guest boots |
//! | `lifecycle` | stop, cont, reset, the power button, the guest's own requests, the end |
//! | `event` | what it tells the world |
//! | `saved` | its state as sections, and back |
//! | `chipset`, `clock` | the parts of that state that KVM keeps for the whole VM |
//! | `load_snapshot` | a snapshot that takes the guest's place |
//! | `balloon` | asking the guest for memory |
//! | `registers` | looking at the vCPUs' registers |
//! | `network` | announcing the guest to the network |
//! | `configuration` | what a migration's two ends must agree on |
//! | `first_pages` | what the vCPUs need in their first moments at a postcopy's destination |
//! | `migrate` | the seam to the migration engine |

mod balloon;
mod build;
mod chipset;
mod clock;
mod configuration;
mod error;
mod event;
mod first_pages;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod kernel;
mod lifecycle;
mod load_snapshot;
// The struct has the room's name because it is what the room is about.
#[allow(clippy::module_inception)]
mod machine;
mod migrate;
mod network;
mod operation;
mod ownership;
mod peripherals;
mod registers;
mod run_state;
mod saved;
mod timed_mutex;

pub use configuration::ConfigurationError;
pub use error::{MachineError, SavedStateError};
pub use event::{MachineEvent, ShutdownCause, VcpuInfo};
pub use machine::Machine;
pub use run_state::RunState;

#[cfg(test)]
mod tests;
