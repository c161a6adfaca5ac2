//! The clock's registers, with the time as an argument.

use std::time::Duration;

use super::calendar::{Moment, Style};
use crate::state::layout::{Count, Field, Type};
use crate::state::{StateError, StateReader, StateWriter};

/// How many registers there are.
pub(super) const REGISTERS: usize = 128;
/// Where the century is; any register will do, and the FADT tells which. This one is the usual.
pub(super) const CENTURY: u8 = 0x32;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_C: u8 = 0x0c;
const STATUS_D: u8 = 0x0d;
/// Why the processor was reset, for a PC's firmware.
const SHUTDOWN: u8 = 0x0f;

/// The registers that show the time.
const TIME: [u8; 8] = [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY];

/// Status A: the time is about to change; the divider's select bits, of which the two upper ones
/// hold it in reset; a crystal of 32768 Hz and a periodic rate of 1024 Hz, as a PC's firmware sets
/// them.
const UPDATE_IN_PROGRESS: u8 = 0x80;
const DIVIDER_RESET: u8 = 0x60;
const STATUS_A_DEFAULT: u8 = 0x26;
/// Status B: the time is held for setting; numbers are binary; hours count to 23. Not kept, for
/// they are not built: the interrupts' enable bits, the square wave, daylight saving.
const SET: u8 = 0x80;
const BINARY: u8 = 0x04;
const HOURS_24: u8 = 0x02;
/// Status D: the battery has not run down.
const VALID: u8 = 0x80;

const SECOND: u32 = 1_000_000_000;
/// For how long a change is announced, in nanoseconds: the data sheet's 244 microseconds. Whoever
/// reads [`UPDATE_IN_PROGRESS`] as zero has that much time to read all registers as of one moment.
const ANNOUNCED: u32 = 244_000;
/// Where in a second the clock is when its divider comes out of reset.
const RELEASED_AT: u32 = SECOND / 2;
/// Further from the host's clock, in seconds, than any two years that it can show.
const OFFSET_LIMIT: i64 = 1 << 40;

/// See the module's text. The clock shows the wall clock plus `offset` and `phase`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    /// Everything but the time; the time only while it is held.
    registers: [u8; REGISTERS],
    /// Seconds.
    offset: i64,
    /// Nanoseconds, less than a second.
    phase: u32,
}

impl Default for Clock {
    fn default() -> Self {
        let mut registers = [0; REGISTERS];
        registers[usize::from(STATUS_A)] = STATUS_A_DEFAULT;
        registers[usize::from(STATUS_B)] = HOURS_24;
        Self { registers, offset: 0, phase: 0 }
    }
}

impl Clock {
    /// What register `index` (less than [`REGISTERS`]) shows at `now`, the wall clock since 1970.
    pub fn read(&self, index: u8, now: Duration) -> u8 {
        match index {
            STATUS_A if !self.held() && self.time(now).1 >= SECOND - ANNOUNCED => {
                self.register(index) | UPDATE_IN_PROGRESS
            }
            STATUS_C => 0,
            STATUS_D => VALID,
            _ if TIME.contains(&index) && !self.held() => self.shown(now)[usize::from(index)],
            _ => self.register(index),
        }
    }

    /// Writes register `index`.
    pub fn write(&mut self, index: u8, value: u8, now: Duration) {
        match index {
            STATUS_A | STATUS_B => self.write_mode(index, value, now),
            STATUS_C | STATUS_D => {}
            _ if TIME.contains(&index) && !self.held() => {
                self.registers = self.shown(now);
                self.set(index, value);
                self.start(now);
            }
            _ => self.set(index, value),
        }
    }

    /// The battery keeps the time and the memory; the rest is as a PC's firmware leaves it.
    pub fn reset(&mut self, now: Duration) {
        self.write_mode(STATUS_A, STATUS_A_DEFAULT, now);
        // Let go before the numbers change their style: a held time is in the old one.
        self.write_mode(STATUS_B, self.register(STATUS_B) & !SET, now);
        self.write_mode(STATUS_B, HOURS_24, now);
        self.set(SHUTDOWN, 0);
    }

