//! Whether this host can run a guest and move it by postcopy.

use whimbrel_postcopy::uffd::{Uffd, UffdError};

use crate::kvm::{Hypervisor, KvmError};

/// What the host lacks.
#[derive(Debug, thiserror::Error)]
pub enum HostUnfit {
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// userfaultfd.
    #[error(transparent)]
    Uffd(#[from] UffdError),
}

/// Opens `/dev/kvm` and a userfaultfd, and closes both.
pub fn check_host() -> Result<(), HostUnfit> {
    Hypervisor::open()?;
    Uffd::open()?;
    Ok(())
}
