//! Which model-specific registers this host can save and load.
//!
//! KVM lists the MSRs that make up a vCPU's state, but some of them cannot be read, and a host may refuse
//! to be given back a value that it let us read. Both are found out once, on a vCPU that never ran.

use kvm_bindings::kvm_msr_entry;

use crate::kvm::{KvmError, VcpuHandle};

/// IA32_TIME_STAMP_COUNTER.
pub(super) const TSC: u32 = 0x10;
/// IA32_TSC_DEADLINE: compared with the TSC, so it is written after it.
const TSC_DEADLINE: u32 = 0x6e0;

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

    /// Reads all of them. An MSR that the guest's configuration made unreadable meanwhile is left out.
    pub fn save(&self, vcpu: &VcpuHandle) -> Result<Vec<kvm_msr_entry>, KvmError> {
        let mut entries = self.readable.clone();
        loop {
            let count = vcpu.msrs(&mut entries)?;
            if count >= entries.len() {
                return Ok(entries);
            }
            entries.remove(count);
        }
    }

    /// Writes `saved`, in its order. An MSR that the host refuses is fine if it has that value anyway.
    pub fn load(&self, vcpu: &VcpuHandle, saved: &[kvm_msr_entry]) -> Result<(), MsrError> {
        let writable: Vec<_> =
            saved.iter().filter(|msr| !self.fixed.contains(&(msr.index, msr.data))).copied().collect();
        write_all(vcpu, &writable, |msr| {
            let mut now = [entry(msr.index, 0)];
            if vcpu.msrs(&mut now)? == 1 && now[0].data == msr.data {
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
