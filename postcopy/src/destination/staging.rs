//! Background pages of a postcopy come together outside the guest, in a [`Shadow`] of its RAM, and
//! go in a few huge pages at a time: without a copy, and so that the guest has huge pages
//! afterwards. A page that is touched earlier is placed alone.
//!
//! # A chunk
//! is a huge page's worth of pages, and a *group* is [`HUGE_TOGETHER`] chunks, which go in
//! together. Where a chunk's pages are is one atomic number, and whoever changes RAM of a chunk
//! that is away changes that number first. Threads of two kinds do: the *receivers*, which take the
//! background (the incoming thread and those of multifd channels), and the fault loop.
//!
//! ```text
//!         take (nothing runs yet)         its group is here
//! Home ────────────────────────────> Away ─────────────────> Going ───> Home, for good
//!                                    │  ^
//!                                    v  │
//!                                   Placing
//! ```
//!
//! In `Placing` any of the threads places pages alone, or takes them back. In `Going` a receiver
//! takes aside what was placed alone, copies it back, and moves the whole chunk in.
//!
//! The fault loop does not wait for a chunk that is `Going`: it will be there in a moment, and
//! moving it in wakes who waits. Any thread waits for another's `Placing`, which lasts some copied
//! pages, or the taking back of a group's.
//!
//! Receivers agree by a lock for each group: while one has pages of it in hand, which are written
//! to the shadow, nobody moves it in or takes pages back. The last that lays its pages down looks
//! whether the group is complete. The fault loop never takes that lock.

use std::io;
use std::ops::Range;
use std::sync::PoisonError;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::chunk::{Chunk, ChunkState};
use crate::bitmap::PageBitmap;
use crate::host::atomic::{AtomicU64, Ordering};
use crate::host::{Mutex, MutexGuard, scaled, thread};
use crate::logging as log;
use crate::memory::{HUGE_PAGES, HUGE_TOGETHER, RamBlock, Shadow};
use crate::ram::{BlockId, PageIndex, PageRun};
use crate::uffd::{Uffd, UffdError};

const CHUNK: u64 = HUGE_PAGES as u64;
const GROUP: u64 = HUGE_TOGETHER as u64;
/// Pages that are placed with one that was touched, if they are here: the aligned piece around it,
/// as the kernel does with a file's pages.
const AROUND: u64 = 16;
/// So many pages may be in RAM alone. Each takes memory besides what its chunk has in the shadow:
/// over a slow link a guest may touch everything before the background has come anywhere, and would
/// take its memory twice.
const MOST_ALONE: u64 = 4096;

/// What became of a page that was to be placed alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alone {
    /// The chunk is the guest's already: it is placed as any page.
    Home,
    /// It was placed.
    Placed,
    /// The same, and a receiver has something to do now: its group lacks nothing
    /// ([`Staging::move_in_due`]), or too many pages are in RAM alone ([`Staging::take_back`]).
    Due,
    /// Its chunk is about to be moved in, and it with it.
    Comes,
}

/// The shadow of one RAM block.
pub(super) struct Staging {
    id: BlockId,
    shadow: Shadow,
    chunks: Box<[Chunk]>,
    /// How many receivers have pages of the group in hand. Whoever moves pages between RAM and
    /// shadow has it locked meanwhile.
    groups: Box<[Mutex<u32>]>,
    /// Pages whose contents stand in the shadow.
    whole: PageBitmap,
    /// Pages in RAM though their chunk is away.
    alone: PageBitmap,
    /// How many they are.
    alone_pages: AtomicU64,
    /// Where pages are taken back next, by group.
    take_back_next: AtomicU64,
    /// Groups whose last page was placed alone, by number.
    due: (Sender<u64>, Receiver<u64>),
}

impl Staging {
    /// For block number `id`; `None` if its memory cannot be moved in huge pages.
    pub fn new(id: BlockId, block: &RamBlock) -> io::Result<Option<Self>> {
        let Some(shadow) = Shadow::new(block)? else { return Ok(None) };
        // A tail that is no whole chunk stays at home.
        let chunks = block.pages() / CHUNK;
        Ok(Some(Self {
            id,
            shadow,
            chunks: (0..chunks).map(|_| Chunk::default()).collect(),
            groups: (0..chunks.div_ceil(GROUP)).map(|_| Mutex::default()).collect(),
            whole: PageBitmap::new(block.pages()),
            alone: PageBitmap::new(block.pages()),
            alone_pages: AtomicU64::new(0),
            take_back_next: AtomicU64::new(0),
            due: unbounded(),
        }))
    }

