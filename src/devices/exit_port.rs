//! The exit port: a byte written here ends the process with it as exit code. For tests; QEMU's
//! `isa-debug-exit` is its like.

use super::{Action, Device};

/// See the module's text. It has no state.
pub struct ExitPort;

impl ExitPort {
    /// Where it is.
    pub const PORT: u16 = 0xf4;
}

impl Device for ExitPort {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&self, _offset: u64, data: &[u8]) -> Action {
        data.first().map_or(Action::None, |code| Action::Exit(*code))
    }
}
