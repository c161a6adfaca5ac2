//! How fast the TSC runs, by channel 2 of the PIT, which port 0x61 gates and shows.

use crate::cpu::{read_port, timestamp, write_port};

const CHANNEL_2: u16 = 0x42;
const MODE: u16 = 0x43;
const GATE: u16 = 0x61;
const OUTPUT: u8 = 1 << 5;

const PIT_HZ: u64 = 1_193_182;
const COUNT: u16 = 35_795; // 30 ms
/// More ticks than any processor makes in a second.
const PATIENCE: u64 = 10_000_000_000;

/// TSC ticks in a millisecond: the least of three measurements, since anything that interferes
/// makes one longer.
pub fn calibrate() -> Result<u64, &'static str> {
    let mut least = u64::MAX;
    for _ in 0..3 {
        least = least.min(ticks_of_one_count()?);
    }
    Ok(least * PIT_HZ / (u64::from(COUNT) * 1000))
}

fn ticks_of_one_count() -> Result<u64, &'static str> {
    write_port(GATE, read_port(GATE) & !3 | 1); // gate on, speaker off
    write_port(MODE, 0xb0); // channel 2, both bytes, mode 0: the output rises at the end of the count
    write_port(CHANNEL_2, COUNT as u8);
    let ((), start) = midpoint(|| write_port(CHANNEL_2, (COUNT >> 8) as u8));
    loop {
        let (state, now) = midpoint(|| read_port(GATE));
        let ticks = now.wrapping_sub(start);
        if state & OUTPUT != 0 {
            return Ok(ticks);
        }
        if ticks > PATIENCE {
            return Err("channel 2 of the PIT does not count: give tsc_khz= on the command line");
        }
    }
}

/// When a port was accessed: an access may take 60 us, so neither end of it will do.
fn midpoint<T>(access: impl FnOnce() -> T) -> (T, u64) {
    let before = timestamp();
    let value = access();
    let after = timestamp();
    (value, before.wrapping_add(after.wrapping_sub(before) / 2))
}