    /// The shadow's memory.
    pub fn memory(&self) -> &RamBlock {
        self.shadow.memory()
    }

    /// Takes every chunk of `count` from number `first` on out of RAM that is at home, with those
    /// of its pages that are `received`. Nothing runs yet and nobody watches RAM.
    pub fn take(&self, block: &RamBlock, received: &PageBitmap, first: u64, count: u64) -> io::Result<()> {
        let mut chunk = first;
        while let Some(begin) = (chunk..first + count).find(|chunk| self.at(*chunk, ChunkState::Home)) {
            let end = (begin..first + count).find(|chunk| !self.at(*chunk, ChunkState::Home)).unwrap_or(first + count);
            self.take_run(block, received, begin, end)?;
            chunk = end;
        }
        Ok(())
    }

    fn take_run(&self, block: &RamBlock, received: &PageBitmap, begin: u64, end: u64) -> io::Result<()> {
        // A run counts its pages in 32 bits.
        const MOST: u64 = 1 << 20;
        for first in (begin..end).step_by(MOST as usize) {
            let count = MOST.min(end - first);
            let run = PageRun { block: self.id, start: PageIndex(first * CHUNK), count: (count * CHUNK) as u32 };
            self.shadow.take(block, run)?;
            for word in (first * CHUNK / 64) as usize..((first + count) * CHUNK / 64) as usize {
                self.whole.or_word(word, received.word(word));
            }
            for chunk in first..first + count {
                self.chunks[chunk as usize].enter(ChunkState::Away);
            }
        }
        Ok(())
    }

    /// What the shadow holds of the run counts no more.
    pub fn forget(&self, run: PageRun) {
        self.whole.clear_range(run.start, u64::from(run.count));
    }

    /// How many chunks there are: pages behind the last one are no concern of this.
    pub fn chunks(&self) -> u64 {
        self.chunks.len() as u64
    }

    /// Gives everything back to RAM. Nothing runs yet and nobody watches RAM.
    pub fn give_back(&self, block: &RamBlock) -> io::Result<()> {
        for (number, chunk) in (0..).zip(&self.chunks) {
            if chunk.state() == ChunkState::Away {
                self.shadow.give_back(block, self.pages_of(number..number + 1))?;
                chunk.enter(ChunkState::Home);
            }
        }
        Ok(())
    }

    /// Whether the page's chunk is not the guest's yet.
    pub fn is_away(&self, page: PageIndex) -> bool {
        self.chunk(page).is_some_and(|chunk| chunk.state() != ChunkState::Home)
    }

