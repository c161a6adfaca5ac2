//! userfaultfd as the kernel has it: opening one, and the calls on it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use linux_raw_sys::general::{UFFD_API, uffdio_api};
use nix::errno::Errno;
pub use nix::unistd::read;

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
    // On /dev/userfaultfd: a new userfaultfd, with the flags that the system call takes.
    nix::ioctl_write_int_bad!(new, nix::request_code_none!(UFFDIO, 0));
}

/// A new userfaultfd with these features. `EINVAL` is a feature that the kernel lacks.
pub fn open(features: u32) -> io::Result<OwnedFd> {
    match File::options().read(true).write(true).open("/dev/userfaultfd") {
        Ok(device) => new_descriptor(Some(&device)).and_then(|fd| handshake(fd, features)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            new_descriptor(None).and_then(|fd| handshake(fd, features))
        }
        // Report the device's error if the system call is denied, too, unless it says EINVAL (a
        // missing kernel feature).
        Err(denied) => {
            new_descriptor(None).and_then(|fd| handshake(fd, features)).map_err(|error| match error.raw_os_error() {
                Some(libc::EINVAL) => error,
                _ => denied,
            })
        }
    }
}

/// From the device, or else by the system call. Without the flag UFFD_USER_MODE_ONLY it also
/// reports faults in the kernel, which KVM's are.
fn new_descriptor(device: Option<&File>) -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    let fd = match device {
        // SAFETY: the call takes flags only and returns a new descriptor or an error.
        Some(device) => unsafe { calls::new(device.as_raw_fd(), flags) }?,
        // SAFETY: as above, by the system call.
        None => Errno::result(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })? as i32,
    };
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What each userfaultfd needs before anything else.
fn handshake(fd: OwnedFd, features: u32) -> io::Result<OwnedFd> {
    let mut api = uffdio_api { api: UFFD_API.into(), features: features.into(), ioctls: 0 };
    // SAFETY: `api` is the call's structure and outlives it.
    unsafe { calls::api(fd.as_raw_fd(), &mut api) }?;
    Ok(fd)
}
