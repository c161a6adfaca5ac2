//! While a destination waits for its guest, it has the host provide the RAM: fresh memory costs
//! more than bringing its contents.
//!
//! On a host that has little memory left nothing is populated: it works all the same, and slower.
//! What the guest turns out not to use is given back on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::groups;
use super::place::Place;
use crate::guest::{EngineThread, GuestRam};
use crate::host::read_to_string;
use crate::host::thread::{Builder, JoinHandle};
use crate::logging as log;
use crate::ram::PageRun;
use crate::thread_priority::lower_priority;

/// So many huge pages are populated between two looks at how much memory the host has left.
const LOOK_EACH: usize = 32;
/// What is left alone of the host's memory: this part of it.
const RESERVE: u64 = 8;

/// The thread that populates RAM, until it is stopped.
pub(super) struct Populate {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Populate {
    /// Begins with the lowest addresses.
    pub fn begin(guest: Arc<dyn GuestRam>, place: Arc<Place>) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread =
            Builder::new().name("populate".into()).spawn(log::carried(move || run(&*guest, &place, &stopped)))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Does nothing: it is not known yet whether this side's own memory will be of use.
    pub fn later() -> Self {
        Self { stop: Arc::default(), thread: None }
    }

    /// Stops it soon, without waiting.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Stops it: nothing is populated any more when this returns.
    pub fn finish(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Populate {
    fn drop(&mut self) {
        self.finish();
    }
}

fn run(guest: &dyn GuestRam, place: &Place, stop: &AtomicBool) {
    guest.thread_begins(EngineThread::Populate);
    lower_priority();
    for (number, chunk) in place.chunks().enumerate() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        if number.is_multiple_of(LOOK_EACH) && !host_has(LOOK_EACH * chunk.bytes()) {
            log::debug!(
                "the host has little memory left: {} MiB of RAM were populated",
                (number * chunk.bytes()) >> 20
            );
            return;
        }
        // What has come already has its memory, or is zero and needs none.
        if !is_untouched(place, chunk) {
            continue;
        }
        if let Err(error) = guest.ram()[usize::from(chunk.block.0)].populate(chunk) {
            log::debug!("RAM is not populated: {error}");
            return;
        }
    }
}

fn is_untouched(place: &Place, chunk: PageRun) -> bool {
    let received = place.tracker.received().block(chunk.block);
    received.and_then(|received| received.next_set(chunk.start)).is_none_or(|page| page >= chunk.end())
}

/// Whether the host, and the control groups that this process is in, have so many bytes to spare.
fn host_has(bytes: usize) -> bool {
    let Ok(told) = read_to_string("/proc/meminfo") else { return false };
    let (Some(total), Some(available)) = (kib(&told, "MemTotal:"), kib(&told, "MemAvailable:")) else { return false };
    let wanted = bytes as u64 / 1024;
    available >= total / RESERVE + wanted && groups::room().is_none_or(|room| room >= 2 * bytes as u64)
}

/// A line of /proc/meminfo, in KiB.
fn kib(told: &str, name: &str) -> Option<u64> {
    let line = told.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_tells_it() {
        let told = "MemTotal:       24684436 kB\nMemFree:        20139164 kB\nMemAvailable:   20836412 kB\n";
        assert_eq!(kib(told, "MemAvailable:"), Some(20_836_412));
        assert_eq!(kib(told, "MemTotal:"), Some(24_684_436));
        assert_eq!(kib(told, "Nothing:"), None);
    }
}
