//! [`Writer`]: a stream on its way into a [`Sink`], and the table behind it where that is a file.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::sys::stat::{SFlag, fstat};

use super::chunk::Chunk;
use super::page_table::PageTable;
use super::record::write_all;
use super::sink::Sink;
use crate::channel::{ChannelError, Wake};
use crate::error::MigrationError;
use crate::wire::{ChannelKind, Features, Forward, Hello, Token, VERSION_MAX, tag};

/// Counts what it writes.
pub(super) struct Writer<'a> {
    sink: Box<dyn Sink>,
    wake: &'a Wake,
    cancelled: &'a dyn Fn() -> bool,
    contents: PageTable,
    offset: u64,
    pages: u64,
    /// In bytes per second; 0: none.
    limit: u64,
    begun: Instant,
}

/// The stream could not be written.
fn unwritten(error: std::io::Error) -> MigrationError {
    MigrationError::Unwritten(error)
}

impl<'a> Writer<'a> {
    /// Writes the hello. `wake` rings when `cancelled` turns true, which ends every wait.
    pub fn begin(sink: Box<dyn Sink>, wake: &'a Wake, cancelled: &'a dyn Fn() -> bool) -> Result<Self, MigrationError> {
        let mut this = Self {
            sink,
            wake,
            cancelled,
            contents: PageTable::default(),
            offset: 0,
            pages: 0,
            limit: 0,
            begun: Instant::now(),
        };
        let hello = Hello {
            versions: (VERSION_MAX, VERSION_MAX),
            kind: ChannelKind::Control,
            recover: false,
            // Of one migration's channels, of which there is one here.
            token: Token([0; 16]),
            features: Features::default(),
        };
        this.write(&hello.encode())?;
        Ok(this)
    }

    /// Writes no more than so many bytes a second from here on; 0: as fast as it goes.
    pub fn limit(&mut self, bandwidth: u64) {
        (self.limit, self.begun) = (bandwidth, Instant::now());
    }

    /// A message without pages.
    pub fn say(&mut self, message: &Forward) -> Result<(), MigrationError> {
        if message.tag() == tag::STATE {
            self.contents.state = self.offset;
        }
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.write(&bytes)
    }

    /// Pages.
    pub fn add(&mut self, chunk: &Chunk) -> Result<(), MigrationError> {
        self.contents.add(chunk.places(), self.offset);
        self.pages += chunk.places().iter().map(|place| u64::from(place.run.count)).sum::<u64>();
        self.write(chunk.bytes())
    }

    /// So many pages were added.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The last message was said: returns when all of it is safe.
    pub fn commit(mut self) -> Result<(), MigrationError> {
        // Behind a pipe whoever reads may have gone after the last message.
        let kind = fstat(self.sink.fd()).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
        if kind == Ok(SFlag::S_IFREG) {
            self.contents.label = self.sink.label().to_owned();
            let table = self.contents.encode(self.offset);
            self.write(&table)?;
        }
        self.sink.commit().map_err(MigrationError::Unsafe)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), MigrationError> {
        // What is written without a wait is not interrupted by the wake.
        let cancelled = || MigrationError::Link { peer: "stream", source: ChannelError::Interrupted };
        if (self.cancelled)() {
            return Err(cancelled());
        }
        write_all(self.sink.fd(), bytes, (self.wake.as_fd(), PollFlags::POLLIN)).map_err(|error| {
            match error.kind() {
                std::io::ErrorKind::ConnectionAborted => cancelled(),
                _ => unwritten(self.sink.unwritten(error)),
            }
        })?;
        self.offset += bytes.len() as u64;
        self.keep_pace();
        Ok(())
    }

    /// Waits until as much time has passed as what was written takes at least.
    fn keep_pace(&self) {
        if self.limit == 0 {
            return;
        }
        let due = Duration::from_secs_f64(self.offset as f64 / self.limit as f64);
        let early = due.saturating_sub(self.begun.elapsed());
        if !early.is_zero() {
            self.wake.wait_for(early);
        }
    }
}
