//! The socket calls that take addresses, so that page contents go between a socket and guest RAM without a copy.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::memory::RawSlice;

/// The most pieces that one call takes (the kernel's `UIO_MAXIOV`).
pub const MAX_PIECES: usize = 1024;

/// Sends the pieces in order, as far as the socket takes them now; returns how many bytes went.
pub fn send(socket: BorrowedFd<'_>, pieces: &[RawSlice<'_>]) -> io::Result<usize> {
    let mut vector: Vec<libc::iovec> = Vec::with_capacity(pieces.len().min(MAX_PIECES));
    vector.extend(
        pieces
            .iter()
            .take(MAX_PIECES)
            .map(|piece| libc::iovec { iov_base: piece.address() as *mut _, iov_len: piece.len() }),
    );
    // SAFETY: an all-zero msghdr is a valid empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vector.as_mut_ptr();
    message.msg_iovlen = vector.len();
    // SAFETY: `message` and `vector` live until the call returns, and so does the memory that each `RawSlice` names.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Receives what is there now into guest RAM, at most `target.len()` bytes; returns how many came, 0 at the end of the stream.
pub fn receive(socket: BorrowedFd<'_>, target: RawSlice<'_>) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `len` bytes at an address that is valid as long as `target`; only guest RAM,
    // to which no Rust reference exists, is ever passed here.
    let got = unsafe { libc::recv(socket.as_raw_fd(), target.address() as *mut _, target.len(), libc::MSG_DONTWAIT) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(got as usize) }
}
