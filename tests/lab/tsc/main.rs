//! Prints the frequency of this machine's time stamp counter in kHz. The lab's emulated hosts count
//! with the same counter, and two that each measured it for themselves, on a busy machine, would
//! not agree: a guest could not move between them.

use std::time::{Duration, Instant};

fn main() {
    let (began, first) = (Instant::now(), time_stamp());
    std::thread::sleep(Duration::from_millis(200));
    let (ticks, passed) = (time_stamp() - first, began.elapsed());
    println!("{:.0}", ticks as f64 / passed.as_secs_f64() / 1e3);
}

fn time_stamp() -> u64 {
    // SAFETY: every 64-bit processor has RDTSC, and it touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}
