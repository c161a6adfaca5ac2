//! The real-time clock of a PC, an MC146818, with its battery-backed memory: index port 0x70, data
//! port 0x71.
//!
//! ```text
//! 0x00 seconds   0x02 minutes   0x04 hours   0x06 day of the week   0x07 day   0x08 month   0x09 year   0x32 century
//! 0x0a status A: update in progress, divider     0x0b status B: held, binary, 24 hours
//! 0x0c status C: what interrupted (nothing)      0x0d status D: the battery is good
//! all else: memory
//! ```
//! It is never wound up: it shows the host's wall clock plus an offset that the guest's own
//! settings leave, so it is right after a stop or a move of any length, as a clock with a battery
//! is. Its alarm, periodic and update interrupts are not there: their enable bits read as zero.

mod calendar;
mod clock;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Action, Device, SavedDevice};
use crate::state::layout::{Field, Type};
use crate::state::{StateError, StateReader, StateWriter};
use clock::{Clock, REGISTERS};

/// See the module's text.
#[derive(Default)]
pub struct Rtc {
    chip: Mutex<Chip>,
}

/// The clock and the index that was written last.
#[derive(Default)]
struct Chip {
    index: u8,
    clock: Clock,
}

impl Rtc {
    /// The index port; the data port follows.
    pub const PORT: u16 = 0x70;
    /// How many ports.
    pub const PORTS: u16 = 2;
    /// The century's register, which the FADT names.
    pub const CENTURY: u8 = clock::CENTURY;
    const VERSION: u32 = 1;
    /// The index's highest bit masks the NMI on a PC; there is none to mask.
    const INDEX: u8 = REGISTERS as u8 - 1;

    fn lock(&self) -> MutexGuard<'_, Chip> {
        self.chip.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The host's wall clock since 1970, UTC.
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Device for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        // The index cannot be read, and the data port is one byte wide.
        if let (1, [byte]) = (offset, data) {
            let chip = self.lock();
            *byte = chip.clock.read(chip.index, wall_clock());
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let mut chip = self.lock();
        match (offset, data) {
            (0, [index]) => chip.index = index & Self::INDEX,
            // Both ports at once.
            (0, [index, value]) => {
                chip.index = index & Self::INDEX;
                chip.write(*value);
            }
            (1, [value]) => chip.write(*value),
            _ => {}
        }
        Action::None
    }
}

impl Chip {
    fn write(&mut self, value: u8) {
        self.clock.write(self.index, value, wall_clock());
    }
}

impl SavedDevice for Rtc {
    fn name(&self) -> &'static str {
        "rtc"
    }

    fn version(&self) -> u32 {
        Self::VERSION
    }

    /// Layout, version 1: u8 index, the clock as `rtc/clock.rs` writes it.
    fn save(&self) -> Vec<u8> {
        let chip = self.lock();
        let mut writer = StateWriter::default();
        writer.u8(chip.index);
        chip.clock.save(&mut writer);
        writer.finish()
    }

    fn layout(&self) -> Vec<Field> {
        [&[Field("index", Type::U8)], Clock::LAYOUT].concat()
    }

    fn load(&self, version: u32, bytes: &[u8]) -> Result<(), StateError> {
        let mut reader = StateReader::new(self.name(), version, Self::VERSION, bytes)?;
        let index = reader.u8("index")?;
        if index > Self::INDEX {
            return Err(reader.impossible("index", index.into()));
        }
        let clock = Clock::load(&mut reader)?;
        reader.finish()?;
        *self.lock() = Chip { index, clock };
        Ok(())
    }

    /// Its battery keeps time and memory; its modes are as a PC's firmware leaves them.
    fn reset(&self) {
        let mut chip = self.lock();
        chip.index = 0;
        chip.clock.reset(wall_clock());
    }
}

#[cfg(test)]
mod tests;
