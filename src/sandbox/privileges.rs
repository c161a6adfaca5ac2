//! Capabilities and core dumps. Only a machine that is run as root, or with capabilities, has
//! something to give up.

use std::io;
use std::path::Path;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
};

use super::Thread;

/// The device that makes the capability for userfaultfd superfluous.
const USERFAULTFD: &str = "/dev/userfaultfd";

/// What a kind may keep. `needs_ptrace`: see [`needs_ptrace`].
fn kept(kind: Thread, needs_ptrace: bool) -> CapabilitySet {
    // To go before the vCPUs, on a host with fewer processors than threads that want one.
    let demand = CapabilitySet::SYS_NICE;
    // Disks are opened when a guest arrives or comes back, a kernel at a reset: they may be another
    // user's.
    let files = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    // A unix socket's buffer may be larger than the host's limit (SO_SNDBUFFORCE). With these
    // filters little more comes of it: there is no routing socket, and no request to an interface.
    let channels = CapabilitySet::NET_ADMIN;
    // 'migrate_incoming' at a low port.
    let ports = CapabilitySet::NET_BIND_SERVICE;
    let ptrace = if needs_ptrace { CapabilitySet::SYS_PTRACE } else { CapabilitySet::empty() };
    match kind {
        Thread::Main => demand | files | channels | ports | ptrace,
        Thread::Source => demand | files | channels,
        Thread::Destination => demand | files | channels | ptrace,
        Thread::DemandServer | Thread::Faults | Thread::Snapshot | Thread::SnapshotWrites => demand,
        Thread::Control => files,
        Thread::MultifdSender
        | Thread::Vcpu
        | Thread::Throttle
        | Thread::DirtyRate
        | Thread::Disk
        | Thread::Net
        | Thread::Device
        | Thread::Character
        | Thread::Populate
        | Thread::MultifdReceiver => CapabilitySet::empty(),
    }
}

/// Where the device cannot be opened, only the system call is left, and it wants CAP_SYS_PTRACE.
fn needs_ptrace() -> bool {
    let access = nix::unistd::AccessFlags::R_OK | nix::unistd::AccessFlags::W_OK;
    nix::unistd::access(Path::new(USERFAULTFD), access).is_err()
}

/// The calling thread gives up all that its kind does not need, for good.
pub fn keep_only(kind: Thread) -> io::Result<()> {
    let before = capabilities(None)?;
    if before.permitted.is_empty() && before.inheritable.is_empty() {
        return Ok(());
    }
    // Only the main thread may still look into the file system here; what it hands on has been
    // decided then.
    let needs_ptrace = kind != Thread::Main || needs_ptrace();
    let kept = before.permitted & kept(kind, needs_ptrace);
    let none = CapabilitySet::empty();
    // What a program that this thread ran would have: there will be none, but nothing is left for
    // it either. The ambient set goes along.
    set_capabilities(None, CapabilitySets { effective: kept & before.effective, permitted: kept, inheritable: none })?;
    Ok(())
}

/// No program that a thread of this process ran could get a capability; of the calling thread and
/// those that it will start.
pub fn empty_bounding_set() -> io::Result<()> {
    if !capabilities(None)?.effective.contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            // One that this kernel does not know yet.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// No core file, and no reading by other processes of the same user.
pub fn hide_memory() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
