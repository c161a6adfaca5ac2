//! What this program prints: a line on standard error that is never an error itself, and
//! [`Answer`], all that a command prints on standard output.
//!
//! `println!` and its like panic where the output is full or closed. Whoever moved a guest would
//! then be told that the program had crashed, so none of them is used (`src/lib.rs` has the lints).

use std::io::{self, ErrorKind, Write};

/// A line on standard error, if that takes one: a full disk under it must not end anything.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Standard output took only a part of what was printed.
#[derive(Debug, thiserror::Error)]
#[error("standard output did not take all of the answer")]
pub struct OutputError(#[from] io::Error);

/// An answer on standard output. Writing to it never fails, so that the work behind it goes on to
/// its own end; what went wrong is told by [`Answer::finish`].
#[derive(Debug)]
pub struct Answer<W: Write> {
    out: W,
    error: Option<io::Error>,
}

impl Answer<io::Stdout> {
    /// On standard output.
    pub fn begin() -> Self {
        Self::to(io::stdout())
    }
}

impl<W: Write> Answer<W> {
    /// Somewhere else.
    pub const fn to(out: W) -> Self {
        Self { out, error: None }
    }

    /// Prints a line, or several.
    pub fn line(&mut self, text: &str) {
        self.put(text.as_bytes());
        self.put(b"\n");
    }

    fn put(&mut self, bytes: &[u8]) {
        if self.error.is_none() {
            self.error = self.out.write_all(bytes).err();
        }
    }

    /// Whether all of it was taken. A reader that went away has seen what it wanted.
    pub fn finish(mut self) -> Result<(), OutputError> {
        match self.error.map_or_else(|| self.out.flush(), Err) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(OutputError(error)),
            _ => Ok(()),
        }
    }
}

impl<W: Write> Write for Answer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.error.is_none() {
            self.error = self.out.flush().err();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn a_full_disk_is_told_at_the_end_and_a_reader_that_left_is_no_error() {
        let mut answer = Answer::to(OpenOptions::new().write(true).open("/dev/full").unwrap());
        answer.line("lost");
        answer.write_all(b"this too").unwrap();
        let error = answer.finish().unwrap_err();
        assert_eq!(error.0.kind(), ErrorKind::StorageFull);

        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut answer = Answer::to(writer);
        answer.line("nobody reads this");
        answer.flush().unwrap();
        answer.finish().unwrap();
    }
}
