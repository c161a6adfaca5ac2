//! [`Terminal`]: what a person sits at. A process runs on one side of it, the test reads its screen
//! on the other.
// Without `whimbrel top` nothing draws on all of it.
#![cfg_attr(not(feature = "top"), allow(dead_code))]

use std::fs::File;
use std::io::Write;
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;

use super::LIMIT;
use super::transcript::Transcript;

const ROWS: NonZero<u16> = NonZero::new(30).unwrap();
const COLUMNS: NonZero<u16> = NonZero::new(100).unwrap();

/// A terminal.
pub struct Terminal {
    keyboard: File,
    /// Held open, so that its settings can be looked at after a process has ended.
    line: OwnedFd,
    output: Transcript,
}

impl Terminal {
    /// One on which nothing runs yet.
    pub fn new() -> Self {
        let size = Winsize { ws_row: ROWS.get(), ws_col: COLUMNS.get(), ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let keyboard = File::from(pty.master);
        let output = Transcript::of(keyboard.try_clone().unwrap());
        Self { keyboard, line: pty.slave, output }
    }

    /// For a process's standard input and output.
    pub fn line(&self) -> OwnedFd {
        self.line.try_clone().unwrap()
    }

    /// Runs Whimbrel with these arguments.
    pub fn run(&self, arguments: &[&str]) -> Running {
        // In a session of its own: the terminal that the tests were started from is none of its
        // business.
        let child = Command::new("setsid")
            .arg(env!("CARGO_BIN_EXE_whimbrel"))
            .args(arguments)
            .stdin(self.line())
            .stdout(self.line())
            .stderr(self.line())
            .spawn()
            .unwrap();
        Running(child)
    }

    /// Presses keys.
    pub fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen shows `text`; the whole screen then.
    pub fn await_text(&self, text: &str) -> String {
        let shows =
            self.output.wait_for(LIMIT, |said| Some(screen(&said.bytes)).filter(|screen| screen.contains(text)));
        shows.unwrap_or_else(|| panic!("'{text}' is never shown:\n{}", screen(self.output.text().as_bytes())))
    }

    /// All that was ever sent to it.
    pub fn output(&self) -> String {
        self.output.text()
    }

    /// Echo, line editing and the like.
    pub fn settings(&self) -> Termios {
        tcgetattr(self.line.as_fd()).unwrap()
    }

    /// Whether a program has taken the screen for itself, or the cursor away.
    pub fn is_taken(&self) -> bool {
        is_taken(&parsed(self.output.text().as_bytes()))
    }

    /// Waits until no program has; false if one keeps it.
    pub fn is_given_back(&self) -> bool {
        self.output.wait_for(LIMIT, |said| (!is_taken(&parsed(&said.bytes))).then_some(())).is_some()
    }
}

fn parsed(bytes: &[u8]) -> vt100::Parser {
    let mut parser = vt100::Parser::new(ROWS, COLUMNS, 0);
    parser.process(bytes);
    parser
}

fn screen(bytes: &[u8]) -> String {
    parsed(bytes).screen().contents()
}

fn is_taken(parser: &vt100::Parser) -> bool {
    parser.screen().alternate_screen() || parser.screen().hide_cursor()
}

/// A process on a terminal. It is killed when this goes.
pub struct Running(Child);

impl Running {
    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended, which is as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
