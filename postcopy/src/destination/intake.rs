//! Taking pages off a channel and into guest RAM; shared by the incoming thread and those of the
//! multifd channels.

use std::sync::{Arc, OnceLock};

use super::connection::READ_BUFFER;
use super::page_source::{InMemory, PageSource, lost};
use super::place::{PIECE, Place, make_zero};
use super::staging::by_chunk;
use super::state::Compressed;
use super::tracker::Tracker;
use crate::channel::MessageReader;
use crate::encoding::{Decompressor, EncodingError, XbzrleDecoder};
use crate::error::MigrationError;
use crate::guest::GuestRam;
use crate::memory::HUGE_PAGES;
use crate::progress::{Phase, Progress};
use crate::ram::{PAGE_SIZE, PageRun};
use crate::wire::MAX_COMPRESSED_PAGES;

/// Read buffer of a multifd channel, in bytes: a piece that is placed in one go has room.
pub(super) const MULTIFD_BUFFER: usize = 256 * 1024 + 4096;

/// Where pages go.
pub(super) struct Intake {
    guest: Arc<dyn GuestRam>,
    tracker: Arc<Tracker>,
    progress: Arc<Progress>,
    /// There if the host can watch RAM.
    place: OnceLock<Arc<Place>>,
}

impl Intake {
    /// Whose pages they are.
    pub fn guest(&self) -> &dyn GuestRam {
        &*self.guest
    }

    /// For a host that cannot watch RAM, unless [`Self::place_by`] is called before the first page.
    pub fn new(guest: Arc<dyn GuestRam>, tracker: Arc<Tracker>, progress: Arc<Progress>) -> Self {
        Self { guest, tracker, progress, place: OnceLock::new() }
    }

    /// The host can watch RAM.
    pub fn place_by(&self, place: Arc<Place>) {
        let _ = self.place.set(place);
    }

    /// Whether the run names pages of this guest.
    pub fn known(&self, run: PageRun) -> Result<PageRun, MigrationError> {
        if self.tracker.holds(run) { Ok(run) } else { Err(MigrationError::NoSuchPages(run.to_string())) }
    }

    /// Precopied contents. Nothing watches RAM yet and nothing runs: a plain write.
    pub fn write(&self, reader: &mut MessageReader, run: PageRun) -> Result<(), MigrationError> {
        self.write_contents(reader, run, run.bytes())
    }

    /// The same, compressed.
    pub fn write_compressed(
        &self,
        reader: &mut MessageReader,
        decompressor: &mut Decompressor,
        packed: Compressed,
    ) -> Result<(), MigrationError> {
        let length = packed.length as usize;
        self.write_contents(&mut unpack(reader, decompressor, packed)?, packed.run, length)
    }

    /// `length`: how many bytes came for them.
    fn write_contents(
        &self,
        contents: &mut impl PageSource,
        run: PageRun,
        length: usize,
    ) -> Result<(), MigrationError> {
        let ram = self.guest.ram();
        match self.place.get() {
            Some(place) => {
                for part in by_chunk(run) {
                    contents.write_into(place.target(ram, part), part)?;
                    place.written(part);
                }
            }
            None => {
                contents.write_into(&ram[usize::from(run.block.0)], run)?;
                self.tracker.placed(run);
            }
        }
        self.progress.moved(Phase::Precopy, length as u64, u64::from(run.count), 0);
        self.progress.sample();
        Ok(())
    }

    /// What has changed of pages that came before.
    pub fn change(&self, reader: &mut MessageReader, run: PageRun, length: u32) -> Result<(), MigrationError> {
        let raise = |source| MigrationError::Encoding { run, source };
        if run.pages().any(|page| !self.tracker.has(run.block, page)) {
            return Err(raise(EncodingError::Missing));
        }
        let mut rest = reader.contents(length as usize).map_err(lost)?;
        for page in run.pages() {
            let (head, behind) = rest.split_first_chunk::<2>().ok_or(raise(EncodingError::Short))?;
            let count = u16::from_le_bytes(*head).into();
            let (changes, behind) = behind.split_at_checked(count).ok_or(raise(EncodingError::Short))?;
            self.change_page(PageRun::single(run.block, page), changes).map_err(raise)?;
            rest = behind;
        }
        if !rest.is_empty() {
            return Err(raise(EncodingError::Rest(rest.len())));
        }
        self.progress.moved(Phase::Precopy, length.into(), u64::from(run.count), 0);
        self.progress.sample();
        Ok(())
    }

