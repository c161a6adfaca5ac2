//! This process's terminal, raw while the guest has it.

use std::io;

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

/// Gives the terminal on standard input its settings back when dropped.
pub(super) struct RawTerminal(Termios);

impl RawTerminal {
    /// Single keys, no echo. Ctrl-C stays a signal, so that the program can be ended. `None` if
    /// standard input is no terminal.
    pub fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        let Ok(before) = tcgetattr(&stdin) else {
            return Ok(None);
        };
        let mut raw = before.clone();
        raw.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::IEXTEN);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
    }
}
