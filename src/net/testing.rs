//! A network for each test: a namespace of its own, in which nothing of the host's can be broken or
//! is in the way.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, socket};

use crate::skip;

/// How long a frame may take to be there, in milliseconds.
const LIMIT: u16 = 10_000;

/// Moves the calling thread to an empty network; `false`, said aloud, where that or a tap is not to
/// be had.
pub fn own_network() -> bool {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        skip::skip(&format!("a network namespace of its own is not to be had: {error}"));
        return false;
    }
    // Where there is IPv6: the host's own frames are no part of any test.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    match std::fs::File::open("/dev/net/tun") {
        Ok(_) => true,
        Err(error) => {
            skip::skip(&format!("/dev/net/tun: {error}"));
            false
        }
    }
}

/// The host's side of an interface: every frame, either way.
pub struct Wire(OwnedFd);

impl Wire {
    /// Of the interface of that name in the calling thread's network.
    pub fn of(name: &str) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let wire = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap();
        let is_link = |it: &nix::ifaddrs::InterfaceAddress| it.address.is_some_and(|it| it.as_link_addr().is_some());
        let found = getifaddrs().unwrap().find(|it| it.interface_name == name && is_link(it)).unwrap();
        bind(wire.as_raw_fd(), found.address.unwrap().as_link_addr().unwrap()).unwrap();
        Self(wire)
    }

    /// Sends a frame to the guest.
    pub fn send(&self, frame: &[u8]) {
        assert_eq!(send(self.0.as_raw_fd(), frame, MsgFlags::empty()).unwrap(), frame.len());
    }

    /// The next frame of that type, waiting for it. Others, such as those of the host's own IPv6,
    /// are passed over.
    pub fn receive(&self, ethertype: u16) -> Vec<u8> {
        self.receive_any(&[ethertype])
    }

    /// The same for any of several types.
    pub fn receive_any(&self, ethertypes: &[u16]) -> Vec<u8> {
        loop {
            await_input(&self.0);
            let mut frame = vec![0; 1 << 16];
            let length = recv(self.0.as_raw_fd(), &mut frame, MsgFlags::empty()).unwrap();
            frame.truncate(length);
            if ethertypes.iter().any(|it| frame[12..14] == it.to_be_bytes()) {
                return frame;
            }
        }
    }
}

/// Waits until something can be read.
pub fn await_input(fd: impl AsFd) {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(LIMIT)).unwrap(), 1, "nothing came");
}
