//! The virtio console: numbered lines go out, lines that come in go back.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Result, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Between two lines.
const PAUSE: Duration = Duration::from_millis(50);

/// Talks for ever: `console N` in its own time, and `heard LINE` for each line that arrives. The
/// terminal must not echo.
pub fn run(path: &Path) -> Result<()> {
    let mut out = OpenOptions::new().write(true).open(path)?;
    let (input, answers) = (File::open(path)?, out.try_clone()?);
    let answering = thread::spawn(move || answer(BufReader::new(input), answers));
    for number in 1_u64.. {
        out.write_all(format!("console {number}\n").as_bytes())?;
        if answering.is_finished() {
            break;
        }
        thread::sleep(PAUSE);
    }
    answering.join().unwrap_or(Ok(()))
}

/// Says each line back.
fn answer(input: impl BufRead, mut out: impl Write) -> Result<()> {
    for line in input.lines() {
        out.write_all(format!("heard {}\n", line?).as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_comes_back_once() {
        let mut out = Vec::new();
        answer(&b"one\ntwo\n"[..], &mut out).unwrap();
        assert_eq!(out, b"heard one\nheard two\n");
    }
}
