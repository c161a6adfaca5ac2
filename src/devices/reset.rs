//! The two ways in which a PC's software resets it: the keyboard controller and the chipset's reset
//! control register.

use std::sync::atomic::{AtomicU8, Ordering};

use super::{Action, Device, SavedDevice};
use crate::state::layout::{Field, Type};
use crate::state::{StateError, StateReader, StateWriter};

/// The keyboard controller's command port, without a keyboard behind it: only its reset line works.
/// It has no state.
pub struct KeyboardController;

impl KeyboardController {
    /// The command and status port.
    pub const PORT: u16 = 0x64;
    /// Pulses the reset line.
    const PULSE_RESET: u8 = 0xfe;
}

impl Device for KeyboardController {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        // Both buffers empty: software waits for that before it writes a command.
        data.fill(0);
    }

    fn write(&self, _offset: u64, data: &[u8]) -> Action {
        match data {
            [Self::PULSE_RESET] => Action::Reset,
            _ => Action::None,
        }
    }
}

/// The reset control register (Intel chipsets, port 0xcf9): bit 2 going from 0 to 1 resets.
#[derive(Default)]
pub struct ResetControl(AtomicU8);

impl ResetControl {
    /// The port. The PCI configuration address is four bytes from 0xcf8, so only one-byte accesses
    /// count.
    pub const PORT: u16 = 0xcf9;
    /// What resets when it is written: a hard reset (bit 1), now.
    pub const RESET_VALUE: u8 = 1 << 1 | Self::RESET;
    const VERSION: u32 = 1;
    const RESET: u8 = 1 << 2;
    const KEPT: u8 = 0x0e;
}

impl Device for ResetControl {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        match data {
            [byte] => *byte = self.0.load(Ordering::Relaxed),
            wider => wider.fill(0xff),
        }
    }

    fn write(&self, _offset: u64, data: &[u8]) -> Action {
        let &[value] = data else {
            return Action::None;
        };
        let before = self.0.swap(value & Self::KEPT, Ordering::Relaxed);
        if value & !before & Self::RESET != 0 { Action::Reset } else { Action::None }
    }
}

impl SavedDevice for ResetControl {
    fn name(&self) -> &'static str {
        "reset-control"
    }

    fn version(&self) -> u32 {
        Self::VERSION
    }

    /// Layout, version 1: the register, one byte.
    fn save(&self) -> Vec<u8> {
        let mut writer = StateWriter::default();
        writer.u8(self.0.load(Ordering::Relaxed));
        writer.finish()
    }

    fn layout(&self) -> Vec<Field> {
        vec![Field("register", Type::U8)]
    }

    fn load(&self, version: u32, bytes: &[u8]) -> Result<(), StateError> {
        let mut reader = StateReader::new(self.name(), version, Self::VERSION, bytes)?;
        let value = reader.u8("register")?;
        if value & !Self::KEPT != 0 {
            return Err(reader.impossible("register", value.into()));
        }
        reader.finish()?;
        self.0.store(value, Ordering::Relaxed);
        Ok(())
    }

    fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::state::testing::assert_layout;

    #[test]
    fn the_keyboard_controller_resets_on_its_command_only() {
        assert_eq!(KeyboardController.write(0, &[0xfe]), Action::Reset);
        assert_eq!(KeyboardController.write(0, &[0xd1]), Action::None);
        assert_eq!(KeyboardController.write(0, &[0xfe, 0]), Action::None);
    }

    #[test]
    fn reset_control_needs_a_rising_edge_in_one_byte() {
        let register = ResetControl::default();
        assert_eq!(register.write(0, &[0x02]), Action::None);
        assert_eq!(register.write(0, &[0x06]), Action::Reset);
        assert_eq!(register.write(0, &[0x06]), Action::None);
        register.reset();
        assert_eq!(register.write(0, &[0x06, 0, 0, 0]), Action::None);
    }

    #[test]
    fn its_layout_is_what_is_read() {
        let register = ResetControl::default();
        assert_layout(&register.layout(), &register.save(), || register.load(1, &[2]).unwrap());
    }

    #[test]
    fn reset_control_comes_back() {
        let register = ResetControl::default();
        register.write(0, &[0x02]);
        let other = ResetControl::default();
        other.load(1, &register.save()).unwrap();
        let mut byte = [0];
        other.read(0, &mut byte);
        assert_eq!(byte, [2]);
        assert!(other.load(2, &[0]).is_err());
        assert!(other.load(1, &[0x80]).is_err());
        assert!(other.load(1, &[]).is_err());
    }
}
