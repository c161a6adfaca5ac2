//! [`Tap`]: the host's end of a guest's network card.
//!
//! An interface that exists is used as it is: who made it has also joined it to a bridge and set it
//! up. One that does not is created and set up, and goes away with the process.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::net::if_::if_nametoindex;

use super::config::TapSource;
use crate::os::{
    TapMode, attach_tap, duplicate_fd, identify_tap, interface_is_up, set_interface_up, set_tap_header, set_tap_offload,
};

const TUN: &str = "/dev/net/tun";

/// Bytes of the header before each frame, both ways: virtio's `virtio_net_hdr_v1`, with the count
/// of buffers.
pub const HEADER: usize = 12;

/// A tap that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No driver.
    #[error("tap '{0}' cannot be opened: there is no {TUN}; load the kernel's module tun ('modprobe tun')")]
    NoDriver(String),
    /// No right to the driver.
    #[error("tap '{0}' cannot be opened: {TUN} may not be opened by this user; give it read and write access there")]
    DriverDenied(String),
    /// One program at a time.
    #[error("tap '{0}' is taken: another program, or another card of this machine, has it open")]
    Taken(String),
    /// Another kind of interface.
    #[error("'{0}' is a network interface but not a tap; make one with 'ip tuntap add NAME mode tap'")]
    NotATap(String),
    /// It exists and is somebody's.
    #[error("tap '{0}' may not be used by this user; make it with 'ip tuntap add {0} mode tap user USER'")]
    NotYours(String),
    /// It does not exist and cannot be made.
    #[error("there is no tap '{0}' and this user may not create one; as root: 'ip tuntap add {0} mode tap user USER'")]
    MayNotCreate(String),
    /// A number without an open file.
    #[error("fd={0} is not open in this process; let the program that starts it hand the tap over under that number")]
    Closed(RawFd),
    /// Another kind of file.
    #[error("fd={0} is not an open tap; open {TUN} and attach it (TUNSETIFF) before it is handed over")]
    FdNotATap(RawFd),
    /// Opened in another mode.
    #[error("fd={0} is the tap '{1}', but not with the flags IFF_TAP, IFF_NO_PI and IFF_VNET_HDR; attach it with them")]
    FdMode(RawFd, String),
    /// Anything else.
    #[error("tap '{name}': the kernel refuses {call}")]
    Refused {
        /// The tap.
        name: String,
        /// The call.
        call: &'static str,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
}

/// What the guest can do itself, so that the host may leave it undone in frames to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// It checks checksums that are only half there; all others need this one.
    pub checksum: bool,
    /// It takes TCP segments over IPv4 larger than a frame.
    pub tso4: bool,
    /// Over IPv6.
    pub tso6: bool,
    /// Also such with the congestion bit.
    pub ecn: bool,
}

impl Offload {
    /// The kernel's bits; none that it would refuse for lack of another.
    fn bits(self) -> u32 {
        let bit = |on: bool, bit| if on { bit } else { 0 };
        if !self.checksum {
            return 0;
        }
        let tso = bit(self.tso4, libc::TUN_F_TSO4) | bit(self.tso6, libc::TUN_F_TSO6);
        libc::TUN_F_CSUM | tso | bit(self.ecn && tso != 0, libc::TUN_F_TSO_ECN)
    }
}

