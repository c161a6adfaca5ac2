//! Taking pages off a channel and into guest RAM; shared by the incoming thread and those of the multifd channels.

use std::sync::{Arc, OnceLock};

use super::place::{PIECE, Place, make_zero};
use super::staging::by_chunk;
use super::tracker::Tracker;
use crate::channel::{ChannelError, MessageReader};
use crate::error::MigrationError;
use crate::guest::Guest;
use crate::memory::HUGE_PAGES;
use crate::progress::{Phase, Progress};
use crate::ram::{PAGE_SIZE, PageRun};

/// Read buffer of a multifd channel, in bytes: a piece that is placed in one go has room.
pub(super) const MULTIFD_BUFFER: usize = 256 * 1024 + 4096;

/// Where pages go.
pub(super) struct Intake {
    guest: Arc<dyn Guest>,
    tracker: Arc<Tracker>,
    progress: Arc<Progress>,
    /// There if the host can watch RAM.
    place: OnceLock<Arc<Place>>,
}

impl Intake {
    /// Whose pages they are.
    pub fn guest(&self) -> &dyn Guest {
        &*self.guest
    }

    /// For a host that cannot watch RAM, unless [`Self::place_by`] is called before the first page.
    pub fn new(guest: Arc<dyn Guest>, tracker: Arc<Tracker>, progress: Arc<Progress>) -> Self {
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
        let ram = self.guest.ram();
        match self.place.get() {
            Some(place) => {
                for part in by_chunk(run) {
                    reader.contents_into(place.target(ram, part), part).map_err(lost)?;
                    place.written(part);
                }
            }
            None => {
                reader.contents_into(&ram[usize::from(run.block.0)], run).map_err(lost)?;
                self.tracker.placed(run);
            }
        }
        self.progress.moved(Phase::Precopy, run.bytes() as u64, u64::from(run.count), 0);
        self.progress.sample();
        Ok(())
    }

    /// Precopied zeros. Whole huge pages are given back to the host, for they may have been populated; less than that is made zero where an earlier
    /// pass wrote something else.
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
        let (ram, place) = (self.guest.ram(), self.placing()?);
        place.receive(ram, reader, run, |part| {
            self.progress.moved(Phase::Postcopy, part.bytes() as u64, u64::from(part.count), 0);
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

fn lost(source: ChannelError) -> MigrationError {
    MigrationError::Link { peer: "source", source }
}

const _: () = assert!(PIECE as usize * PAGE_SIZE <= MULTIFD_BUFFER);
