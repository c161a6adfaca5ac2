//! The ACPI fixed hardware (ACPI specification 6.5, chapter 4.8): the power button and the way to
//! power off.
//!
//! ```text
//! port 0x600  PM1 status    what happened; writing a one clears it
//!      0x602  PM1 enable    which of that raises the system control interrupt (SCI)
//!      0x604  PM1 control   the sleep register
//! ```
//! The SCI is level-triggered: it is up while an event is both there and enabled.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Action, Device, SavedDevice};
use crate::state::layout::{Field, Type};
use crate::state::{StateError, StateReader, StateWriter};

/// Bits of status and enable: the firmware has released the global lock; the power button was
/// pressed; the RTC's alarm.
const GLOBAL: u16 = 1 << 5;
const POWER_BUTTON: u16 = 1 << 8;
const ALARM: u16 = 1 << 10;
/// What can be enabled. No firmware ever holds the global lock, so it is never released either, and
/// the RTC has no alarm; but Linux enables both, looks whether they stay so, and complains of
/// broken hardware if not. Timer and sleep button are not there, and the FADT says so.
const ENABLES: u16 = GLOBAL | POWER_BUTTON | ALARM;

/// Bits of the control register: ACPI mode is on, for ever; wake up on bus mastering; the kind of
/// sleep; fall asleep.
const SCI_ENABLED: u16 = 1;
const BUS_MASTER_WAKES: u16 = 1 << 1;
const SLEEP_TYPE: u16 = 7 << 10;
const SLEEP: u16 = 1 << 13;
/// What the guest reads back. Reading as zero: the global lock's release, of which nobody waits to
/// be told, and `SLEEP`.
const CONTROL_KEPT: u16 = BUS_MASTER_WAKES | SLEEP_TYPE;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Registers {
    status: u16,
    enable: u16,
    control: u16,
}

impl Registers {
    fn sci(&self) -> bool {
        self.status & self.enable != 0
    }

    fn byte(&self, offset: u64) -> u8 {
        let word = match offset / 2 {
            0 => self.status,
            1 => self.enable,
            _ => self.control | SCI_ENABLED,
        };
        word.to_le_bytes()[(offset % 2) as usize]
    }

    /// Takes one byte at `offset`; software writes whole words, but may write bytes.
    fn set_byte(&mut self, offset: u64, byte: u8) -> Action {
        let shift = 8 * (offset % 2);
        let (value, written) = (u16::from(byte) << shift, 0xff << shift);
        match offset / 2 {
            0 => self.status &= !value,
            1 => self.enable = self.enable & !written | value & ENABLES,
            _ => {
                self.control = self.control & !written | value & CONTROL_KEPT;
                if value & SLEEP != 0 {
                    return self.sleep();
                }
            }
        }
        Action::None
    }

    fn sleep(&self) -> Action {
        let kind = ((self.control & SLEEP_TYPE) >> 10) as u8;
        if kind == PowerManagement::SOFT_OFF {
            return Action::PowerOff;
        }
        // A guest can do this as often as it likes: no line for each.
        log::debug!("the guest asks for the sleep state of type {kind}, which ACPI did not offer it: it goes on");
        Action::None
    }
}

/// See the module's text.
pub struct PowerManagement {
    registers: Mutex<Registers>,
    sci: Arc<dyn Fn(bool) + Send + Sync>,
}

impl PowerManagement {
    /// The first port: the event registers.
    pub const PORT: u16 = 0x600;
    /// How many ports the event registers have.
    pub const EVENT_PORTS: u16 = 4;
    /// The control register.
    pub const CONTROL_PORT: u16 = Self::PORT + Self::EVENT_PORTS;
    /// How many ports in all.
    pub const PORTS: u16 = Self::EVENT_PORTS + 2;
    /// The interrupt line of the SCI: level-triggered, active high.
    pub const IRQ: u32 = 9;
    /// The kind of sleep that powers off.
    pub const SOFT_OFF: u8 = 5;
    const VERSION: u32 = 1;

    /// `sci` sets the level of the interrupt line; it is called under the device's lock.
    pub fn new(sci: Arc<dyn Fn(bool) + Send + Sync>) -> Self {
        Self { registers: Mutex::default(), sci }
    }

    /// Presses the power button. A guest that has not enabled it yet finds the press once it does.
    pub fn press_power_button(&self) {
        self.change(|registers| registers.status |= POWER_BUTTON);
    }

    fn lock(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the registers, and the interrupt line as they say then. Under one lock, so that two
    /// threads cannot leave the line in the other's state.
    fn change<R>(&self, change: impl FnOnce(&mut Registers) -> R) -> R {
        let mut registers = self.lock();
        let before = registers.sci();
        let result = change(&mut registers);
        if registers.sci() != before {
            (self.sci)(registers.sci());
        }
        result
    }

    /// Sets the registers and the line, whatever they were.
    fn replace(&self, new: Registers) {
        let mut registers = self.lock();
        *registers = new;
        (self.sci)(new.sci());
    }
}

impl Device for PowerManagement {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let registers = self.lock();
        for (at, byte) in (offset..).zip(data) {
            *byte = if at < Self::PORTS.into() { registers.byte(at) } else { 0xff };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        self.change(|registers| {
            // The kind of sleep and the order to fall asleep are in one byte; still, the last one's
            // word counts.
            let bytes = (offset..u64::from(Self::PORTS)).zip(data);
            bytes.map(|(at, byte)| registers.set_byte(at, *byte)).fold(Action::None, |so_far, action| match action {
                Action::None => so_far,
                action => action,
            })
        })
    }
}

impl SavedDevice for PowerManagement {
    fn name(&self) -> &'static str {
        "power-management"
    }

