//! userfaultfd as the kernel has it: opening one, which the crate userfaultfd does, and the calls
//! on it. Of these the crate lacks UFFDIO_MOVE and the count of a partial zeropage.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use linux_raw_sys::general::{UFFD_API, uffdio_api};
use nix::errno::Errno;
pub use nix::unistd::read;
use userfaultfd::{Error, FeatureFlags, UffdBuilder};

/// The calls of linux/userfaultfd.h, which answer with 0 or an error; what else they have to say
/// stands in their argument.
pub mod calls {
    use linux_raw_sys::general as sys;

    const UFFDIO: u8 = sys::UFFDIO as u8;

    nix::ioctl_readwrite!(api, UFFDIO, sys::_UFFDIO_API, sys::uffdio_api);
    nix::ioctl_readwrite!(register, UFFDIO, sys::_UFFDIO_REGISTER, sys::uffdio_register);
    nix::ioctl_read!(unregister, UFFDIO, sys::_UFFDIO_UNREGISTER, sys::uffdio_range);
    nix::ioctl_read!(wake, UFFDIO, sys::_UFFDIO_WAKE, sys::uffdio_range);
    nix::ioctl_readwrite!(copy, UFFDIO, sys::_UFFDIO_COPY, sys::uffdio_copy);
    nix::ioctl_readwrite!(zeropage, UFFDIO, sys::_UFFDIO_ZEROPAGE, sys::uffdio_zeropage);
    nix::ioctl_readwrite!(move_pages, UFFDIO, sys::_UFFDIO_MOVE, sys::uffdio_move);
    nix::ioctl_readwrite!(write_protect, UFFDIO, sys::_UFFDIO_WRITEPROTECT, sys::uffdio_writeprotect);
}

/// A new userfaultfd with these features, from /dev/userfaultfd or by the system call. It also
/// reports faults in the kernel, which KVM's are. `EINVAL` is a feature that the kernel lacks.
pub fn open(features: u32) -> io::Result<OwnedFd> {
    let builder = || {
        let mut builder = UffdBuilder::new();
        builder.close_on_exec(true).non_blocking(true).user_mode_only(false);
        builder.require_features(FeatureFlags::from_bits_retain(features.into()));
        builder
    };
    match builder().create() {
        // Not `into_raw_fd`: that of userfaultfd 0.9 closes the descriptor that it returns.
        // SAFETY: nobody else has the descriptor, as the crate's owner of it is never dropped.
        Ok(uffd) => Ok(unsafe { OwnedFd::from_raw_fd(ManuallyDrop::new(uffd).as_raw_fd()) }),
        // Report the device's error if the system call is denied, too, unless it says EINVAL (a
        // missing kernel feature).
        Err(Error::OpenDevUserfaultfd(denied)) => {
            by_system_call(features).map_err(|error| match error.raw_os_error() {
                Some(libc::EINVAL) => error,
                _ => denied,
            })
        }
        Err(Error::SystemError(errno)) => Err(io::Error::from_raw_os_error(errno as i32)),
        Err(other) => Err(io::Error::other(other)),
    }
}

/// The device is there and denied, and the crate asks nobody else then: the system call may still
/// be allowed.
fn by_system_call(features: u32) -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: the call takes flags only and returns a new descriptor or an error.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })? as i32;
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut api = uffdio_api { api: UFFD_API.into(), features: features.into(), ioctls: 0 };
    // SAFETY: `api` is the call's structure and outlives it.
    unsafe { calls::api(fd.as_raw_fd(), &mut api) }?;
    Ok(fd)
}
