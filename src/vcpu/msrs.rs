//! Which model-specific registers this host can save and load.
//!
//! KVM lists the MSRs that make up a vCPU's state, but some of them cannot be read, and a host may
//! refuse to be given back a value that it let us read. Both are found out once, on a vCPU that
//! never ran.

use std::ops::RangeInclusive;

use kvm_bindings::{kvm_cpuid_entry2, kvm_msr_entry};

use super::FeatureSet;
use crate::kvm::{KvmError, VcpuHandle};

/// IA32_TIME_STAMP_COUNTER.
pub(super) const TSC: u32 = 0x10;
/// IA32_TSC_DEADLINE: compared with the TSC, so it is written after it.
const TSC_DEADLINE: u32 = 0x6e0;

/// MSRs that exist for a guest only if it is shown one of these features. KVM lists and reads them
/// whatever the guest is shown, and some hold what the host's processor is; a guest that does not
/// see them must not be kept from a host that has others.
const OF_FEATURES: &[(RangeInclusive<u32>, &[&str])] = &[
    // IA32_SPEC_CTRL.
    (0x48..=0x48, &["spec_ctrl", "stibp", "ssbd", "ibrs", "amd_stibp", "amd_ssbd", "amd_psfd"]),
    // IA32_UMWAIT_CONTROL.
    (0xe1..=0xe1, &["waitpkg"]),
    // IA32_ARCH_CAPABILITIES.
    (0x10a..=0x10a, &["arch_capabilities"]),
    // IA32_TSX_CTRL, which IA32_ARCH_CAPABILITIES announces.
    (0x122..=0x122, &["arch_capabilities"]),
    // IA32_XFD and IA32_XFD_ERR.
    (0x1c4..=0x1c5, &["xfd"]),
    // IA32_PERF_CAPABILITIES.
    (0x345..=0x345, &["pdcm"]),
    // Nested VMX.
    (0x480..=0x492, &["vmx"]),
    // IA32_RTIT_*.
    (0x560..=0x587, &["intel_pt"]),
    // IA32_U_CET to IA32_INTERRUPT_SSP_TABLE.
    (0x6a0..=0x6a8, &["shstk", "ibt"]),
    // IA32_BNDCFGS.
    (0xd90..=0xd90, &["mpx"]),
    // IA32_XSS.
    (0xda0..=0xda0, &["xsaves"]),
    // TSC_AUX.
    (0xc000_0103..=0xc000_0103, &["rdtscp", "rdpid"]),
];

/// MSRs that say what the processor is, as CPUID does, and like CPUID do not change once a vCPU
/// ran: the microcode's revision, IA32_ARCH_CAPABILITIES, IA32_PERF_CAPABILITIES, the nested VMX
/// capabilities, AMD's DE_CFG.
const OF_THE_PROCESSOR: &[RangeInclusive<u32>] =
    &[0x8b..=0x8b, 0x10a..=0x10a, 0x345..=0x345, 0x480..=0x492, 0xc001_1029..=0xc001_1029];

/// Whether a reset leaves the MSR alone, because it is part of what the guest was shown.
pub(super) fn is_of_the_processor(index: u32) -> bool {
    OF_THE_PROCESSOR.iter().any(|range| range.contains(&index))
}

/// Whether a guest that is shown these features has the MSR.
fn is_shown(index: u32, features: &FeatureSet) -> bool {
    let mut of_features = OF_FEATURES.iter().filter(|(range, _)| range.contains(&index));
    of_features.all(|(_, names)| names.iter().any(|name| features.shows(name)))
}

/// An MSR that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum MsrError {
    /// KVM refuses the value.
    #[error("this host refuses the value {value:#x} for the guest's MSR {index:#x}")]
    Refused {
        /// The MSR.
        index: u32,
        /// What the guest has in it.
        value: u64,
    },
    /// The call itself failed.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// KVM's MSRs that hold the address of a page that KVM itself reads or writes whenever the vCPU
/// runs, and the bits that are no address: its clock, asynchronous page faults, steal time, end of
/// interrupt.
const PARAVIRTUAL: [(u32, u64); 4] = [(0x4b56_4d01, 1), (0x4b56_4d02, 0x3f), (0x4b56_4d03, 0x3f), (0x4b56_4d04, 3)];

/// The guest-physical addresses of those pages that the guest has given.
pub fn paravirtual_pages(vcpu: &VcpuHandle) -> Vec<u64> {
    let address = |(index, flags): (u32, u64)| {
        let mut read = [entry(index, 0)];
        let [value] = vcpu.msrs(&mut read).ok().filter(|count| *count == 1).map(|_| read)?;
        (value.data & 1 != 0).then_some(value.data & !flags)
    };
    PARAVIRTUAL.into_iter().filter_map(address).collect()
}

