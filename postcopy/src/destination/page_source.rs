//! Where pages' contents come from: a channel, or what was unpacked.

use crate::channel::{ChannelError, MessageReader};
use crate::error::MigrationError;
use crate::memory::RamBlock;
use crate::ram::PageRun;

/// The contents of one run, taken from their begin to their end.
pub(super) trait PageSource {
    /// The next bytes, as many as the run has, go into the block.
    fn write_into(&mut self, block: &RamBlock, run: PageRun) -> Result<(), MigrationError>;

    /// The next `count` bytes are not needed.
    fn pass(&mut self, count: usize) -> Result<(), MigrationError>;

    /// The next `count` bytes, where they stand: at most [`super::place::PIECE`] pages.
    fn take(&mut self, count: usize) -> Result<&[u8], MigrationError>;
}

impl PageSource for MessageReader {
    fn write_into(&mut self, block: &RamBlock, run: PageRun) -> Result<(), MigrationError> {
        self.contents_into(block, run).map_err(lost)
    }

    fn pass(&mut self, count: usize) -> Result<(), MigrationError> {
        self.skip(count).map_err(lost)
    }

    fn take(&mut self, count: usize) -> Result<&[u8], MigrationError> {
        self.contents(count).map_err(lost)
    }
}

/// Contents that are in memory.
pub(super) struct InMemory<'a>(pub &'a [u8]);

impl PageSource for InMemory<'_> {
    fn write_into(&mut self, block: &RamBlock, run: PageRun) -> Result<(), MigrationError> {
        let bytes = self.take(run.bytes())?;
        block.write(run.start, 0, bytes);
        Ok(())
    }

    fn pass(&mut self, count: usize) -> Result<(), MigrationError> {
        self.take(count).map(drop)
    }

    fn take(&mut self, count: usize) -> Result<&[u8], MigrationError> {
        let ended = || lost(ChannelError::Closed(Some("packed")));
        let (bytes, rest) = self.0.split_at_checked(count).ok_or_else(ended)?;
        self.0 = rest;
        Ok(bytes)
    }
}

pub(super) fn lost(source: ChannelError) -> MigrationError {
    MigrationError::Link { peer: "source", source }
}