    /// A receiver takes pages of this one's group into its hands; `None` if the page's chunk is the
    /// guest's already.
    pub fn in_hand(&self, page: PageIndex) -> Option<InHand<'_>> {
        let group = group_of(page);
        let mut hands = self.lock(group)?;
        if !self.is_away(page) {
            return None;
        }
        *hands += 1;
        Some(InHand { staging: self, group })
    }

    fn lock(&self, group: u64) -> Option<MutexGuard<'_, u32>> {
        // A count of hands, each of which is taken back also by a thread that panics.
        self.groups.get(group as usize).map(|hands| hands.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The run's contents stand in the shadow; it lies in one chunk, which is away.
    pub fn arrived(&self, run: PageRun) {
        self.whole.set_range(run.start, u64::from(run.count));
    }

    /// Places a run, which lies in one chunk, by `place` if that is away. A page that stands in the
    /// shadow only comes from there: it may have been in RAM, written by the guest and taken back
    /// since it was asked for, and what was asked for is older.
    pub fn alone(
        &self,
        uffd: &Uffd,
        block: &RamBlock,
        run: PageRun,
        place: impl Fn(PageRun) -> Result<(), UffdError>,
    ) -> Result<Alone, UffdError> {
        let in_shadow = |page: PageIndex| self.whole.test(page) && !self.alone.test(page);
        self.run_alone(run.start, || {
            if !run.pages().any(in_shadow) {
                place(run)?;
                return Ok(self.note_alone(run));
            }
            run.pieces(1).try_fold(false, |too_many, page| {
                match in_shadow(page.start) {
                    true => uffd.copy_from(block, page, self.memory())?,
                    false => place(page)?,
                }
                Ok(too_many | self.note_alone(page))
            })
        })
    }

    /// Whether they have become too many by that.
    fn note_alone(&self, run: PageRun) -> bool {
        let more = self.alone.set_range(run.start, u64::from(run.count));
        let before = self.alone_pages.fetch_add(more, Ordering::Relaxed);
        before <= scaled(MOST_ALONE) && before + more > scaled(MOST_ALONE)
    }

    /// Has `place` place pages of the page's chunk, if that is away, and note which; it tells
    /// whether they are too many.
    fn run_alone(&self, page: PageIndex, place: impl FnOnce() -> Result<bool, UffdError>) -> Result<Alone, UffdError> {
        let Some(chunk) = self.chunk(page) else { return Ok(Alone::Home) };
        loop {
            match chunk.leave_away(ChunkState::Placing) {
                Ok(_) => break,
                Err(ChunkState::Home) => return Ok(Alone::Home),
                Err(ChunkState::Going) => return Ok(Alone::Comes),
                // The other thread has pages of the same chunk in hand.
                Err(_) => thread::yield_now(),
            }
        }
        let placed = place();
        chunk.enter(ChunkState::Away);
        let too_many = placed?;
        let group = group_of(page);
        if self.is_complete(group) {
            // Never full, and its other end lives as long as this one.
            let _ = self.due.0.send(group);
            return Ok(Alone::Due);
        }
        Ok(if too_many { Alone::Due } else { Alone::Placed })
    }

    /// Places a page whose contents stand in the shadow, because somebody waits for it, and those
    /// beside it, because touches have neighbours.
    pub fn alone_from_shadow(&self, uffd: &Uffd, block: &RamBlock, page: PageIndex) -> Result<Alone, UffdError> {
        self.run_alone(page, || {
            if self.alone.test(page) {
                // It is in RAM, which wakes who waits, or zero and in neither place.
                uffd.zero(block, PageRun::single(self.id, page))?;
                return Ok(false);
            }
            // Who waits goes on before its neighbours are placed. Each page is noted by itself: one
            // that is in RAM and not noted would be lost when the others are taken aside.
            let place = |page| {
                let single = PageRun::single(self.id, page);
                uffd.copy_from(block, single, self.memory()).map(|()| self.note_alone(single))
            };
            let run = self.around(page);
            let mut too_many = place(page)?;
            for beside in run.pages().filter(|beside| *beside != page) {
                // Nobody waits for these.
                let Ok(many) = place(beside) else { break };
                too_many |= many;
            }
            Ok(too_many)
        })
    }

    /// The run of pages around this one, which stands in the shadow and nowhere else, that do so
    /// too.
    fn around(&self, page: PageIndex) -> PageRun {
        let begin = page.0 / AROUND * AROUND;
        let waits = |at: &u64| self.whole.test(PageIndex(*at)) && !self.alone.test(PageIndex(*at));
        let before = (begin..page.0).rev().take_while(waits).count() as u64;
        let behind = (page.0 + 1..begin + AROUND).take_while(waits).count() as u64;
        PageRun { block: self.id, start: PageIndex(page.0 - before), count: (before + 1 + behind) as u32 }
    }

    /// Moves in every chunk that is away; nothing is missing any more, and no receiver has anything
    /// in hand.
    pub fn move_in_all(&self, uffd: &Uffd, block: &RamBlock) -> Result<(), UffdError> {
        (0..self.groups.len() as u64).try_for_each(|group| match self.lock(group) {
            Some(hands) => self.move_in(uffd, block, group, &hands).map(drop),
            None => Ok(()),
        })
    }

    /// Gives the shadow's memory back to the host; nothing is away any more.
    pub fn release(&self) -> io::Result<()> {
        self.shadow.release()
    }

    /// Moves in the groups whose last page was placed alone; gives the pages that went in.
    /// Receivers only.
    pub fn move_in_due(&self, uffd: &Uffd, block: &RamBlock) -> Result<Vec<PageRun>, UffdError> {
        let mut moved = Vec::new();
        for group in self.due.1.try_iter() {
            moved.extend(self.move_in_if_complete(uffd, block, PageIndex(group * GROUP * CHUNK))?);
        }
        Ok(moved)
    }

    /// Moves the page's group in if it is complete and nobody has pages of it in hand; gives the
    /// pages that went in. Receivers only.
    pub fn move_in_if_complete(
        &self,
        uffd: &Uffd,
        block: &RamBlock,
        page: PageIndex,
    ) -> Result<Vec<PageRun>, UffdError> {
        let group = group_of(page);
        match self.lock(group) {
            // Who still has pages in hand looks again afterwards.
            Some(hands) if *hands == 0 && self.is_complete(group) => self.move_in(uffd, block, group, &hands),
            _ => Ok(Vec::new()),
        }
    }

    /// A chunk is zero from begin to end: its memory is given back to the host, and what is missing
    /// in RAM reads as zero. Receivers only. False if it is not away, or something of it is here
    /// already.
    pub fn all_zero(&self, page: PageIndex) -> io::Result<bool> {
        let number = page.0 / CHUNK;
        let run = self.pages_of(number..number + 1);
        let _hands = self.lock(group_of(page));
        if !self.is_away(page) || self.whole.next_set(run.start).is_some_and(|page| page < run.end()) {
            return Ok(false);
        }
        self.seize(number, ChunkState::Going);
        self.none_alone(run);
        self.chunks[number as usize].enter(ChunkState::Home);
        self.shadow.memory().discard(run)?;
        Ok(true)
    }

    /// Moves in what is away of a complete group. A chunk that the fault loop is placing a page of
    /// is as much away as any other: it is waited for.
    fn move_in(
        &self,
        uffd: &Uffd,
        block: &RamBlock,
        group: u64,
        _locked: &MutexGuard<'_, u32>,
    ) -> Result<Vec<PageRun>, UffdError> {
        let away = self.away_in(group);
        away.iter().try_for_each(|chunks| self.move_in_run(uffd, block, chunks.clone()))?;
        Ok(away.into_iter().map(|chunks| self.pages_of(chunks)).collect())
    }

    /// The runs of chunks of the group that are not the guest's yet.
    fn away_in(&self, group: u64) -> Vec<Range<u64>> {
        let Range { mut start, end } = self.chunks_of(group);
        let mut runs = Vec::new();
        while let Some(first) = (start..end).find(|chunk| !self.at(*chunk, ChunkState::Home)) {
            let last = (first..end).find(|chunk| self.at(*chunk, ChunkState::Home)).unwrap_or(end);
            runs.push(first..last);
            start = last;
        }
        runs
    }

    /// If too many pages are in RAM alone, takes some back into the shadow, group after group: who
    /// touches one again gets it from there. Receivers only.
    pub fn take_back(&self, block: &RamBlock) -> io::Result<()> {
        if self.alone_pages.load(Ordering::Relaxed) <= scaled(MOST_ALONE) {
            return Ok(());
        }
        let groups = self.chunks().div_ceil(GROUP);
        for _ in 0..groups {
            if self.alone_pages.load(Ordering::Relaxed) <= scaled(MOST_ALONE) / 2 {
                break;
            }
            let group = self.take_back_next.fetch_add(1, Ordering::Relaxed) % groups;
            let Some(hands) = self.lock(group) else { continue };
            if *hands > 0 {
                continue;
            }
            for chunks in self.away_in(group) {
                // Not `Going`: a demanded page that comes meanwhile is not in the shadow, and has
                // to be placed afterwards.
                chunks.clone().for_each(|chunk| self.seize(chunk, ChunkState::Placing));
                let taken = self.collect(block, self.pages_of(chunks.clone()));
                chunks.for_each(|chunk| self.chunks[chunk as usize].enter(ChunkState::Away));
                taken?;
            }
        }
        Ok(())
    }

    fn move_in_run(&self, uffd: &Uffd, block: &RamBlock, chunks: Range<u64>) -> Result<(), UffdError> {
        let run = self.pages_of(chunks.clone());
        chunks.clone().for_each(|chunk| self.seize(chunk, ChunkState::Going));
        let collected = self.collect(block, run).map_err(|error| (0, error));
        let result = match collected.and_then(|()| uffd.move_in(block, run, self.memory())) {
            Ok(()) => Ok(()),
            // Whatever the reason: what is in the shadow can still be copied, and pages that are
            // there stay.
            Err((moved, error)) => {
                log::debug!("{run} is copied, not moved: {error}");
                self.note_alone(PageRun { count: moved, ..run });
                self.copy_in(uffd, block, run)
            }
        };
        // What did not get in is still served from the shadow, a page at a time.
        let home = if result.is_ok() { ChunkState::Home } else { ChunkState::Away };
        if result.is_ok() {
            self.none_alone(run);
        }
        chunks.for_each(|chunk| self.chunks[chunk as usize].enter(home));
        if result.is_err() {
            // Who touched a page meanwhile was told that it comes.
            let _ = uffd.wake(block, run);
        }
        result
    }

    /// Copies the run in. Each page is noted by itself: where the host has no memory for all of
    /// them, those that are in RAM must not be lost when they are taken aside.
    fn copy_in(&self, uffd: &Uffd, block: &RamBlock, run: PageRun) -> Result<(), UffdError> {
        run.pieces(1).try_for_each(|page| {
            uffd.copy_from(block, page, self.memory())?;
            self.note_alone(page);
            Ok(())
        })
    }

    /// What was placed alone, and may have been written since, goes back into the shadow.
    fn collect(&self, block: &RamBlock, run: PageRun) -> io::Result<()> {
        let first = self.alone.next_set(run.start).filter(|page| *page < run.end());
        let Some(first) = first else { return Ok(()) };
        let mut aside = self.shadow.take_aside(block, run)?;
        let mut page = Some(first);
        while let Some(at) = page {
            aside.keep(at);
            self.whole.set(at);
            page = self.alone.next_set(PageIndex(at.0 + 1)).filter(|page| *page < run.end());
        }
        self.none_alone(run);
        Ok(())
    }

    /// Pages of the run are not in RAM alone any more.
    fn none_alone(&self, run: PageRun) {
        self.alone_pages.fetch_sub(self.alone.clear_range(run.start, u64::from(run.count)), Ordering::Relaxed);
    }

    /// Waits until the chunk is away and nobody has its pages in hand; from then on it is at
    /// `place`.
    fn seize(&self, number: u64, place: ChunkState) {
        let chunk = &self.chunks[number as usize];
        while chunk.leave_away(place).is_err() {
            thread::yield_now();
        }
    }

    /// Whether a group lacks nothing, or is in RAM already.
    fn is_complete(&self, group: u64) -> bool {
        self.chunks_of(group).all(|chunk| {
            let words = (chunk * CHUNK / 64) as usize..((chunk + 1) * CHUNK / 64) as usize;
            self.at(chunk, ChunkState::Home)
                || words.into_iter().all(|word| self.whole.word(word) | self.alone.word(word) == u64::MAX)
        })
    }

    fn chunks_of(&self, group: u64) -> Range<u64> {
        group * GROUP..((group + 1) * GROUP).min(self.chunks())
    }

    fn at(&self, chunk: u64, place: ChunkState) -> bool {
        self.chunks[chunk as usize].state() == place
    }

    fn chunk(&self, page: PageIndex) -> Option<&Chunk> {
        self.chunks.get((page.0 / CHUNK) as usize)
    }

    fn pages_of(&self, chunks: Range<u64>) -> PageRun {
        let count = ((chunks.end - chunks.start) * CHUNK) as u32;
        PageRun { block: self.id, start: PageIndex(chunks.start * CHUNK), count }
    }
}

