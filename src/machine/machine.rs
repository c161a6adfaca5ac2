//! [`Machine`]: what it is made of.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use kvm_bindings::kvm_cpuid_entry2;
use uuid::Uuid;

use super::chipset::Chipset;
use super::event::Announcer;
use super::operation::Operation;
use super::peripherals::Peripherals;
use super::timed_mutex::TimedMutex;
use super::{RunState, VcpuInfo};
use crate::block::DiskInfo;
use crate::boot::acpi::Inventory;
use crate::chardev::{CharBackend, Output};
use crate::config::BootConfig;
use crate::devices::{PowerManagement, SavedDevice, Serial};
use crate::kvm::{DirtyLog, GuestRam, Vm};
use crate::net::Network;
use crate::vcpu::{CpuModel, MsrTable, Vcpu, VcpuGate, VcpuState};

/// The virtual machine. Shared by the monitor, the migration and the control thread.
///
/// Lock order: `operation`, then `run_state`, then the gate's and the vCPUs' own. Events are told
/// with no lock held.
pub struct Machine {
    // vCPUs, then the VM, then RAM: fields are dropped in this order.
    pub(super) vcpus: Arc<[Arc<Vcpu>]>,
    pub(super) vm: Arc<Vm>,
    pub(super) ram: Arc<GuestRam>,
    pub(super) gate: Arc<VcpuGate>,
    pub(super) serial: Arc<Serial<Output>>,
    pub(super) power: Arc<PowerManagement>,
    pub(super) backend: CharBackend,
    pub(super) peripherals: Peripherals,
    /// Every device whose state is saved, in the order of saving.
    pub(super) devices: Vec<Arc<dyn SavedDevice>>,
    pub(super) network: Network,
    pub(super) dirty_log: DirtyLog,
    pub(super) msrs: MsrTable,
    pub(super) boot: Option<BootConfig>,
    /// What a guest that boots here is told of.
    pub(super) inventory: Inventory,
    /// Started with `--paused`: a guest that arrives is not started.
    pub(super) arrives_paused: bool,
    /// A guest that arrives takes what only one host may have no sooner than it runs.
    pub(super) takes_late: AtomicBool,
    pub(super) identity: Identity,
    pub(super) switched_on: SwitchedOn,
    pub(super) processor: Processor,
    pub(super) run_state: Mutex<RunState>,
    pub(super) operation: TimedMutex<Operation>,
    pub(super) threads: Mutex<Vec<JoinHandle<()>>>,
    pub(super) announcer: Announcer,
}

/// Which virtual machine this is.
pub(super) struct Identity {
    /// `--uuid`.
    pub uuid: Option<Uuid>,
    /// A guest that leaves names it to its destination, which checks it.
    pub is_told: AtomicBool,
}

/// The state of a machine that was just switched on: what a reset goes back to.
pub(super) struct SwitchedOn {
    pub chipset: Chipset,
    pub vcpus: Vec<VcpuState>,
}

/// The processor: what the host can show a guest, and what this machine was started to show.
pub(super) struct Processor {
    /// All that the host's KVM can show.
    pub offered: Vec<kvm_cpuid_entry2>,
    /// The part of it that `--cpu` chose.
    pub chosen: Vec<kvm_cpuid_entry2>,
    /// The choice.
    pub model: CpuModel,
    /// The host's TSC.
    pub tsc_khz: u32,
    /// The guest's TSC, which is the host's unless the guest came from another.
    pub guest_tsc_khz: AtomicU32,
}

impl Machine {
    /// How it stands.
    pub fn run_state(&self) -> RunState {
        *self.run_state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The vCPUs.
    pub fn vcpus(&self) -> Vec<VcpuInfo> {
        self.vcpus.iter().enumerate().map(|(index, vcpu)| VcpuInfo { index, thread_id: vcpu.kick().thread() }).collect()
    }

    /// The disks, in the order of the command line.
    pub fn disks(&self) -> Vec<DiskInfo> {
        self.peripherals.disks()
    }

    /// `--uuid`.
    pub fn uuid(&self) -> Option<Uuid> {
        self.identity.uuid
    }

    /// Whether a guest that leaves names [`Machine::uuid`] to its destination, which then must have
    /// the same (capability `validate-uuid`).
    pub fn tell_uuid(&self, told: bool) {
        self.identity.is_told.store(told, Ordering::Relaxed);
    }

    /// Whether a guest that arrives takes what only one host may have no sooner than it runs
    /// (capability `late-block-activate`), instead of with its state. Until then another may have
    /// it.
    pub fn take_late(&self, late: bool) {
        self.takes_late.store(late, Ordering::Relaxed);
    }

    /// Whether guest RAM is such that another process can map it.
    pub fn has_shared_ram(&self) -> bool {
        self.ram.is_shared()
    }

    /// Guest RAM.
    pub fn guest_ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Whether pages of a guest that runs here are still missing: a touch of one may wait.
    pub fn is_arriving(&self) -> bool {
        self.ram.touch_may_wait()
    }

    /// Guest RAM in bytes.
    pub fn memory_size(&self) -> u64 {
        self.ram.bytes()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.shutdown();
    }
}
