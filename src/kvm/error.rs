//! What can go wrong with KVM.

use std::io;

use crate::size::exact_size;

/// An error of KVM or of the host's memory.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no `/dev/kvm`.
    #[error(
        "KVM cannot be used: /dev/kvm does not exist; load kvm_intel or kvm_amd, or enable virtualisation in the firmware"
    )]
    Missing,
    /// `/dev/kvm` may not be opened.
    #[error("KVM cannot be used: /dev/kvm may not be opened by this user; join the group kvm or run as root")]
    Denied,
    /// `/dev/kvm` cannot be opened for another reason.
    #[error("KVM cannot be used: /dev/kvm cannot be opened")]
    Open(#[source] io::Error),
    /// Something indispensable is not there.
    #[error("this host's KVM lacks {0}: a newer kernel is needed")]
    Lacking(&'static str),
    /// An ioctl failed.
    #[error("KVM refuses {call}")]
    Ioctl {
        /// The call's name.
        call: &'static str,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// Guest RAM cannot be had.
    #[error("{size} of guest RAM cannot be mapped: use less --memory", size = exact_size(*.bytes))]
    Ram {
        /// How much was asked for.
        bytes: u64,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The host refuses a signal handler or a signal.
    #[error("vCPU threads cannot be signalled")]
    Signal(#[source] io::Error),
}

impl KvmError {
    /// Turns a failed call into an error that names it.
    pub(super) fn ioctl(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Ioctl { call, source: io::Error::from_raw_os_error(error.errno()) }
    }

    /// The same for an error number of `nix`.
    pub(super) fn errno(call: &'static str) -> impl FnOnce(nix::errno::Errno) -> Self {
        move |errno| Self::Ioctl { call, source: errno.into() }
    }
}