/// A tap with a 12-byte header ([`HEADER`]) before each frame. Reading and writing never wait.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Opens the tap of that name, or takes over the open one.
    pub fn open(source: &TapSource) -> Result<Self, TapError> {
        let tap = match source {
            TapSource::Named(name) => Self::named(name)?,
            TapSource::Inherited(fd) => Self::inherited(*fd)?,
        };
        set_tap_header(tap.as_fd(), HEADER as u8).map_err(tap.refused("TUNSETVNETHDRSZ"))?;
        // Whoever had it before may have left something here.
        tap.set_offload(Offload::default())?;
        Ok(tap)
    }

    fn named(name: &str) -> Result<Self, TapError> {
        let owned = || name.to_owned();
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(TUN);
        let file = file.map_err(|source| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::NoDriver(owned()),
            Some(libc::EACCES | libc::EPERM) => TapError::DriverDenied(owned()),
            _ => TapError::Refused { name: owned(), call: "to open /dev/net/tun", source },
        })?;
        let existed = if_nametoindex(name).is_ok();
        attach(&file, name, existed).map_err(|source| match source.raw_os_error() {
            // E2BIG: a tap with several queues, all of them taken.
            Some(libc::EBUSY | libc::E2BIG) => TapError::Taken(owned()),
            Some(libc::EINVAL) if existed => TapError::NotATap(owned()),
            Some(libc::EPERM) if existed => TapError::NotYours(owned()),
            Some(libc::EPERM) => TapError::MayNotCreate(owned()),
            _ => TapError::Refused { name: owned(), call: "TUNSETIFF", source },
        })?;
        let tap = Self { file, name: owned() };
        tap.set_up(existed)?;
        Ok(tap)
    }

    /// Says what is to be known of a tap that was not made for us, sets up one that was.
    fn set_up(&self, existed: bool) -> Result<(), TapError> {
        let name = &self.name;
        if !existed {
            set_interface_up(name).map_err(self.refused("to set it up"))?;
            log::info!("tap '{name}' did not exist: created and set up, joined to no bridge, gone with this process");
        } else if matches!(interface_is_up(name), Ok(false)) {
            log::warn!("tap '{name}' is down, so the guest hears nothing: 'ip link set {name} up'");
        }
        Ok(())
    }

    fn inherited(fd: RawFd) -> Result<Self, TapError> {
        // A copy: whether the number was handed to us, or is by mistake that of a file of our own,
        // cannot be known.
        let own = duplicate_fd(fd).map_err(|_| TapError::Closed(fd))?;
        let (name, mode) = identify_tap(own.as_fd()).map_err(|_| TapError::FdNotATap(fd))?;
        if (TapMode { queues: false, ..mode }) != TapMode::CARD {
            return Err(TapError::FdMode(fd, name));
        }
        let tap = Self { file: own.into(), name };
        let flags = fcntl(&tap.file, FcntlArg::F_GETFL).map_err(|it| tap.refused("F_GETFL")(it.into()))?;
        let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
        fcntl(&tap.file, FcntlArg::F_SETFL(flags)).map_err(|it| tap.refused("F_SETFL")(it.into()))?;
        Ok(tap)
    }

    /// A socket in a tap's place, for where there are no taps. It does not block.
    #[cfg(feature = "fuzzing")]
    pub fn of_socket(socket: std::os::fd::OwnedFd) -> Self {
        Self { file: socket.into(), name: "socket".to_owned() }
    }

    /// The interface's name on the host.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets the host leave to the guest what that can do itself.
    pub fn set_offload(&self, offload: Offload) -> Result<(), TapError> {
        set_tap_offload(self.as_fd(), offload.bits()).map_err(self.refused("TUNSETOFFLOAD"))
    }

    /// Reads one frame with its header. What does not fit is lost; `WouldBlock` if there is none.
    pub fn receive(&self, frame: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(frame)
    }

    /// Sends one frame, its header in front, that may lie in pieces. `WouldBlock` if the host's
    /// queue is full.
    pub fn send(&self, pieces: &[IoSlice]) -> io::Result<usize> {
        (&self.file).write_vectored(pieces)
    }

    fn refused(&self, call: &'static str) -> impl FnOnce(io::Error) -> TapError {
        let name = self.name.clone();
        move |source| TapError::Refused { name, call, source }
    }
}

/// A tap that was made with several queues can be attached only as such; one queue is what it is
/// then used for.
fn attach(file: &File, name: &str, existed: bool) -> io::Result<()> {
    match attach_tap(file, name, TapMode::CARD) {
        Err(error) if existed && error.raw_os_error() == Some(libc::EINVAL) => {
            attach_tap(file, name, TapMode { queues: true, ..TapMode::CARD })
        }
        result => result,
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests;
