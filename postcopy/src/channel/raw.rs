//! The socket calls that take addresses: page contents go between a socket and guest RAM without a
//! copy, and the kernel tells and takes what has no safe wrapper.

use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsRawFd, BorrowedFd};

use linux_raw_sys::net::tcp_info;

use crate::host::calls;
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
    // SAFETY: `message` and `vector` live until the call returns, and so does the memory that each
    // `RawSlice` names.
    let sent = unsafe { calls::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Receives what is there now into guest RAM, at most `target.len()` bytes; returns how many came,
/// 0 at the end of the stream.
pub fn receive(socket: BorrowedFd<'_>, target: RawSlice<'_>) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `len` bytes at an address that is valid as long as
    // `target`; only guest RAM, to which no Rust reference exists, is ever passed here.
    let got = unsafe { calls::recv(socket.as_raw_fd(), target.address() as *mut _, target.len(), libc::MSG_DONTWAIT) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(got as usize) }
}

/// Appends a copy of the piece, as it is at this moment: the guest may write its memory meanwhile.
pub fn append(piece: RawSlice<'_>, to: &mut Vec<u8>) {
    to.reserve(piece.len());
    let target = to.spare_capacity_mut().as_mut_ptr().cast::<u8>();
    // SAFETY: `piece` is valid for as long as it lives, `to` has room for it behind its end, and
    // memory that `to` owns is not guest RAM.
    unsafe {
        std::ptr::copy_nonoverlapping(piece.address() as *const u8, target, piece.len());
        to.set_len(to.len() + piece.len());
    }
}

/// Copies bytes to the begin of guest RAM, as many as have room there.
pub fn fill(target: RawSlice<'_>, bytes: &[u8]) {
    let count = bytes.len().min(target.len());
    // SAFETY: only guest RAM, to which no Rust reference exists, is ever passed here, and it is
    // valid for as long as `target`; `count` is at most the length of both.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target.address() as *mut u8, count) }
}

/// Puts references to the pages of guest RAM into a pipe, as many as it has room for now; returns
/// how many bytes they are. What the pipe gives out is what the pages hold at that moment, not now.
pub fn lend(pipe: BorrowedFd<'_>, pages: RawSlice<'_>) -> io::Result<usize> {
    let vector = libc::iovec { iov_base: pages.address() as *mut _, iov_len: pages.len() };
    // SAFETY: the kernel takes references to pages that are mapped as long as `pages` is valid, and
    // keeps each page for as long as it holds one; it only ever reads them, and no Rust reference
    // to guest RAM, which alone is passed here, exists.
    let lent = unsafe { libc::vmsplice(pipe.as_raw_fd(), &vector, 1, libc::SPLICE_F_NONBLOCK) };
    if lent < 0 { Err(io::Error::last_os_error()) } else { Ok(lent as usize) }
}

/// What the kernel knows about a TCP connection; `None` for another kind of socket and for a kernel
/// that does not tell all of it (before Linux 4.10). Of what newer kernels added behind
/// `tcpi_rwnd_limited`, an older one leaves zeros.
pub fn tcp_info(socket: BorrowedFd<'_>) -> Option<tcp_info> {
    const NEEDED: usize = offset_of!(tcp_info, tcpi_rwnd_limited) + size_of::<u64>();
    let mut info = MaybeUninit::<tcp_info>::zeroed();
    let mut length = size_of::<tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `info`; both outlive the call.
    let result = unsafe {
        calls::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    // SAFETY: it is a structure of numbers, of which every bit pattern is a value, and it began as
    // zeros.
    (result == 0 && length as usize >= NEEDED).then(|| unsafe { info.assume_init() })
}

/// Sets a number as an option of the socket: `u32` or `u64`, whichever the option is.
pub fn set_option<T: Number>(socket: BorrowedFd<'_>, level: i32, option: i32, value: T) -> io::Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads at most `size` bytes of `value`, which is so large, initialised and
    // lives until the call returns.
    let result = unsafe { calls::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What [`set_option`] takes: plain numbers without padding.
pub trait Number: Copy {}
impl Number for u32 {}
impl Number for u64 {}
