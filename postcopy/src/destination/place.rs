//! Putting pages in place once the guest may touch them.

use std::io;
use std::sync::Arc;

use super::latency::Latency;
use super::page_source::PageSource;
use super::staging::{Alone, InHand, Staging, by_chunk};
use super::tracker::Tracker;
use crate::error::MigrationError;
use crate::host::Instant;
use crate::logging as log;
use crate::memory::{HUGE_PAGES, RamBlock};
use crate::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};
use crate::uffd::{Uffd, UffdError};

/// Copied at most so many pages at a time: between two pieces a demanded page gets its turn at the
/// memory map's lock.
pub(super) const PIECE: u32 = 64;

/// What came of placing a demanded page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// Others are missing.
    Some,
    /// A receiver has something to do: [`Place::settle`].
    Due,
    /// Nothing is missing any more.
    Last,
}

/// Everything a page needs on its way into guest RAM; shared by the threads that place pages.
pub(super) struct Place {
    pub uffd: Uffd,
    pub tracker: Arc<Tracker>,
    pub latency: Latency,
    /// One for each RAM block whose memory can be moved in huge pages.
    staging: Vec<Option<Staging>>,
}

impl Place {
    /// For a guest with this RAM.
    pub fn new(uffd: Uffd, tracker: Arc<Tracker>, latency: Latency, ram: &[RamBlock]) -> io::Result<Self> {
        let staging = ram.iter().enumerate().map(|(number, block)| match uffd.moves() {
            true => Staging::new(BlockId(number as u16), block),
            false => Ok(None),
        });
        Ok(Self { staging: staging.collect::<io::Result<_>>()?, uffd, tracker, latency })
    }

