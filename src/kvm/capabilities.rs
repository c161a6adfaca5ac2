//! What the host's KVM can do, asked once.

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME, KVM_DIRTY_LOG_INITIALLY_SET,
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
};
use kvm_ioctls::{Cap, Kvm};

use super::KvmError;

/// How the dirty log is re-armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManualProtect {
    /// Reading the log re-arms all of it.
    No,
    /// Ranges are re-armed by KVM_CLEAR_DIRTY_LOG.
    Yes,
    /// The same, and the log begins with every page dirty, so that starting it costs nothing.
    InitiallySet,
}

/// What the host's KVM can do.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities {
    /// How the dirty log is re-armed.
    pub manual_protect: ManualProtect,
    /// Bytes of a vCPU's XSAVE area, at least 4096.
    pub xsave_size: usize,
    /// Whether XSAVE areas above 4096 bytes can be read.
    pub xsave2: bool,
    /// Whether the guest's TSC frequency can differ from the host's.
    pub tsc_control: bool,
    /// Whether KVM_GET_CLOCK and KVM_SET_CLOCK know the wall clock.
    pub clock_realtime: bool,
    /// Whether KVM_GET_CLOCK tells the host's TSC of the same moment.
    pub clock_host_tsc: bool,
    /// Whether the guest can be told that it was paused.
    pub kvmclock_ctrl: bool,
    /// Whether the LAPIC timer has TSC-deadline mode.
    pub tsc_deadline: bool,
    /// How many vCPUs a VM may have.
    pub max_vcpus: usize,
}

impl Capabilities {
    pub(super) fn probe(kvm: &Kvm) -> Result<Self, KvmError> {
        for (cap, what) in [
            (Cap::UserMemory, "memory slots"),
            (Cap::Irqchip, "in-kernel interrupt controllers"),
            (Cap::Pit2, "an in-kernel timer (PIT)"),
            (Cap::ImmediateExit, "immediate_exit (Linux 4.11)"),
            (Cap::ExtCpuid, "extended CPUID"),
            (Cap::MpState, "multiprocessing state"),
            (Cap::VcpuEvents, "saved vCPU events"),
            (Cap::Debugregs, "saved debug registers"),
            (Cap::Xsave, "saved extended registers (XSAVE)"),
            (Cap::Xcrs, "saved extended control registers"),
            (Cap::AdjustClock, "an adjustable kvmclock"),
        ] {
            if !kvm.check_extension(cap) {
                return Err(KvmError::Lacking(what));
            }
        }
        let clock = kvm.check_extension_int(Cap::AdjustClock) as u32;
        let xsave2 = kvm.check_extension_int(Cap::Xsave2);
        Ok(Self {
            manual_protect: manual_protect(kvm.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into()) as u32),
            xsave_size: (xsave2.max(0) as usize).max(4096),
            xsave2: xsave2 > 0,
            tsc_control: kvm.check_extension(Cap::TscControl),
            clock_realtime: clock & KVM_CLOCK_REALTIME != 0,
            clock_host_tsc: clock & KVM_CLOCK_HOST_TSC != 0,
            kvmclock_ctrl: kvm.check_extension(Cap::KvmclockCtrl),
            tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
            max_vcpus: kvm.get_max_vcpus(),
        })
    }
}

/// What the value of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 says.
fn manual_protect(flags: u32) -> ManualProtect {
    if flags & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE == 0 {
        ManualProtect::No
    } else if flags & KVM_DIRTY_LOG_INITIALLY_SET == 0 {
        ManualProtect::Yes
    } else {
        ManualProtect::InitiallySet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_protect_is_what_the_flags_say() {
        assert_eq!(manual_protect(0), ManualProtect::No);
        assert_eq!(manual_protect(1), ManualProtect::Yes);
        assert_eq!(manual_protect(3), ManualProtect::InitiallySet);
        assert_eq!(manual_protect(2), ManualProtect::No);
    }
}
