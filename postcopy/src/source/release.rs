//! Pages that the destination has, and that the host gets back meanwhile (`release-ram`).
//!
//! A page is let go of only on the destination's word that it has it: then a recovery cannot need
//! it either, for the destination's received bitmap is what a recovery goes by. It is asked from
//! time to time, by a mark in the background.
//!
//! A request for such a page can still be on its way; it is not answered, for the page is there.
//! And the thread that answers requests may be about to read one: what it has in hand is let go of
//! later.

use std::sync::Arc;

use crate::bitmap::RamBitmap;
use crate::host::atomic::{AtomicU64, Ordering, fence};
use crate::host::scaled;
use crate::logging as log;
use crate::memory::RamBlock;
use crate::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};
use crate::wire::Fragment;

/// The destination is asked after so many parts of RAM,
const PARTS: u64 = 32;
/// and after no fewer bytes than this.
const LEAST: u64 = 8 << 20;

/// The pages that are gone from here. Shared by the thread that lets go of them and the one that
/// answers requests.
#[derive(Debug)]
pub struct Released {
    pages: RamBitmap,
    /// Odd while a request is being answered.
    turns: AtomicU64,
}

/// A request is being answered: no page is let go of before this is dropped, unless it was gone
/// before.
pub(super) struct Answering<'a>(&'a AtomicU64);

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Released {
    /// None of these blocks' pages.
    pub fn new(ram: &[RamBlock]) -> Self {
        Self::with_pages(RamBitmap::new(ram))
    }

    fn with_pages(pages: RamBitmap) -> Self {
        Self { pages, turns: AtomicU64::new(0) }
    }

    /// A request is about to be answered.
    pub(super) fn answer(&self) -> Answering<'_> {
        self.turns.fetch_add(1, Ordering::SeqCst);
        // Whoever lets go of pages marks them first and looks then whether somebody answers; one of
        // the two sees the other.
        fence(Ordering::SeqCst);
        Answering(&self.turns)
    }

    /// Whether the page is gone: the destination has it.
    pub fn has(&self, run: PageRun) -> bool {
        self.pages.block(run.block).is_some_and(|block| run.pages().any(|page| block.test(page)))
    }

    /// How many of those that are pending are gone.
    fn lost(&self, pending: &RamBitmap) -> u64 {
        let both = |(block, gone): (BlockId, &crate::bitmap::PageBitmap)| {
            let pending = pending.block(block);
            let word = |word| gone.word(word) & pending.map_or(0, |it| it.word(word));
            (0..gone.len_words()).map(|at| u64::from(word(at).count_ones())).sum::<u64>()
        };
        self.pages.blocks().map(both).sum()
    }

    /// Marks the pages that the destination has; those that were not gone before, in runs.
    fn barrier(&self, fragment: &Fragment) -> Vec<PageRun> {
        let mut runs: Vec<PageRun> = Vec::new();
        let Some(block) = self.pages.block(fragment.block) else { return runs };
        for (word, bits) in fragment.iter() {
            let mut fresh = block.or_word(word, bits);
            while fresh != 0 {
                let first = fresh.trailing_zeros();
                let count = (!(fresh >> first)).trailing_zeros();
                let start = word as u64 * 64 + u64::from(first);
                match runs.last_mut() {
                    Some(last) if last.end().0 == start => last.count += count,
                    _ => runs.push(PageRun { block: fragment.block, start: PageIndex(start), count }),
                }
                fresh &= if first + count == 64 { 0 } else { u64::MAX << (first + count) };
            }
        }
        fence(Ordering::SeqCst);
        runs
    }
}

/// Lets go of pages. The migration's thread only.
#[derive(Debug)]
pub(super) struct Releaser {
    pub released: Arc<Released>,
    /// Pages that the other thread may be reading, with its turn at that time.
    held: Vec<(u64, Vec<PageRun>)>,
}

impl Releaser {
    pub fn new(released: Arc<Released>) -> Self {
        Self { released, held: Vec::new() }
    }

    /// The destination has these pages.
    pub fn release(&mut self, ram: &[RamBlock], fragment: &Fragment) {
        let runs = self.released.barrier(fragment);
        let turn = self.released.turns.load(Ordering::SeqCst);
        self.held.push((turn, runs));
        // Only the turn that it is in the middle of counts: whatever it begins later sees that they
        // are gone.
        self.held.retain(|(then, runs)| {
            let waits = !then.is_multiple_of(2) && *then == turn;
            if !waits {
                runs.iter().for_each(|run| give_back(ram, *run));
            }
            waits
        });
    }
}

