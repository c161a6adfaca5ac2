//! The instructions that Rust has no words for, and the two ways to stop.

use core::arch::asm;

/// A byte written here ends the monitor.
const EXIT_PORT: u16 = 0xf4;

/// The time stamp counter. Clobbers memory for the compiler, so that what is measured stays between
/// two readings.
#[inline(always)]
pub fn timestamp() -> u64 {
    let (low, high): (u32, u32);
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Reads a byte from a port.
#[inline(always)]
pub fn read_port(port: u16) -> u8 {
    let value: u8;
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack)) };
    value
}

/// Writes a byte to a port.
#[inline(always)]
pub fn write_port(port: u16, value: u8) {
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack)) };
}

unsafe extern "C" {
    fn park_cpu() -> !;
}

/// Stops this CPU for good, in ring 0 with interrupts off, where it costs the host nothing.
pub fn park() -> ! {
    unsafe { park_cpu() }
}

/// Ends the monitor with this code, and this CPU even if the monitor has no such port.
pub fn exit(code: u8) -> ! {
    write_port(EXIT_PORT, code);
    park()
}
