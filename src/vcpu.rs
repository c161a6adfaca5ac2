//! vCPUs: their threads, their state, what they show of the processor.
//!
//! | file | what is in it |
//! |---|---|
//! | `gate` | stopping all vCPU threads at once and letting them go on; having them rest |
//! | `thread` | one vCPU's thread: into the guest, out, served, in again |
//! | `state` | saved registers: the layout, and the order of saving and loading |
//! | `msrs` | which model-specific registers this host can save and load |
//! | `cpuid` | the CPUID leaves of each vCPU |
//! | `boot` | the registers of a vCPU that begins at a kernel's entry point |
//! | `features` | CPUID features by name, sets of them, and which of them a host lacks |
//! | `words` | where CPUID has its features, and their names |
//! | `model` | what `--cpu` chooses: the processor that a guest is shown |
//! | `dump` | registers as text, for the monitor and the log of a guest that died |

mod boot;
mod cpuid;
mod cpuid_bits;
pub mod dump;
mod features;
mod gate;
mod model;
mod msrs;
mod state;
mod thread;

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use kvm_bindings::kvm_cpuid_entry2;

pub use boot::{LongMode, enter_linux64, enter_pvh, prepare};
pub use cpuid::guest_cpuid;
pub use features::{Feature, FeatureSet, FeatureWord, alike, feature_words, missing_features};
pub use gate::{DutyCycle, GuestRequest, VcpuGate};
pub use model::{
    CpuBase, CpuModel, CpuModelError, GuestCpu, HostCaps, Level, UnfitHost, physical_bits, vendor, xsave_layout,
};
pub use msrs::{MsrError, MsrTable, paravirtual_pages};
pub use state::{LoadFor, TscStart, VcpuState, VcpuStateError};
pub use thread::{spawn, spawn_throttle};

use crate::kvm::{Kick, VcpuHandle};

/// One vCPU. Its thread holds the lock on it while the guest runs and gives it up when it parks, so
/// whoever stopped the guest saves and loads the state from their own thread.
pub struct Vcpu {
    index: u8,
    cpuid: Mutex<Vec<kvm_cpuid_entry2>>,
    kick: Kick,
    handle: Mutex<VcpuHandle>,
}

impl Vcpu {
    /// vCPU `index`, showing `cpuid` (which `handle` was given already).
    pub fn new(index: u8, cpuid: Vec<kvm_cpuid_entry2>, handle: VcpuHandle) -> Self {
        Self { index, cpuid: Mutex::new(cpuid), kick: handle.kick(), handle: Mutex::new(handle) }
    }

    /// Its number, which is its APIC id.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// What CPUID shows on it. Not part of [`Self::lock`]: it is asked for while the guest runs.
    pub fn cpuid(&self) -> MutexGuard<'_, Vec<kvm_cpuid_entry2>> {
        self.cpuid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handle that takes it out of the guest.
    pub fn kick(&self) -> &Kick {
        &self.kick
    }

    /// Its registers. Waits for ever while the guest runs: stop it first.
    pub fn lock(&self) -> MutexGuard<'_, VcpuHandle> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its registers, unless somebody has them.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, VcpuHandle>> {
        match self.handle.try_lock() {
            Ok(handle) => Some(handle),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
