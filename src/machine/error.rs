//! Why the machine cannot be built or cannot do what is asked.

use std::io;

use super::RunState;
use crate::block::BlockError;
use crate::boot::BootError;
use crate::chardev::CharDeviceError;
use crate::devices::virtio::VirtioError;
use crate::kvm::KvmError;
use crate::net::NetworkError;
use crate::state::StateError;
use crate::vcpu::{UnfitHost, VcpuStateError};

/// A machine that cannot be built, or a command that cannot be carried out now.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// One sentence for the user.
    #[error("{0}")]
    Refused(String),
    /// The state does not allow it.
    #[error("the machine is {} and cannot become {}", from.name(), to.name())]
    Transition {
        /// How it stands.
        from: RunState,
        /// What was wanted.
        to: RunState,
    },
    /// A vCPU does not come out of the guest, or a device does not finish what it is at.
    #[error(
        "the guest does not stop: it waits for a page that does not come, so the migration must be recovered first, or for \
         a disk of this host that does not answer"
    )]
    Stuck,
    /// Another operation lasts.
    #[error(
        "the machine is busy: what was asked of it before waits for a page that does not come, so the migration must be \
         recovered first, or for a disk of this host that does not answer"
    )]
    Busy,
    /// A reset, but there is no kernel.
    #[error("this guest came by migration and cannot be reset: give --kernel along with --incoming, as on the source")]
    NoKernel,
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The kernel, initrd or command line.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The other end of the serial port or the console.
    #[error(transparent)]
    CharDevice(#[from] CharDeviceError),
    /// A disk's image.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The network cards.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A vCPU's state.
    #[error(transparent)]
    Vcpu(#[from] VcpuStateError),
    /// Saved state.
    #[error(transparent)]
    Saved(#[from] SavedStateError),
    /// The host cannot show the processor that was asked for.
    #[error(transparent)]
    Cpu(#[from] UnfitHost),
    /// RAM that the guest could not reach.
    #[error(
        "{bits} address bits, which the guest is shown, do not reach all of its RAM; give it less --memory, or --cpu host"
    )]
    AddressBits {
        /// What CPUID says.
        bits: u32,
    },
    /// More vCPUs than the host's KVM can give.
    #[error("this host's KVM gives a guest at most {0} vCPUs")]
    TooManyVcpus(usize),
    /// More virtio devices than there are interrupt lines.
    #[error("a machine has room for {most} virtio devices, and {given} are given")]
    TooManyDevices {
        /// How many are wanted.
        given: usize,
        /// How many there may be.
        most: usize,
    },
    /// There is no balloon.
    #[error("No balloon device has been activated: the machine has none without --balloon")]
    NoBalloon,
    /// A virtio device.
    #[error(transparent)]
    Virtio(#[from] VirtioError),
    /// A device cannot take or give up what only one host may have.
    #[error("{device} cannot be {what}")]
    Device {
        /// Its name and number.
        device: String,
        /// Taken over or given up.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A thread.
    #[error("a thread of the machine cannot be started")]
    Thread(#[source] io::Error),
    /// Guest RAM that went with its guest.
    #[error("the host gives no memory in the place of what the guest took along")]
    Memory(#[source] io::Error),
}

/// Why the machine's state cannot be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum SavedStateError {
    /// A section is not there.
    #[error("the saved state of {name} {instance} is missing")]
    Missing {
        /// Which device.
        name: String,
        /// Which of several alike.
        instance: u32,
    },
    /// A section for which there is no device.
    #[error("there is saved state of {name} {instance}, but no such device here")]
    Unknown {
        /// Which device.
        name: String,
        /// Which of several alike.
        instance: u32,
    },
    /// The same section twice.
    #[error("the saved state of {name} {instance} comes twice")]
    Twice {
        /// Which device.
        name: String,
        /// Which of several alike.
        instance: u32,
    },
    /// A guest that has run cannot be shown another processor.
    #[error(
        "its guest was shown another processor than this machine shows: run it in another process, with 'whimbrel restore'"
    )]
    OtherProcessor,
    /// A section's bytes are wrong.
    #[error(transparent)]
    State(#[from] StateError),
    /// A vCPU refuses its state.
    #[error("vCPU {index} cannot be saved or loaded")]
    Vcpu {
        /// Which.
        index: u8,
        /// Why.
        #[source]
        source: VcpuStateError,
    },
    /// KVM refuses.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}
