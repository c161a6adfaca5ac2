//! A host that ends this process between two of its writes, or within one, or that fails at one of
//! them, for tests.

use std::cell::Cell;
use std::io;

/// The host carries out a write in pieces of this many bytes at least, between which it may end the
/// process.
const PAGE: u64 = 4096;

thread_local! {
    /// How many pieces of this thread's writes get into files yet.
    static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
    /// How many of its writes come before one that fails.
    static FAILS_IN: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Lets so many pieces through from now on, and nothing after them.
pub fn set(pieces: u64) {
    LEFT.set(pieces);
}

/// How many are left.
pub fn left() -> u64 {
    LEFT.get()
}

/// Lets one write fail after so many others.
pub fn fail_after(writes: u64) {
    FAILS_IN.set(Some(writes));
}

/// Whether that write is yet to come; it will not.
pub fn was_not_reached() -> bool {
    FAILS_IN.take().is_some()
}

/// How many of `length` bytes the host takes.
pub fn takes(length: u64) -> io::Result<u64> {
    match FAILS_IN.get() {
        Some(0) => {
            FAILS_IN.set(None);
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Some(more) => FAILS_IN.set(Some(more - 1)),
        None => {}
    }
    let (left, pieces) = (LEFT.get(), length.div_ceil(PAGE));
    LEFT.set(left.saturating_sub(pieces));
    Ok(if pieces <= left { length } else { left * PAGE })
}