    fn version(&self) -> u32 {
        Self::VERSION
    }

    /// Layout, version 1: u32 status, u32 enable, u32 control.
    fn save(&self) -> Vec<u8> {
        let registers = self.lock();
        let mut writer = StateWriter::default();
        for register in [registers.status, registers.enable, registers.control] {
            writer.u32(register.into());
        }
        writer.finish()
    }

    fn layout(&self) -> Vec<Field> {
        ["status", "enable", "control"].map(|register| Field(register, Type::U32)).to_vec()
    }

    fn load(&self, version: u32, bytes: &[u8]) -> Result<(), StateError> {
        let mut reader = StateReader::new(self.name(), version, Self::VERSION, bytes)?;
        let mut register = |field, possible: u16| {
            let value = reader.u32(field)?;
            if value & !u32::from(possible) != 0 {
                return Err(reader.impossible(field, value.into()));
            }
            Ok(value as u16)
        };
        let new = Registers {
            status: register("status", POWER_BUTTON)?,
            enable: register("enable", ENABLES)?,
            control: register("control", CONTROL_KEPT)?,
        };
        reader.finish()?;
        // KVM's saved interrupt controllers do not hold the level of the line, so it is set even if
        // it stays as it is.
        self.replace(new);
        Ok(())
    }

    fn reset(&self) {
        self.replace(Registers::default());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::state::testing::assert_layout;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn device() -> (PowerManagement, Arc<AtomicBool>) {
        let line = Arc::new(AtomicBool::new(false));
        let level = line.clone();
        (PowerManagement::new(Arc::new(move |up| level.store(up, Ordering::Relaxed))), line)
    }

    fn read(device: &PowerManagement, offset: u64) -> u16 {
        let mut word = [0; 2];
        device.read(offset, &mut word);
        u16::from_le_bytes(word)
    }

    fn write(device: &PowerManagement, offset: u64, value: u16) -> Action {
        device.write(offset, &value.to_le_bytes())
    }

    #[test]
    fn the_button_raises_the_line_until_the_guest_clears_it() {
        let (device, line) = device();
        write(&device, 2, POWER_BUTTON);
        device.press_power_button();
        assert!(line.load(Ordering::Relaxed));
        assert_eq!(read(&device, 0), POWER_BUTTON);
        // Masked and unmasked, as an interrupt handler does.
        write(&device, 2, 0);
        assert!(!line.load(Ordering::Relaxed));
        write(&device, 2, POWER_BUTTON);
        assert!(line.load(Ordering::Relaxed));
        write(&device, 0, !POWER_BUTTON);
        assert!(line.load(Ordering::Relaxed), "only a one clears");
        write(&device, 0, POWER_BUTTON);
        assert!(!line.load(Ordering::Relaxed));
    }

    #[test]
    fn an_early_press_waits_for_the_guest() {
        let (device, line) = device();
        device.press_power_button();
        assert!(!line.load(Ordering::Relaxed));
        write(&device, 2, POWER_BUTTON | GLOBAL);
        assert!(line.load(Ordering::Relaxed));
    }

    #[test]
    fn what_is_not_there_cannot_be_enabled() {
        let (device, _) = device();
        write(&device, 2, 0xffff);
        assert_eq!(read(&device, 2), ENABLES);
        write(&device, 4, !SLEEP);
        assert_eq!(read(&device, 4), SCI_ENABLED | CONTROL_KEPT);
        write(&device, 4, 0);
        assert_eq!(read(&device, 4), SCI_ENABLED);
        let mut both = [0; 4];
        device.read(0, &mut both);
        assert_eq!(u32::from_le_bytes(both), u32::from(ENABLES) << 16);
        let mut beyond = [0; 4];
        device.read(4, &mut beyond);
        assert_eq!(beyond[2..], [0xff, 0xff]);
        assert_eq!(device.write(4, &[0, 0, 0xff, 0xff]), Action::None);
    }

    #[test]
    fn only_soft_off_powers_off() {
        let (device, _) = device();
        for kind in 0..8 {
            let value = u16::from(kind) << 10;
            assert_eq!(write(&device, 4, value), Action::None);
            let action = write(&device, 4, value | SLEEP);
            assert_eq!(action, if kind == PowerManagement::SOFT_OFF { Action::PowerOff } else { Action::None });
        }
        assert_eq!(device.write(5, &[0x34]), Action::PowerOff);
    }

    #[test]
    fn a_press_moves_and_a_reset_forgets_it() {
        let (source, _) = device();
        write(&source, 2, POWER_BUTTON);
        write(&source, 4, 5 << 10);
        source.press_power_button();
        let (destination, line) = device();
        destination.load(1, &source.save()).unwrap();
        assert!(line.load(Ordering::Relaxed));
        assert_eq!(*destination.lock(), *source.lock());
        destination.reset();
        assert!(!line.load(Ordering::Relaxed));
        assert_eq!(*destination.lock(), Registers::default());
    }

    #[test]
    fn its_layout_is_what_is_read() {
        let (device, _) = device();
        let bytes = device.save();
        assert_layout(&device.layout(), &bytes, || device.load(1, &bytes).unwrap());
    }

    #[test]
    fn bad_states_are_refused_and_change_nothing() {
        let (device, _) = device();
        let good = device.save();
        assert!(device.load(2, &good).is_err());
        for length in 0..good.len() {
            assert!(device.load(1, &good[..length]).is_err());
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] = 0xff;
            assert!(matches!(device.load(1, &bad), Err(StateError::Value { .. })), "{at}");
        }
        assert_eq!(device.save(), good);
    }
}