fn give_back(ram: &[RamBlock], run: PageRun) {
    if let Some(Err(error)) = ram.get(usize::from(run.block.0)).map(|block| block.discard(run)) {
        log::debug!("{run} stays in memory: {error}");
    }
}

/// When the destination is asked what it has. The state machine's.
#[derive(Debug)]
pub(super) struct Asking {
    released: Arc<Released>,
    every: u64,
    /// Bytes sent since it was asked last.
    sent: u64,
    number: u32,
    /// Its answer has not come: nothing is sent in the background meanwhile, or each side could
    /// wait for the other to read.
    open: bool,
}

impl Asking {
    pub fn new(released: Arc<Released>) -> Self {
        let every = (released.pages.pages() * PAGE_SIZE as u64 / PARTS).max(scaled(LEAST));
        // What went before the hand-over is asked about at once.
        Self { released, every, sent: every, number: 0, open: false }
    }

    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// The number of the mark that is due.
    pub fn due(&mut self) -> Option<u32> {
        if self.open || self.sent < self.every {
            return None;
        }
        self.number = self.number.wrapping_add(1);
        (self.sent, self.open) = (0, true);
        Some(self.number)
    }

    pub fn is_open(&self) -> bool {
        self.open
    }

    /// The answer has come to its end, if it is the one that is awaited.
    pub fn answered(&mut self, number: u32) -> bool {
        let awaited = self.open && number == self.number;
        self.open &= !awaited;
        awaited
    }

    /// A link that broke gives no answer any more; how many pages are gone that the destination
    /// does not have.
    pub fn recovered(&mut self, pending: &RamBitmap) -> u64 {
        self.open = false;
        self.released.lost(pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::AnonymousRam;

    fn fragment(first_word: u64, words: &[u64]) -> Fragment {
        Fragment { block: BlockId(0), first_word, words: words.to_vec() }
    }

    fn filled(pages: u64) -> [RamBlock; 1] {
        let ram = AnonymousRam::block("ram", pages).unwrap();
        (0..pages).for_each(|page| ram.write(PageIndex(page), 0, &[1]));
        [ram]
    }

    fn left(ram: &[RamBlock]) -> Vec<u64> {
        (0..ram[0].pages()).filter(|page| !ram[0].is_zero(PageIndex(*page))).collect()
    }

    #[test]
    fn what_the_destination_has_is_gone_and_nothing_else() {
        let ram = filled(200);
        let mut releaser = Releaser::new(Arc::new(Released::new(&ram)));
        releaser.release(&ram, &fragment(0, &[!0b101, u64::MAX, u64::MAX]));
        assert_eq!(left(&ram), [0, 2, 192, 193, 194, 195, 196, 197, 198, 199]);
        let single = |page| PageRun::single(BlockId(0), PageIndex(page));
        assert!(releaser.released.has(single(1)) && !releaser.released.has(single(2)));
        let pending = RamBitmap::new(&ram);
        pending.set_run(PageRun { block: BlockId(0), start: PageIndex(0), count: 3 });
        assert_eq!(Asking::new(releaser.released.clone()).recovered(&pending), 1);
    }

    #[test]
    fn a_page_that_is_being_read_for_a_request_is_let_go_of_later() {
        let ram = filled(4);
        let mut releaser = Releaser::new(Arc::new(Released::new(&ram)));
        let released = releaser.released.clone();
        let answering = released.answer();
        releaser.release(&ram, &fragment(0, &[0b1]));
        assert_eq!(left(&ram), [0, 1, 2, 3]);
        drop(answering);
        // The next answer sees that the page is gone: nobody has to wait for that one.
        let _next = released.answer();
        releaser.release(&ram, &fragment(0, &[0b10]));
        assert_eq!(left(&ram), [1, 2, 3]);
        drop(_next);
        releaser.release(&ram, &fragment(0, &[0b11]));
        assert_eq!(left(&ram), [2, 3]);
    }

    #[test]
    fn one_answer_is_awaited_at_a_time() {
        let pages = RamBitmap::with_pages([1 << 20]);
        let mut asking = Asking::new(Arc::new(Released::with_pages(pages)));
        assert_eq!(asking.due(), Some(1));
        asking.sent(1 << 30);
        assert!(asking.due().is_none() && asking.is_open() && !asking.answered(2));
        assert!(asking.answered(1) && !asking.answered(1));
        assert_eq!(asking.due(), Some(2));
        assert!(asking.answered(2));
        asking.sent((128 << 20) - 1);
        assert_eq!(asking.due(), None);
        asking.sent(1);
        assert_eq!(asking.due(), Some(3));
    }
}
