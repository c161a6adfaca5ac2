//! KVM: every ioctl of it, and guest RAM.
//!
//! | file | what is in it |
//! |---|---|
//! | `hypervisor` | `/dev/kvm` itself: opening it, what it can do, its CPUID and MSR lists |
//! | `capabilities` | what was probed, once |
//! | `vm` | one VM: memory slots, interrupt chips, timer, clock |
//! | `dirty_log` | the log of written pages, with manual protect or without |
//! | `vcpu` | one vCPU: running it, its exits, its registers |
//! | `kick` | the signal and the flag that take a vCPU out of the guest |
//! | `ram`, `ram_mode` | guest RAM's mappings, and what they are for |
//! | `layouts` | what those consist of, for tools |
//! | `raw` | kernel structures as bytes |

mod capabilities;
mod dirty_log;
mod error;
mod hypervisor;
mod kick;
pub mod layouts;
mod ram;
mod ram_mode;
mod raw;
mod vcpu;
mod vm;

pub use capabilities::{Capabilities, ManualProtect};
pub use dirty_log::DirtyLog;
pub use error::KvmError;
pub use hypervisor::Hypervisor;
pub use kick::{Kick, ThreadId, install_kick_signal};
pub use ram::{GuestMemory, GuestRam, RamRange};
pub use ram_mode::RamMode;
pub use raw::{KernelStruct, as_bytes, from_bytes, zeroed};
pub use vcpu::{Exit, VcpuHandle};
pub use vm::Vm;
pub use whimbrel_postcopy::ram::PAGE_SIZE;