/// What the host can save and load.
#[derive(Clone, Debug, Default)]
pub struct MsrTable {
    /// In the order of saving and loading.
    readable: Vec<kvm_msr_entry>,
    /// Refuses to be written, with the value that it has for ever.
    fixed: Vec<(u32, u64)>,
}

impl MsrTable {
    /// Finds out, on a vCPU that never ran. `listed` is what KVM lists.
    pub fn probe(vcpu: &VcpuHandle, listed: &[u32]) -> Result<Self, KvmError> {
        let mut order = listed.to_vec();
        order.sort_by_key(|index| (*index != TSC, *index == TSC_DEADLINE));
        let mut readable: Vec<_> = order.into_iter().map(|index| entry(index, 0)).collect();
        loop {
            let count = vcpu.msrs(&mut readable)?;
            if count >= readable.len() {
                break;
            }
            readable.remove(count);
        }
        let writable: Vec<_> =
            readable.iter().filter(|msr| !matches!(msr.index, TSC | TSC_DEADLINE)).copied().collect();
        let mut fixed = Vec::new();
        write_all(vcpu, &writable, |msr| {
            fixed.push((msr.index, msr.data));
            Ok::<_, KvmError>(())
        })?;
        log::debug!("{} MSRs listed, {} readable, not writable: {fixed:x?}", listed.len(), readable.len());
        Ok(Self { readable, fixed })
    }

    /// Reads those that a guest has which is shown `cpuid`. An MSR that the guest's configuration
    /// made unreadable meanwhile is left out.
    pub fn save(&self, vcpu: &VcpuHandle, cpuid: &[kvm_cpuid_entry2]) -> Result<Vec<kvm_msr_entry>, KvmError> {
        let features = FeatureSet::of(cpuid);
        let shown = self.readable.iter().filter(|msr| is_shown(msr.index, &features));
        let mut entries: Vec<_> = shown.copied().collect();
        loop {
            let count = vcpu.msrs(&mut entries)?;
            if count >= entries.len() {
                return Ok(entries);
            }
            entries.remove(count);
        }
    }

    /// Writes `saved`, in its order. An MSR that the host refuses is fine if it has that value
    /// anyway, or if it is not there and nothing is in it.
    pub fn load(&self, vcpu: &VcpuHandle, saved: &[kvm_msr_entry]) -> Result<(), MsrError> {
        let writable: Vec<_> =
            saved.iter().filter(|msr| !self.fixed.contains(&(msr.index, msr.data))).copied().collect();
        write_all(vcpu, &writable, |msr| {
            let mut now = [entry(msr.index, 0)];
            let is_there = vcpu.msrs(&mut now)? == 1;
            let [entry] = now;
            if is_there && entry.data == msr.data || !is_there && msr.data == 0 {
                return Ok(());
            }
            Err(MsrError::Refused { index: msr.index, value: msr.data })
        })
    }
}

/// Writes all entries in order, asking `refused` about each that KVM does not take.
fn write_all<E: From<KvmError>>(
    vcpu: &VcpuHandle,
    mut entries: &[kvm_msr_entry],
    mut refused: impl FnMut(&kvm_msr_entry) -> Result<(), E>,
) -> Result<(), E> {
    while !entries.is_empty() {
        let count = vcpu.set_msrs(entries)?;
        let Some(msr) = entries.get(count) else {
            return Ok(());
        };
        refused(msr)?;
        entries = &entries[count + 1..];
    }
    Ok(())
}

/// One MSR and its value.
pub(super) fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry { index, data, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msrs_of_hidden_features_stay_behind() {
        let plain = FeatureSet::named(&["sse2"]);
        for (index, feature) in
            [(0x10a, "arch_capabilities"), (0x48, "amd_ssbd"), (0xda0, "xsaves"), (0xc000_0103, "rdpid")]
        {
            assert!(!is_shown(index, &plain), "{index:#x}");
            assert!(is_shown(index, &FeatureSet::named(&[feature])), "{index:#x}");
        }
        for always in [TSC, TSC_DEADLINE, 0x174, 0x1a0, 0x4b56_4d00, 0xc000_0080, 0x493] {
            assert!(is_shown(always, &plain), "{always:#x}");
        }
    }

    #[test]
    fn every_feature_that_an_msr_belongs_to_exists() {
        for name in OF_FEATURES.iter().flat_map(|(_, names)| *names) {
            assert!(super::super::Feature::named(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_reset_leaves_what_the_processor_is() {
        assert!([0x8b, 0x10a, 0x480, 0xc001_1029].into_iter().all(is_of_the_processor));
        assert!(![0x48, TSC, 0x1a0, 0xc000_0080].into_iter().any(is_of_the_processor));
    }
}
