//! Clocks, read on each CPU: none may go back, neither on one CPU nor from one to the next.

use std::io::{Error, Result};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::say;

/// Between two looks at the clocks of a CPU; it is a timer too, which must not fire early.
const PAUSE: Duration = Duration::from_millis(5);
/// Readings in a row at each look: going back happens between close neighbours.
const READINGS: usize = 100;
/// Between two lines of output.
const REPORT: Duration = Duration::from_millis(50);

/// A clock, the latest reading of it on any CPU, and how it is read.
struct Clock {
    name: &'static str,
    latest: AtomicU64,
    read: fn(Instant) -> u64,
}

/// Looks at all clocks on all CPUs for ever. Ends with an error as soon as one goes back.
pub fn run() -> Result<()> {
    let began = Instant::now();
    let clocks = ["monotonic", "realtime", "tsc"].map(Clock::new);
    let cpus = thread::available_parallelism()?.get();
    let reads = AtomicU64::new(0);
    thread::scope(|scope| {
        let watchers: Vec<_> = (0..cpus)
            .map(|cpu| {
                let (clocks, reads) = (&clocks, &reads);
                scope.spawn(move || -> Result<()> {
                    stay_on(cpu)?;
                    watch(cpu, clocks, began, reads)
                })
            })
            .collect();
        watchers.into_iter().try_for_each(|watcher| watcher.join().map_err(|_| Error::other("a watcher panicked"))?)
    })
}

impl Clock {
    fn new(name: &'static str) -> Self {
        let read: fn(Instant) -> u64 = match name {
            "monotonic" => |began| began.elapsed().as_nanos() as u64,
            "realtime" => |_| SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos() as u64),
            _ => |_| time_stamp(),
        };
        Self { name, latest: AtomicU64::new(0), read }
    }

    /// Reads it; an error if any CPU has seen a later value before.
    fn check(&self, cpu: usize, began: Instant) -> Result<u64> {
        let before = self.latest.load(SeqCst);
        let now = (self.read)(began);
        if now < before {
            return Err(Error::other(format!("{} went back by {} on CPU {cpu}", self.name, before - now)));
        }
        self.latest.fetch_max(now, SeqCst);
        Ok(now)
    }
}

/// Watches from one CPU. CPU 0 also reports; an error of any ends the process, for all others go on
/// for ever.
fn watch(cpu: usize, clocks: &[Clock], began: Instant, reads: &AtomicU64) -> Result<()> {
    let (mut reported, mut longest) = (Instant::now(), Duration::ZERO);
    loop {
        for _ in 0..READINGS {
            for clock in clocks {
                if let Err(error) = clock.check(cpu, began) {
                    say(&format!("clocks: ERROR {error}"));
                    std::process::exit(1);
                }
            }
        }
        reads.fetch_add((READINGS * clocks.len()) as u64, SeqCst);
        let asleep = Instant::now();
        thread::sleep(PAUSE);
        if asleep.elapsed() < PAUSE {
            say(&format!("clocks: ERROR a timer of {PAUSE:?} fired after {:?} on CPU {cpu}", asleep.elapsed()));
            std::process::exit(1);
        }
        longest = longest.max(asleep.elapsed());
        if cpu == 0 && reported.elapsed() >= REPORT {
            reported = Instant::now();
            let wall = (clocks[1].read)(began) as f64 / 1e9;
            say(&format!("clocks {} {wall:.3} {:.0}", reads.load(SeqCst), longest.as_secs_f64() * 1e3));
        }
    }
}

/// Binds the calling thread to a CPU.
fn stay_on(cpu: usize) -> Result<()> {
    let path = std::fs::read_link("/proc/thread-self")?;
    let thread = path.file_name().unwrap_or_default();
    let done = Command::new("taskset").arg("-p").arg(format!("{:x}", 1u64 << cpu)).arg(thread).output()?;
    match done.status.success() {
        true => Ok(()),
        false => Err(Error::other(String::from_utf8_lossy(&done.stderr).into_owned())),
    }
}

/// The time stamp counter, read after all loads before it.
fn time_stamp() -> u64 {
    let mut processor = 0;
    // SAFETY: every 64-bit processor of the last fifteen years has RDTSCP; it only writes the given
    // integer.
    unsafe { core::arch::x86_64::__rdtscp(&mut processor) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_another_cpu_saw_later_went_back() {
        let clock = Clock::new("monotonic");
        let began = Instant::now();
        clock.check(0, began).unwrap();
        clock.latest.store(u64::MAX, SeqCst);
        assert!(clock.check(1, began).unwrap_err().to_string().starts_with("monotonic went back by"));
    }
}
