//! Waking the other vCPUs. The local APIC is reached from ring 3 through its page in memory (xAPIC
//! mode, in which every monitor starts it), so no privileged instruction is needed.

use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering::Acquire};

use crate::cpu::timestamp;

/// As many as boot.s has stacks for.
pub const MAX_CPUS: usize = 16;

/// Where the trampoline goes: a page below 1 MiB, free once the hand-over has been read.
const SIPI_PAGE: u64 = 0x8000;
const INTERRUPT_COMMAND: *mut u32 = 0xfee0_0300 as *mut u32;
const ALL_BUT_SELF: u32 = 3 << 18;
const ASSERT: u32 = 1 << 14;
const INIT: u32 = 5 << 8;
const START_UP: u32 = 6 << 8;

/// Without `cpus=` nobody more is expected after so many milliseconds without an arrival.
const QUIET_MS: u64 = 100;
const PATIENCE_MS: u64 = 20_000;

unsafe extern "C" {
    static trampoline: u8;
    static trampoline_end: u8;
    static cpus_arrived: AtomicU32;
}

/// Starts all other vCPUs and says how many there are now, this one included.
pub fn start(expected: Option<u32>, tsc_khz: u64) -> Result<usize, &'static str> {
    if expected == Some(1) {
        return Ok(1);
    }
    place_trampoline();
    broadcast(INIT | ASSERT);
    wait(10, tsc_khz);
    for _ in 0..2 {
        broadcast(START_UP | ASSERT | (SIPI_PAGE >> 12) as u32);
        wait(1, tsc_khz);
    }
    match expected {
        Some(n) => wait_for(n, tsc_khz),
        None => Ok(wait_for_quiet(tsc_khz)),
    }
}

fn arrived() -> u32 {
    unsafe { &cpus_arrived }.load(Acquire).min(MAX_CPUS as u32)
}

fn place_trampoline() {
    let code = &raw const trampoline;
    let len = (&raw const trampoline_end) as usize - code as usize;
    unsafe { ptr::copy_nonoverlapping(code, SIPI_PAGE as *mut u8, len) };
}

fn broadcast(command: u32) {
    unsafe { INTERRUPT_COMMAND.write_volatile(ALL_BUT_SELF | command) };
}

fn wait(milliseconds: u64, tsc_khz: u64) {
    let start = timestamp();
    while timestamp().wrapping_sub(start) < milliseconds * tsc_khz {
        core::hint::spin_loop();
    }
}

fn wait_for(expected: u32, tsc_khz: u64) -> Result<usize, &'static str> {
    for _ in 0..PATIENCE_MS {
        if arrived() >= expected {
            return Ok(expected as usize);
        }
        wait(1, tsc_khz);
    }
    Err("fewer vCPUs than cpus= says answered the start-up IPI within 20 s")
}

fn wait_for_quiet(tsc_khz: u64) -> usize {
    let mut seen = arrived();
    let mut quiet = 0;
    while quiet < QUIET_MS {
        wait(1, tsc_khz);
        quiet = if arrived() == seen { quiet + 1 } else { 0 };
        seen = arrived();
    }
    seen as usize
}