    /// What may be populated before a guest comes, because it can be taken out of RAM again: whole
    /// chunks, by block.
    pub fn chunks(&self) -> impl Iterator<Item = PageRun> + '_ {
        let run = |block, chunk| PageRun { block, start: PageIndex(chunk * u64::from(HUGE_PAGES)), count: HUGE_PAGES };
        (0..).zip(&self.staging).flat_map(move |(block, staging)| {
            let chunks = staging.as_ref().map_or(0, Staging::chunks);
            (0..chunks).map(move |chunk| run(BlockId(block), chunk))
        })
    }

    fn staging(&self, block: BlockId) -> Option<&Staging> {
        self.staging.get(usize::from(block.0))?.as_ref()
    }

    /// The block's staging, if the page's chunk is not in RAM.
    fn away(&self, block: BlockId, page: PageIndex) -> Option<&Staging> {
        self.staging(block).filter(|staging| staging.is_away(page))
    }

    // Before the guest runs, and before RAM is watched. Incoming thread only.

    /// The run is stale and missing again: RAM holds nothing of it afterwards. `run` had been
    /// received.
    pub fn drop_stale(&self, ram: &[RamBlock], run: PageRun) -> io::Result<()> {
        let block = &ram[usize::from(run.block.0)];
        let Some(staging) = self.staging(run.block) else { return block.discard(run) };
        let chunk = u64::from(HUGE_PAGES);
        let (first, end) = (run.start.0 / chunk, run.end().0.div_ceil(chunk).min(staging.chunks()));
        if let Some(received) = self.tracker.received().block(run.block)
            && first < end
            && let Err(error) = staging.take(block, received, first, end - first)
        {
            log::debug!("{run} stays in RAM: {error}");
        }
        staging.forget(run);
        by_chunk(run).filter(|part| !staging.is_away(part.start)).try_for_each(|part| block.discard(part))
    }

    /// RAM is about to be watched: whatever is missing must not be there. Host memory comes in huge
    /// pages, so that a page may be there that never came.
    pub fn drop_missing(&self, ram: &[RamBlock]) -> io::Result<()> {
        for ((id, received), block) in self.tracker.received().blocks().zip(ram) {
            let mut from = PageIndex(0);
            while let Some(run) = received.next_clear_run(id, from, PageIndex(block.pages())) {
                // Of a chunk that was taken out already nothing is there.
                if self.away(id, run.start).is_some() {
                    let chunk = u64::from(HUGE_PAGES);
                    from = PageIndex((run.start.0 / chunk + 1) * chunk);
                    continue;
                }
                self.drop_stale(ram, run)?;
                from = run.end();
            }
        }
        Ok(())
    }

    /// The guest will run without its RAM being watched: all of it is there.
    pub fn give_back(&self, ram: &[RamBlock]) -> io::Result<()> {
        self.staging
            .iter()
            .zip(ram)
            .try_for_each(|(staging, block)| staging.as_ref().map_or(Ok(()), |it| it.give_back(block)))
    }

    /// Where precopied contents of the page belong: RAM, or its shadow.
    pub fn target<'a>(&'a self, ram: &'a [RamBlock], run: PageRun) -> &'a RamBlock {
        self.away(run.block, run.start).map_or(&ram[usize::from(run.block.0)], Staging::memory)
    }

    /// The run's contents were written to its [`Self::target`]; it lies in one chunk.
    pub fn written(&self, run: PageRun) {
        if let Some(staging) = self.away(run.block, run.start) {
            staging.arrived(run);
        }
        self.tracker.placed(run);
    }

    // Background pages. Receivers only.

    /// Takes the contents of the run, off the channel or out of what came compressed. Each part of
    /// it is told to `took` once it is here.
    pub fn receive(
        &self,
        ram: &[RamBlock],
        contents: &mut impl PageSource,
        run: PageRun,
        mut took: impl FnMut(PageRun),
    ) -> Result<(), MigrationError> {
        for part in by_chunk(run) {
            let staging = self.staging(part.block);
            if let Some((staging, hand)) = staging.and_then(|it| Some((it, it.in_hand(part.start)?))) {
                for (piece, fresh) in hand.pieces(part) {
                    match fresh {
                        true => contents.write_into(hand.memory(), piece)?,
                        false => contents.pass(piece.bytes())?,
                    }
                }
                self.arrived(ram, staging, hand, part)?;
            } else {
                for piece in part.pieces(PIECE) {
                    let bytes = contents.take(piece.bytes())?;
                    self.uffd.copy(&ram[usize::from(piece.block.0)], piece, bytes)?;
                    self.placed(piece);
                }
            }
            took(part);
        }
        Ok(())
    }

    /// The run is zero.
    pub fn receive_zeros(&self, ram: &[RamBlock], run: PageRun) -> Result<(), MigrationError> {
        for part in by_chunk(run) {
            let block = &ram[usize::from(part.block.0)];
            let staging = self.staging(part.block);
            let whole = part.count == HUGE_PAGES;
            if let Some(staging) = staging.filter(|_| whole)
                && staging.all_zero(part.start)?
            {
                self.tracker.placed(part);
                // It may have been the last that its group waited for.
                let moved = staging.move_in_if_complete(&self.uffd, block, part.start)?;
                moved.into_iter().for_each(|run| self.close_latency(run));
                for page in self.tracker.asked_in(part) {
                    self.uffd.zero(block, PageRun::single(part.block, page))?;
                    self.close_latency(PageRun::single(part.block, page));
                }
            } else if let Some((staging, hand)) = staging.and_then(|it| Some((it, it.in_hand(part.start)?))) {
                for (piece, _) in hand.pieces(part).filter(|(_, fresh)| *fresh) {
                    make_zero(hand.memory(), piece);
                }
                self.arrived(ram, staging, hand, part)?;
            } else {
                self.uffd.zero(block, part)?;
                self.placed(part);
            }
        }
        Ok(())
    }

    /// The part stands in the shadow: counts it, moves its group in if that is complete, else
    /// serves who waits for a page of it.
    fn arrived(&self, ram: &[RamBlock], staging: &Staging, hand: InHand<'_>, part: PageRun) -> Result<(), UffdError> {
        let block = &ram[usize::from(part.block.0)];
        staging.arrived(part);
        self.tracker.placed(part);
        drop(hand);
        let moved = staging.move_in_if_complete(&self.uffd, block, part.start)?;
        if !moved.is_empty() {
            moved.into_iter().for_each(|run| self.close_latency(run));
            return Ok(());
        }
        for page in self.tracker.asked_in(part) {
            staging.alone_from_shadow(&self.uffd, block, page)?;
            self.close_latency(PageRun::single(part.block, page));
        }
        Ok(())
    }

    /// Moves in the groups that demanded pages have completed, and takes back pages that take
    /// memory twice, if they are many.
    pub fn settle(&self, ram: &[RamBlock]) -> Result<(), UffdError> {
        for (staging, block) in self.staging.iter().zip(ram) {
            let Some(staging) = staging else { continue };
            staging.move_in_due(&self.uffd, block)?.into_iter().for_each(|run| self.close_latency(run));
            if let Err(error) = staging.take_back(block) {
                log::debug!("pages that take memory twice stay where they are: {error}");
            }
        }
        Ok(())
    }

    /// Nothing is missing any more: moves everything in.
    pub fn settle_all(&self, ram: &[RamBlock]) -> Result<(), UffdError> {
        self.staging.iter().zip(ram).try_for_each(|(staging, block)| {
            staging.as_ref().map_or(Ok(()), |staging| staging.move_in_all(&self.uffd, block))
        })
    }

    /// Gives up the memory that is not needed any more.
    pub fn release(&self) {
        for staging in self.staging.iter().flatten() {
            if let Err(error) = staging.release() {
                log::debug!("memory of the migration stays until the process ends: {error}");
            }
        }
    }

    // Demanded pages. Fault loop only.

    /// Fills the run, wakes who waits, and only then counts it as received.
    pub fn contents(&self, ram: &[RamBlock], run: PageRun, contents: &[u8]) -> Result<Placed, UffdError> {
        let block = &ram[usize::from(run.block.0)];
        self.demanded(block, run, |part| {
            let at = (part.start.0 - run.start.0) as usize * PAGE_SIZE;
            self.uffd.copy(block, part, &contents[at..at + part.bytes()])
        })
    }

    /// The same with zeros.
    pub fn zeros(&self, ram: &[RamBlock], run: PageRun) -> Result<Placed, UffdError> {
        let block = &ram[usize::from(run.block.0)];
        self.demanded(block, run, |part| self.uffd.zero(block, part))
    }

    fn demanded(
        &self,
        block: &RamBlock,
        run: PageRun,
        place: impl Fn(PageRun) -> Result<(), UffdError>,
    ) -> Result<Placed, UffdError> {
        let mut placed = Placed::Some;
        for part in by_chunk(run) {
            let alone = match self.staging(run.block) {
                Some(staging) => staging.alone(&self.uffd, block, part, &place)?,
                None => Alone::Home,
            };
            match alone {
                Alone::Home => place(part)?,
                Alone::Placed => {}
                Alone::Due => placed = Placed::Due,
                // Moving it in wakes who waits.
                Alone::Comes => continue,
            }
            if self.placed(part) {
                return Ok(Placed::Last);
            }
        }
        Ok(placed)
    }

    /// Somebody touched a page that was received and is not in RAM.
    pub fn serve(&self, ram: &[RamBlock], block: BlockId, page: PageIndex) -> Result<Placed, UffdError> {
        let single = PageRun::single(block, page);
        let alone = match self.staging(block) {
            Some(staging) => staging.alone_from_shadow(&self.uffd, &ram[usize::from(block.0)], page)?,
            None => Alone::Home,
        };
        match alone {
            Alone::Home => self.uffd.zero(&ram[usize::from(block.0)], single)?,
            Alone::Comes => return Ok(Placed::Some),
            Alone::Placed | Alone::Due => {}
        }
        // Whether anybody still asks for it or not: it may be noted as waited for after it was
        // served.
        self.latency.placed(single, Instant::now());
        self.tracker.served(single);
        Ok(if alone == Alone::Due { Placed::Due } else { Placed::Some })
    }

    fn placed(&self, run: PageRun) -> bool {
        let last = self.tracker.placed(run);
        self.close_latency(run);
        last
    }

    fn close_latency(&self, run: PageRun) {
        if self.tracker.is_asked(run) {
            self.latency.placed(run, Instant::now());
            self.tracker.served(run);
        }
    }
}

/// Makes the run zero where it is not. Memory is not given back for less than a huge page: that
/// would break it up.
pub(super) fn make_zero(block: &RamBlock, run: PageRun) {
    for page in run.pages().filter(|page| !block.is_zero(*page)) {
        block.write(page, 0, &[0; PAGE_SIZE]);
    }
}
