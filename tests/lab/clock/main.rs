//! `lab-clock`: the host's wall clock, in nanoseconds since 1970. `lab-clock NANOSECONDS` puts it
//! that much forward, or back.
//!
//! A step, not a time: how long it takes to be carried out is then of no account.

use std::process::ExitCode;
use std::time::SystemTime;

/// The kernel's `struct timespec` on x86-64.
#[repr(C)]
struct TimeSpec {
    seconds: i64,
    nanoseconds: i64,
}

const CLOCK_REALTIME: i32 = 0;

unsafe extern "C" {
    fn clock_settime(clock: i32, time: *const TimeSpec) -> i32;
}

fn now() -> i128 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos() as i128)
}

fn set(time: i128) -> std::io::Result<()> {
    let time = TimeSpec { seconds: (time / 1_000_000_000) as i64, nanoseconds: (time % 1_000_000_000) as i64 };
    // SAFETY: the time lives as long as the call, which only reads it.
    match unsafe { clock_settime(CLOCK_REALTIME, &time) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn main() -> ExitCode {
    if let Some(step) = std::env::args().nth(1) {
        let Ok(step) = step.parse::<i64>() else {
            eprintln!("usage: lab-clock [NANOSECONDS]");
            return ExitCode::from(2);
        };
        if let Err(error) = set(now() + i128::from(step)) {
            eprintln!("lab-clock: {error}");
            return ExitCode::FAILURE;
        }
    }
    println!("{}", now());
    ExitCode::SUCCESS
}
