//! The 16550 at 0x3f8, polled. Every access is an exit to the monitor (60 us on some hosts), so it
//! is touched as rarely as can be: one reading of the line status answers for output and input, and
//! then up to 16 bytes fill the FIFO. They go one by one: KVM makes one exit of each byte of a `rep
//! outsb` too, and some monitors drop what is longer.

use core::fmt;

use crate::cpu;

const DATA: u16 = 0x3f8;
const INTERRUPT_ENABLE: u16 = DATA + 1;
const FIFO_CONTROL: u16 = DATA + 2;
const LINE_CONTROL: u16 = DATA + 3;
const MODEM_CONTROL: u16 = DATA + 4;
const LINE_STATUS: u16 = DATA + 5;

const DATA_READY: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

/// Bytes that the transmitter takes when it is empty.
pub const FIFO: usize = 16;

/// What the line status says.
pub struct Status {
    /// [`FIFO`] bytes may be sent at once.
    pub can_send: bool,
    /// A byte waits to be [`receive`]d.
    pub has_input: bool,
}

/// Eight bits, no parity, FIFO on, no interrupts.
pub fn init() {
    cpu::write_port(INTERRUPT_ENABLE, 0);
    cpu::write_port(LINE_CONTROL, 3);
    cpu::write_port(FIFO_CONTROL, 7);
    cpu::write_port(MODEM_CONTROL, 3);
}

/// Asks once.
pub fn status() -> Status {
    let status = cpu::read_port(LINE_STATUS);
    Status { can_send: status & TRANSMITTER_EMPTY != 0, has_input: status & DATA_READY != 0 }
}

/// The byte that waits.
pub fn receive() -> u8 {
    cpu::read_port(DATA)
}

/// Sends bytes, at most [`FIFO`] since the transmitter was last known to be empty.
pub fn send(bytes: &[u8]) {
    for &byte in bytes {
        cpu::write_port(DATA, byte);
    }
}

/// A record of any length on its way out; waits for the transmitter as often as it must. Sent for
/// good when dropped.
pub struct Record {
    bytes: [u8; FIFO],
    len: usize,
}

impl Record {
    /// Begins a record.
    pub fn new() -> Self {
        Self { bytes: [0; FIFO], len: 0 }
    }

    fn flush(&mut self) {
        while !status().can_send {
            core::hint::spin_loop();
        }
        send(&self.bytes[..self.len]);
        self.len = 0;
    }
}

impl fmt::Write for Record {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            self.bytes[self.len] = byte;
            self.len += 1;
            if self.len == FIFO {
                self.flush();
            }
        }
        Ok(())
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.len > 0 {
            self.flush();
        }
    }
}

/// Sends one formatted record with its newline.
#[macro_export]
macro_rules! record {
    ($($arguments:tt)*) => {{
        use core::fmt::Write as _;
        // Writing to the port cannot fail.
        let _ = writeln!($crate::serial::Record::new(), $($arguments)*);
    }};
}
