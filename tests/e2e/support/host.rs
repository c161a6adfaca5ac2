//! What the host can do. A test that needs more says so and does not run.

use whimbrel::kvm::Hypervisor;
use whimbrel_postcopy::uffd::Uffd;

use super::skip::skip;

/// Whether guests can run here; if not, the calling test is reported as skipped.
#[must_use]
pub fn has_kvm() -> bool {
    Hypervisor::open().map_err(|error| skip(&error.to_string())).is_ok()
}

/// Whether guests can run here and their pages can follow them; if not, the calling test is
/// reported as skipped.
#[must_use]
pub fn has_kvm_and_uffd() -> bool {
    has_kvm() && Uffd::open().map_err(|error| skip(&error.to_string())).is_ok()
}
