//! `/dev/kvm` itself.

use std::io;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Error, Kvm};

use super::{Capabilities, KvmError, Vm};

/// The host's KVM, opened and probed.
pub struct Hypervisor {
    kvm: Kvm,
    capabilities: Capabilities,
}

impl Hypervisor {
    /// Opens `/dev/kvm` and asks what it can do.
    pub fn open() -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(|error: Error| match error.errno() {
            libc::ENOENT | libc::ENXIO | libc::ENODEV => KvmError::Missing,
            libc::EACCES | libc::EPERM => KvmError::Denied,
            other => KvmError::Open(io::Error::from_raw_os_error(other)),
        })?;
        if kvm.get_api_version() != 12 {
            return Err(KvmError::Lacking("the stable interface (version 12)"));
        }
        let capabilities = Capabilities::probe(&kvm)?;
        Ok(Self { kvm, capabilities })
    }

    /// What it can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The CPUID leaves that a guest may be shown on this host.
    pub fn supported_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
        let cpuid =
            self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(KvmError::ioctl("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(cpuid.as_slice().to_vec())
    }

    /// The MSRs that KVM says make up a vCPU's state.
    pub fn msr_indices(&self) -> Result<Vec<u32>, KvmError> {
        let list = self.kvm.get_msr_index_list().map_err(KvmError::ioctl("KVM_GET_MSR_INDEX_LIST"))?;
        Ok(list.as_slice().to_vec())
    }

    /// A new VM with interrupt controllers and timer, without memory and vCPUs.
    pub fn create_vm(&self) -> Result<Vm, KvmError> {
        let fd = self.kvm.create_vm().map_err(KvmError::ioctl("KVM_CREATE_VM"))?;
        Vm::new(fd, self.capabilities)
    }
}