    /// Writes status A or B. The time stops in the registers when one of them holds it, and goes on
    /// from there when none does any more.
    fn write_mode(&mut self, index: u8, value: u8, now: Duration) {
        let (held, divided) = (self.held(), self.divided());
        if !held {
            self.registers = self.shown(now);
        }
        self.set(index, value & if index == STATUS_A { !UPDATE_IN_PROGRESS } else { SET | BINARY | HOURS_24 });
        if !divided && self.divided() {
            let passed = now.subsec_nanos();
            self.phase = (RELEASED_AT + SECOND - passed) % SECOND;
        }
        if held && !self.held() {
            self.start(now);
        }
    }

    fn register(&self, index: u8) -> u8 {
        self.registers[usize::from(index)]
    }

    fn set(&mut self, index: u8, value: u8) {
        self.registers[usize::from(index)] = value;
    }

    /// Whether the divider counts.
    fn divided(&self) -> bool {
        self.register(STATUS_A) & DIVIDER_RESET != DIVIDER_RESET
    }

    /// Whether the time stands still in the registers.
    fn held(&self) -> bool {
        self.register(STATUS_B) & SET != 0 || !self.divided()
    }

    fn style(&self) -> Style {
        let mode = self.register(STATUS_B);
        Style { binary: mode & BINARY != 0, hours_24: mode & HOURS_24 != 0 }
    }

    /// The time that a clock which is not held shows: seconds since 1970, and nanoseconds.
    fn time(&self, now: Duration) -> (i64, u32) {
        let nanoseconds = now.subsec_nanos() + self.phase;
        let seconds = (now.as_secs() as i64).wrapping_add(i64::from(nanoseconds / SECOND));
        (seconds.wrapping_add(self.offset), nanoseconds % SECOND)
    }

    /// The registers with that time in them.
    fn shown(&self, now: Duration) -> [u8; REGISTERS] {
        let moment = Moment::of(self.time(now).0);
        let style = self.style();
        let mut registers = self.registers;
        for (index, byte) in [
            (SECONDS, style.number(moment.second)),
            (MINUTES, style.number(moment.minute)),
            (HOURS, style.hour(moment.hour)),
            (WEEKDAY, style.number(moment.weekday())),
            (DAY, style.number(moment.day)),
            (MONTH, style.number(moment.month)),
            (YEAR, style.number(moment.year)),
            (CENTURY, style.number(moment.year.div_euclid(100))),
        ] {
            registers[usize::from(index)] = byte;
        }
        registers
    }

    /// Goes on from the time in the registers. Only whole seconds change: the divider has gone on
    /// by itself.
    fn start(&mut self, now: Duration) {
        let style = self.style();
        let value = |index| style.value(self.register(index));
        let moment = Moment {
            year: value(CENTURY) * 100 + value(YEAR),
            month: value(MONTH),
            day: value(DAY),
            hour: style.hour_value(self.register(HOURS)),
            minute: value(MINUTES),
            second: value(SECONDS),
        };
        self.offset = self.offset.wrapping_add(moment.seconds()).wrapping_sub(self.time(now).0);
    }

    /// Layout: u64 offset in seconds (two's complement), u32 phase in nanoseconds, the registers.
    /// Those of the time count only while it is held.
    pub fn save(&self, writer: &mut StateWriter) {
        writer.u64(self.offset as u64);
        writer.u32(self.phase);
        writer.bytes(&self.registers);
    }

    /// The same for tools.
    pub const LAYOUT: &[Field] = &[
        Field("offset", Type::I64),
        Field("phase", Type::U32),
        Field("registers", Type::Bytes(Count::Fixed(REGISTERS as u32))),
    ];

    /// Reads it back.
    pub fn load(reader: &mut StateReader<'_>) -> Result<Self, StateError> {
        let offset = reader.u64("offset")?;
        if (offset as i64).unsigned_abs() > OFFSET_LIMIT as u64 {
            return Err(reader.impossible("offset", offset));
        }
        let phase = reader.u32("phase")?;
        if phase >= SECOND {
            return Err(reader.impossible("phase", phase.into()));
        }
        let mut clock = Self { offset: offset as i64, phase, ..Self::default() };
        clock.registers.copy_from_slice(reader.bytes(REGISTERS, "registers")?);
        for (index, possible) in [(STATUS_A, !UPDATE_IN_PROGRESS), (STATUS_B, SET | BINARY | HOURS_24)] {
            let value = clock.register(index);
            if value & !possible != 0 {
                return Err(reader.impossible("status", value.into()));
            }
        }
        Ok(clock)
    }
}
