//! What the engine asks of its host: threads and their locks, the clock, waiting, sockets,
//! userfaultfd and memory. All of it is the system's own; this file only names it.
//!
//! The feature `simulation` puts `simulation/host.rs` in its place, which has the same names: there
//! threads take turns as a seed says, time is virtual, and sockets, userfaultfd and missing pages
//! are modelled. So everything above this file runs in the simulation as it ships.

pub use std::fs::read_to_string;
pub use std::os::fd::OwnedFd as Descriptor;
pub use std::sync::atomic;
pub use std::sync::{Condvar, Mutex, MutexGuard};
pub use std::thread;
pub use std::time::Instant;

use crossbeam_channel::Receiver;
pub use nix::poll::poll;
pub use nix::sys::eventfd::EventFd;

pub mod uffd;

/// The calls of libc that take addresses.
pub mod calls {
    pub use libc::{getsockopt, madvise, mmap, mremap, munmap, recv, sendmsg, setsockopt};
}

/// The calls on sockets that do not.
pub mod socket {
    pub use nix::fcntl::fcntl;
    pub use nix::sys::socket::{recv, setsockopt, shutdown};

    use std::io::{self, IoSlice, IoSliceMut};
    use std::mem::MaybeUninit;
    use std::os::fd::{BorrowedFd, OwnedFd};

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use rustix::net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    };

    /// Two ends connected to each other.
    pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        Ok(socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?)
    }

    /// So many files can go with one message.
    pub const MOST_FILES: usize = 16;

    /// Receives bytes, and the files that come with them, at most [`MOST_FILES`]; whether there
    /// were more, which are closed.
    pub fn receive_files(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>, bool)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        // No program that this process may start one day inherits them.
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
        let mut files = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                files.extend(more);
            }
        }
        Ok((received.bytes, files, received.flags.contains(ReturnFlags::CTRUNC)))
    }

    /// Sends as many of the bytes as go at once, and with the first of them the files.
    pub fn send_files(socket: BorrowedFd<'_>, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
    }
}

/// Waits for the next of what others send; `None` when nobody can any more.
pub fn next<T>(from: &Receiver<T>) -> Option<T> {
    from.recv().ok()
}

/// A number that fits the size of guests. Those of a simulation are small, and so is what it makes
/// of the number.
#[inline(always)]
pub const fn scaled(number: u64) -> u64 {
    number
}

/// The calling thread is about to touch memory, which may fault: the system's business.
#[inline(always)]
pub fn touches(_address: usize, _bytes: usize) {}
