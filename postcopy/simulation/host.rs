//! The host of a simulated schedule, under the names of `src/host.rs`: threads are fibers of one
//! thread of the system that take turns as the schedule's seed says, the clock is virtual, and
//! sockets, userfaultfd and missing pages are modelled on Linux's.
//!
//! A fiber switches only where the engine asks something of its host: there the next one is drawn
//! among those that can run. When none can, the clock goes on to the next moment at which one can.
//! When there is no such moment, the schedule has found a deadlock.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

pub mod atomic;
mod descriptors;
mod fibers;
mod locks;
mod memory;
mod random;
mod sockets;
pub mod thread;
mod time;
pub mod uffd;

pub use descriptors::{Descriptor, EventFd, poll};
pub use fibers::{block, describe, fiber, now, point, run, turns};
pub use locks::{Condvar, Mutex, MutexGuard, next};
pub use memory::{is_present, out_of_memory, touches};
pub use random::{Random, random, scale_down, scaled};
pub use sockets::{Cut, Line, Network, network};
pub use time::Instant;

pub mod calls {
    pub use super::memory::{madvise, mmap, mremap, munmap};
    pub use super::sockets::calls::{getsockopt, recv, sendmsg, setsockopt};
}

pub mod socket {
    pub use super::sockets::safe::{MOST_FILES, fcntl, pair, receive_files, recv, send_files, setsockopt, shutdown};
}

/// What the engine reads of the host's files: how much memory it has left, which is enough in this
/// schedule or not.
pub fn read_to_string(path: impl AsRef<std::path::Path>) -> std::io::Result<String> {
    let available = if random(2) == 0 { "16000000" } else { "1000" };
    match path.as_ref().to_str() {
        Some("/proc/meminfo") => Ok(format!("MemTotal: 16000000 kB\nMemAvailable: {available} kB\n")),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    }
}