    /// In place: it is where it came to, and stays what it is.
    fn change_page(&self, page: PageRun, changes: &[u8]) -> Result<(), EncodingError> {
        let ram = self.guest.ram();
        let block = match self.place.get() {
            Some(place) => place.target(ram, page),
            None => &ram[usize::from(page.block.0)],
        };
        let mut changes = XbzrleDecoder::of(changes);
        while let Some((at, bytes)) = changes.take()? {
            block.write(page.start, at, bytes);
        }
        Ok(())
    }

    /// Precopied zeros. Whole huge pages are given back to the host, for they may have been
    /// populated; less than that is made zero where an earlier pass wrote something else.
    pub fn write_zeros(&self, run: PageRun) -> Result<(), MigrationError> {
        let ram = self.guest.ram();
        for part in by_chunk(run) {
            let block = match self.place.get() {
                Some(place) => place.target(ram, part),
                None => &ram[usize::from(part.block.0)],
            };
            if part.count == HUGE_PAGES {
                block.discard(part)?;
            } else {
                make_zero(block, part);
            }
            match self.place.get() {
                Some(place) => place.written(part),
                None => drop(self.tracker.placed(part)),
            }
        }
        self.progress.moved(Phase::Precopy, 16, 0, u64::from(run.count));
        Ok(())
    }

    /// Background contents of a postcopy.
    pub fn place(&self, reader: &mut MessageReader, run: PageRun) -> Result<(), MigrationError> {
        self.place_contents(reader, run, PAGE_SIZE)
    }

    /// The same, compressed.
    pub fn place_compressed(
        &self,
        reader: &mut MessageReader,
        decompressor: &mut Decompressor,
        packed: Compressed,
    ) -> Result<(), MigrationError> {
        let page = packed.length.div_ceil(packed.run.count) as usize;
        self.place_contents(&mut unpack(reader, decompressor, packed)?, packed.run, page)
    }

    /// `page`: how many bytes came for each of them, about.
    fn place_contents(&self, contents: &mut impl PageSource, run: PageRun, page: usize) -> Result<(), MigrationError> {
        let (ram, place) = (self.guest.ram(), self.placing()?);
        place.receive(ram, contents, run, |part| {
            self.progress.moved(Phase::Postcopy, u64::from(part.count) * page as u64, u64::from(part.count), 0);
        })?;
        place.settle(ram)?;
        self.progress.sample();
        Ok(())
    }

    /// Background zeros of a postcopy.
    pub fn place_zeros(&self, run: PageRun) -> Result<(), MigrationError> {
        self.placing()?.receive_zeros(self.guest.ram(), run)?;
        self.progress.moved(Phase::Postcopy, 16, 0, u64::from(run.count));
        Ok(())
    }

    /// What a postcopy cannot do without: a source that asks for it was told whether it is there.
    fn placing(&self) -> Result<&Place, MigrationError> {
        self.place.get().map(Arc::as_ref).ok_or(MigrationError::NoPostcopy)
    }
}

/// Takes a compressed run off the channel and unpacks it: no more than its pages hold.
fn unpack<'a>(
    reader: &mut MessageReader,
    decompressor: &'a mut Decompressor,
    packed: Compressed,
) -> Result<InMemory<'a>, MigrationError> {
    let Compressed { run, codec, length } = packed;
    let bytes = reader.contents(length as usize).map_err(lost)?;
    let raw = decompressor.unpack(codec, bytes, run.bytes());
    raw.map(InMemory).map_err(|source| MigrationError::Encoding { run, source })
}

const _: () = assert!(PIECE as usize * PAGE_SIZE <= MULTIFD_BUFFER);
const _: () = assert!(MAX_COMPRESSED_PAGES as usize * PAGE_SIZE <= MULTIFD_BUFFER);
const _: () = assert!(MAX_COMPRESSED_PAGES as usize * (2 + PAGE_SIZE) <= READ_BUFFER);
