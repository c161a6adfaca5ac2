//! The kernel's calls that have no safe wrapper elsewhere, and are not KVM's.
//!
//! Unsafe code of the virtual machine monitor is here, in [`crate::kvm`], and where
//! docs/architecture.md lists a single file.

mod tap;

pub use tap::{
    TapMode, adopt_fd, attach_tap, duplicate_fd, identify_tap, interface_is_up, set_interface_up, set_tap_header,
    set_tap_offload,
};
