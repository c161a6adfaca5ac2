//! [`Input`]: the file, read once from its begin to its end; and [`Body`], one message of it.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, stdin};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::decode::{Source, Stop};
use crate::block::lock::{Access, Locked, lock};

/// What is read at once, in bytes.
const PIECE: usize = 256 << 10;
/// A reading that takes no longer shows no progress.
const QUICK: Duration = Duration::from_secs(1);

enum From {
    /// Its length is known, so that contents need not be read to see whether they are there.
    File(BufReader<File>),
    /// A pipe, a terminal, a device.
    Pipe(Box<dyn Read>),
}

/// See the module's text.
pub struct Input {
    from: From,
    at: u64,
    /// A file's length.
    length: Option<u64>,
    progress: Progress,
}

impl Input {
    /// Of a file, or of standard input for `-`, from `offset` on.
    pub fn open(path: &Path, offset: u64) -> io::Result<Self> {
        let mut input = match path.as_os_str() == "-" {
            true => Self::new(From::Pipe(Box::new(BufReader::with_capacity(PIECE, stdin()))), None),
            false => {
                let file = File::open(path)?;
                let data = file.metadata()?;
                if data.is_dir() {
                    return Err(io::ErrorKind::IsADirectory.into());
                }
                if data.is_file()
                    && let Err(used @ (Locked::Written | Locked::Guarded)) = lock(&file, Access::Read)
                {
                    return Err(io::Error::other(used));
                }
                match data.is_file() {
                    true => Self::new(From::File(BufReader::with_capacity(PIECE, file)), Some(data.len())),
                    false => Self::new(From::Pipe(Box::new(BufReader::with_capacity(PIECE, file))), None),
                }
            }
        };
        input.begin(offset)?;
        Ok(input)
    }

    /// Of bytes that are no file.
    #[cfg(test)]
    pub fn of(bytes: Vec<u8>, offset: u64) -> io::Result<Self> {
        let mut input = Self::new(From::Pipe(Box::new(io::Cursor::new(bytes))), None);
        input.begin(offset)?;
        Ok(input)
    }

    fn new(from: From, length: Option<u64>) -> Self {
        Self { from, at: 0, length, progress: Progress { begun: Instant::now(), bar: None } }
    }

    fn begin(&mut self, offset: u64) -> io::Result<()> {
        match &mut self.from {
            From::File(file) => self.at = file.seek(SeekFrom::Start(offset))?,
            From::Pipe(_) => self.at = self.pass(offset)?,
        }
        Ok(())
    }

    /// Where the next byte stands.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// How many bytes stand behind, where that is known.
    pub fn behind(&self) -> Option<u64> {
        self.length.map(|length| length.saturating_sub(self.at))
    }

    /// Fills the buffer; how far: less at the end of the file only.
    pub fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut have = 0;
        while have < bytes.len() {
            let count = match &mut self.from {
                From::File(file) => file.read(&mut bytes[have..]),
                From::Pipe(pipe) => pipe.read(&mut bytes[have..]),
            };
            match count {
                Ok(0) => break,
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.at += have as u64;
        self.progress.show(self.at, self.length);
        Ok(have)
    }

    /// Passes over bytes; how many there were: fewer at the end of the file only.
    pub fn skip(&mut self, count: u64) -> io::Result<u64> {
        let passed = match (&mut self.from, self.length) {
            (From::File(file), Some(length)) => {
                let passed = count.min(length.saturating_sub(self.at));
                // No message is so long that this does not fit.
                file.seek_relative(passed as i64)?;
                passed
            }
            _ => self.pass(count)?,
        };
        self.at += passed;
        self.progress.show(self.at, self.length);
        Ok(passed)
    }

    fn pass(&mut self, count: u64) -> io::Result<u64> {
        match &mut self.from {
            From::File(file) => io::copy(&mut file.take(count), &mut io::sink()),
            From::Pipe(pipe) => io::copy(&mut pipe.take(count), &mut io::sink()),
        }
    }
}

/// A bar on a terminal, for what takes long.
struct Progress {
    begun: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    fn show(&mut self, at: u64, length: Option<u64>) {
        match &self.bar {
            Some(bar) => bar.set_position(at),
            None if self.begun.elapsed() > QUICK => {
                let bar = length.map_or_else(ProgressBar::no_length, ProgressBar::new);
                // A template that does not parse would only cost the looks.
                if let Ok(style) = ProgressStyle::with_template("{wide_bar} {binary_bytes} of {binary_total_bytes}") {
                    bar.set_style(style);
                }
                self.bar = Some(bar);
            }
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The rest of one message's body.
pub struct Body<'a> {
    input: &'a mut Input,
    left: u64,
}

impl<'a> Body<'a> {
    /// The next `left` bytes.
    pub fn new(input: &'a mut Input, left: u64) -> Self {
        Self { input, left }
    }

    fn passed(&mut self, wanted: u64, had: u64) -> Result<(), Stop> {
        self.left -= had;
        match had == wanted {
            true => Ok(()),
            false => Err(Stop::Damage {
                at: self.input.at(),
                why: format!("the file ends {} bytes before it does", self.left),
            }),
        }
    }
}

impl Source for Body<'_> {
    fn left(&self) -> u64 {
        self.left
    }

    fn at(&self) -> u64 {
        self.input.at()
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), Stop> {
        let had = self.input.read(bytes)?;
        self.passed(bytes.len() as u64, had as u64)
    }

    fn skip(&mut self, count: u64) -> Result<(), Stop> {
        let had = self.input.skip(count)?;
        self.passed(count, had)
    }
}
