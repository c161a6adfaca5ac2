//! Taps and descriptors: the kernel's calls, each as it is. What to do with them is decided in
//! [`crate::net`] and [`crate::fds`].

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_char, c_int, c_uint, ifreq};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// What `TUNSETIFF` and `TUNGETIFF` say of a tap, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapMode {
    /// It carries Ethernet frames (not IP packets).
    pub tap: bool,
    /// No four bytes of the driver's own before each frame.
    pub bare: bool,
    /// virtio's header before each frame.
    pub header: bool,
    /// It was made to have several queues.
    pub queues: bool,
}

impl TapMode {
    /// What a network card needs of its tap.
    pub const CARD: Self = Self { tap: true, bare: true, header: true, queues: false };

    fn bits(self) -> c_int {
        let bit = |on: bool, bit| if on { bit } else { 0 };
        bit(self.tap, libc::IFF_TAP)
            | bit(self.bare, libc::IFF_NO_PI)
            | bit(self.header, libc::IFF_VNET_HDR)
            | bit(self.queues, libc::IFF_MULTI_QUEUE)
    }

    fn of(bits: c_int) -> Self {
        let has = |bit| bits & bit != 0;
        Self {
            tap: has(libc::IFF_TAP),
            bare: has(libc::IFF_NO_PI),
            header: has(libc::IFF_VNET_HDR),
            queues: has(libc::IFF_MULTI_QUEUE),
        }
    }
}

/// Makes `file`, a fresh `/dev/net/tun`, the other end of the interface `name`, which is created if
/// there is none. A name of 16 bytes or more is cut off by nobody: `EINVAL`.
pub fn attach_tap(file: &File, name: &str, mode: TapMode) -> io::Result<()> {
    let mut request = request(name)?;
    // The field is as wide as two bytes, and so are all flags that exist.
    request.ifr_ifru.ifru_flags = mode.bits() as i16;
    // SAFETY: The kernel reads and writes one `ifreq`, which is initialised and outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
}

/// Name and mode of an attached tap; fails for any other descriptor.
pub fn identify_tap(fd: BorrowedFd) -> io::Result<(String, TapMode)> {
    let mut request = request("")?;
    // SAFETY: The kernel writes one `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    let name: Vec<u8> = request.ifr_name.iter().take_while(|it| **it != 0).map(|it| *it as u8).collect();
    // SAFETY: `TUNGETIFF` filled in the flags; besides, any bits are a valid integer.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((String::from_utf8_lossy(&name).into_owned(), TapMode::of(c_int::from(flags as u16))))
}

/// How long the header before each frame is, in bytes.
pub fn set_tap_header(fd: BorrowedFd, bytes: u8) -> io::Result<()> {
    let bytes = c_int::from(bytes);
    // SAFETY: The kernel reads one integer, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes) })
}

/// What may be left undone in frames that are read (`TUN_F_*`).
pub fn set_tap_offload(fd: BorrowedFd, bits: c_uint) -> io::Result<()> {
    // SAFETY: The argument is a number; the kernel follows no pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(bits)) })
}

/// A descriptor of our own for what the number `fd`, from the command line, stands for in this
/// process.
pub fn duplicate_fd(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: The call takes numbers only; one that is not open gives EBADF.
    let own = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    check(own)?;
    // SAFETY: The kernel has just given us this descriptor; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(own) })
}

/// Takes over the descriptor with the number `fd`, which this process was started with and which
/// nothing in it has: for the first moment of a process. Programs that it starts will not have it.
pub fn adopt_fd(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: The call takes numbers only; one that is not open gives EBADF.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: It is open, and nobody else here has it: this is called once, before anything was
    // opened.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the interface `name` is up.
pub fn interface_is_up(name: &str) -> io::Result<bool> {
    Ok(flags(name)?.1 & libc::IFF_UP != 0)
}

/// Sets the interface `name` up.
pub fn set_interface_up(name: &str) -> io::Result<()> {
    let (mut request, flags) = flags(name)?;
    request.ifr_ifru.ifru_flags = (flags | libc::IFF_UP) as i16;
    let socket = any_socket()?;
    // SAFETY: The kernel reads one `ifreq`, which is initialised and outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &raw const request) })
}

fn flags(name: &str) -> io::Result<(ifreq, c_int)> {
    let mut request = request(name)?;
    let socket = any_socket()?;
    // SAFETY: The kernel reads and writes one `ifreq`, which is initialised and outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as libc::Ioctl, &raw mut request) })?;
    // SAFETY: `SIOCGIFFLAGS` filled in the flags; besides, any bits are a valid integer.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((request, c_int::from(flags as u16)))
}

/// Interfaces are asked about through any socket. A unix one exists on kernels without IPv4, too.
fn any_socket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?)
}

fn request(name: &str) -> io::Result<ifreq> {
    // SAFETY: `ifreq` consists of integers and a pointer: all zero is a value of it.
    let mut request: ifreq = unsafe { mem::zeroed() };
    // One byte stays for the terminator.
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as c_char;
    }
    Ok(request)
}

fn check(result: c_int) -> io::Result<()> {
    match result {
        ..0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_bits() {
        assert_eq!(TapMode::CARD.bits(), 0x5002);
        assert_eq!(TapMode::of(0x5102), TapMode { queues: true, ..TapMode::CARD });
        assert!(!TapMode::of(0x1001).tap);
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        assert!(request("123456789012345").is_ok());
        assert!(request("1234567890123456").is_err());
    }

    #[test]
    fn a_number_that_is_not_open_is_refused() {
        assert_eq!(duplicate_fd(-1).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