fn group_of(page: PageIndex) -> u64 {
    page.0 / (GROUP * CHUNK)
}

/// Pages that a receiver writes to the shadow.
pub(super) struct InHand<'a> {
    staging: &'a Staging,
    group: u64,
}

impl InHand<'_> {
    /// Where they belong.
    pub fn memory(&self) -> &RamBlock {
        self.staging.memory()
    }

    /// The run in pieces, each with whether it belongs there. What stands there already came by
    /// another way, and may have been in the guest's hands since: it is not to be written again.
    pub fn pieces(&self, run: PageRun) -> impl Iterator<Item = (PageRun, bool)> + '_ {
        let whole = &self.staging.whole;
        let mut at = run.start.0;
        std::iter::from_fn(move || {
            let is_here = |page: &u64| whole.test(PageIndex(*page));
            let end = run.end().0;
            let here = (at < end).then(|| is_here(&at))?;
            let next = match here {
                true => (at..end).find(|page| !is_here(page)),
                false => whole.next_set(PageIndex(at)).map(|page| page.0).filter(|page| *page < end),
            };
            let piece = PageRun { start: PageIndex(at), count: (next.unwrap_or(end) - at) as u32, ..run };
            at = piece.end().0;
            Some((piece, !here))
        })
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        if let Some(mut hands) = self.staging.lock(self.group) {
            *hands -= 1;
        }
    }
}

/// The run in pieces that lie in one chunk each.
pub(super) fn by_chunk(run: PageRun) -> impl Iterator<Item = PageRun> {
    let mut start = run.start.0;
    std::iter::from_fn(move || {
        let end = run.end().0.min((start / CHUNK + 1) * CHUNK);
        let piece = PageRun { block: run.block, start: PageIndex(start), count: (end.saturating_sub(start)) as u32 };
        start = end;
        (piece.count > 0).then_some(piece)
    })
}
