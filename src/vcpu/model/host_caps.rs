//! [`HostCaps`]: what the host's KVM can show a guest.

use kvm_bindings::kvm_cpuid_entry2;

use crate::vcpu::cpuid::guest_cpuid;
use crate::vcpu::features::FeatureSet;

/// What the host's KVM can show a guest of so many vCPUs. Every model is made out of it, and what
/// arrives from elsewhere is measured against it.
#[derive(Clone, Debug)]
pub struct HostCaps {
    pub(super) supported: Vec<kvm_cpuid_entry2>,
    pub(super) vcpus: u8,
    pub(super) tsc_deadline: bool,
}

impl HostCaps {
    /// `supported` is KVM_GET_SUPPORTED_CPUID's answer, `tsc_deadline` what
    /// KVM_CAP_TSC_DEADLINE_TIMER says.
    pub fn new(supported: Vec<kvm_cpuid_entry2>, vcpus: u8, tsc_deadline: bool) -> Self {
        Self { supported, vcpus, tsc_deadline }
    }

    /// All of it, for vCPU `index`.
    pub fn leaves(&self, index: u8) -> Vec<kvm_cpuid_entry2> {
        guest_cpuid(&self.supported, index, self.vcpus, self.tsc_deadline)
    }

    /// Its features.
    pub fn features(&self) -> FeatureSet {
        FeatureSet::of(&self.leaves(0))
    }
}

/// The vendor that CPUID names, as in `GenuineIntel`; empty without leaf 0.
pub fn vendor(cpuid: &[kvm_cpuid_entry2]) -> String {
    let Some(leaf) = cpuid.iter().find(|leaf| leaf.function == 0) else {
        return String::new();
    };
    let name: Vec<u8> = [leaf.ebx, leaf.edx, leaf.ecx].into_iter().flat_map(u32::to_le_bytes).collect();
    String::from_utf8_lossy(&name).into_owned()
}

/// How many bits a guest-physical address has; 36 where CPUID does not tell (Intel SDM volume 3A,
/// 4.1.4).
pub fn physical_bits(cpuid: &[kvm_cpuid_entry2]) -> u32 {
    cpuid.iter().find(|leaf| leaf.function == 0x8000_0008).map_or(36, |leaf| leaf.eax & 0xff)
}
