//! The power button, as ACPI gives it to the guest.

use std::fs::{self, File};
use std::io::{Error, Read, Result};
use std::path::PathBuf;
use std::process::Command;

use crate::say;

/// Size of the kernel's `struct input_event` on x86-64: two words of time, type, code, value.
const EVENT: usize = 24;
/// Type and code of a key that is the power button (include/uapi/linux/input-event-codes.h).
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

/// Waits for the button, then runs the shell command.
pub fn run(command: &str) -> Result<()> {
    let Some(device) = find()? else { return Err(Error::other("there is no power button")) };
    let mut device = File::open(device)?;
    // Pressed before this, the button would be heard by the kernel only.
    say("button waits");
    let mut event = [0; EVENT];
    loop {
        device.read_exact(&mut event)?;
        if pressed(&event) {
            say("button pressed");
            Command::new("/bin/sh").args(["-c", command]).status()?;
        }
    }
}

fn pressed(event: &[u8; EVENT]) -> bool {
    let number = |at: usize| u16::from_le_bytes([event[at], event[at + 1]]);
    number(16) == EV_KEY && number(18) == KEY_POWER && number(20) == 1
}

/// The input device that is the button.
fn find() -> Result<Option<PathBuf>> {
    for entry in fs::read_dir("/sys/class/input")? {
        let name = entry?.file_name();
        let title = fs::read_to_string(PathBuf::from("/sys/class/input").join(&name).join("device/name"));
        if name.to_string_lossy().starts_with("event") && title.is_ok_and(|title| title.contains("Power Button")) {
            return Ok(Some(PathBuf::from("/dev/input").join(name)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pressing_the_power_key_counts() {
        let mut event = [0; EVENT];
        event[16] = 1;
        event[18] = 116;
        assert!(!pressed(&event), "released");
        event[20] = 1;
        assert!(pressed(&event));
        event[18] = 30;
        assert!(!pressed(&event), "another key");
    }
}
