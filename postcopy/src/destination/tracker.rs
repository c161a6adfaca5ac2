//! What the destination knows of each page. Shared by the thread that takes background pages and
//! the one that takes demand pages, without locks: a page's bits only ever go from missing to
//! received once the guest may run.

use crate::bitmap::RamBitmap;
use crate::host::atomic::{AtomicU64, Ordering, fence};
use crate::memory::RamBlock;
use crate::ram::{BlockId, PageIndex, PageRun};
use crate::wire::Fragment;

/// What a touch of a missing page calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Nobody asked for it yet: ask.
    Ask,
    /// It is on its way.
    Asked,
    /// It was received and yet is not there: its chunk is not, or it was received as zero, which is
    /// not written to fresh memory.
    Here,
}

/// The pages received, asked for and still missing. A page that was received is this side's for
/// good: in RAM, or on its way there.
#[derive(Debug)]
pub struct Tracker {
    received: RamBitmap,
    asked: RamBitmap,
    missing: AtomicU64,
    requests: AtomicU64,
}

impl Tracker {
    /// All pages missing.
    pub fn new(ram: &[RamBlock]) -> Self {
        let received = RamBitmap::new(ram);
        let missing = AtomicU64::new(received.pages());
        Self { received, asked: RamBitmap::new(ram), missing, requests: AtomicU64::new(0) }
    }

    /// The pages that are here.
    pub fn received(&self) -> &RamBitmap {
        &self.received
    }

    /// How many pages are not here.
    pub fn missing(&self) -> u64 {
        self.missing.load(Ordering::Acquire)
    }

    /// How many pages were asked for.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether the page is here.
    pub fn has(&self, block: BlockId, page: PageIndex) -> bool {
        self.received.block(block).is_some_and(|bitmap| bitmap.test(page))
    }

    /// Whether the run names pages of this guest.
    pub fn holds(&self, run: PageRun) -> bool {
        self.received.holds(run)
    }

    /// The run is here: call this *after* the contents are, never before. Returns whether it was
    /// the last that was missing.
    pub fn placed(&self, run: PageRun) -> bool {
        let fresh = self.received.set_run(run);
        let last = fresh > 0 && self.missing.fetch_sub(fresh, Ordering::AcqRel) == fresh;
        // Whoever says that a page is here looks next whether somebody asked for it; whoever asks
        // looks next whether it is here. One of the two must see the other.
        fence(Ordering::SeqCst);
        last
    }

    /// All pages are here: the source's RAM is this side's.
    pub fn all_here(&self) {
        self.received.set_all();
        self.missing.store(0, Ordering::Release);
    }

    /// Somebody touched a page that is not populated.
    pub fn touched(&self, block: BlockId, page: PageIndex) -> Touch {
        if self.has(block, page) {
            return Touch::Here;
        }
        match self.asked.block(block) {
            Some(asked) if asked.set(page) => {
                fence(Ordering::SeqCst);
                self.requests.fetch_add(1, Ordering::Relaxed);
                Touch::Ask
            }
            _ => Touch::Asked,
        }
    }

    /// The pages of the run that somebody asked for.
    pub fn asked_in(&self, run: PageRun) -> impl Iterator<Item = PageIndex> + '_ {
        let asked = self.asked.block(run.block);
        let mut from = run.start;
        std::iter::from_fn(move || {
            let page = asked?.next_set(from).filter(|page| *page < run.end())?;
            from = PageIndex(page.0 + 1);
            Some(page)
        })
    }

    /// Whether somebody asked for a page of the run: then somebody waits for it.
    pub fn is_asked(&self, run: PageRun) -> bool {
        self.asked_in(run).next().is_some()
    }

    /// Pages sent before are stale: they are missing again. Gives each run that held something, to
    /// be dropped from RAM.
    pub fn stale(&self, fragment: &Fragment, mut drop: impl FnMut(PageRun)) {
        let Some(received) = self.received.block(fragment.block) else { return };
        let mut open: Option<PageRun> = None;
        for (word, bits) in fragment.iter() {
            let mut had = received.clear_word(word, bits);
            self.missing.fetch_add(u64::from(had.count_ones()), Ordering::AcqRel);
            while had != 0 {
                let first = had.trailing_zeros();
                let count = (!(had >> first)).trailing_zeros();
                let start = word as u64 * 64 + u64::from(first);
                match &mut open {
                    Some(run) if run.end().0 == start => run.count += count,
                    _ => {
                        let next = PageRun { block: fragment.block, start: PageIndex(start), count };
                        open.replace(next).into_iter().for_each(&mut drop);
                    }
                }
                had &= if first + count == 64 { 0 } else { u64::MAX << (first + count) };
            }
        }
        open.into_iter().for_each(drop);
    }

    /// Whoever waited for pages of the run, which are here, has them: nobody asks for them any
    /// more.
    pub fn served(&self, run: PageRun) {
        if let Some(asked) = self.asked.block(run.block) {
            asked.clear_range(run.start, u64::from(run.count));
        }
    }

    /// The link broke: what was asked for and has not come must be asked for again. Gives those
    /// pages.
    pub fn ask_again(&self) -> Vec<PageRun> {
        let mut again = Vec::new();
        for (block, asked) in self.asked.blocks() {
            let here = |page| self.has(block, page);
            for run in asked.runs(block, 1) {
                if !here(run.start) {
                    again.push(run);
                }
            }
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::AnonymousRam;

    fn tracker(pages: u64) -> Tracker {
        Tracker::new(&[AnonymousRam::block("ram", pages).unwrap()])
    }

    fn run(start: u64, count: u32) -> PageRun {
        PageRun { block: BlockId(0), start: PageIndex(start), count }
    }

    #[test]
    fn the_last_page_is_noticed_exactly_once() {
        let tracker = tracker(10);
        assert!(!tracker.placed(run(0, 9)));
        assert!(!tracker.placed(run(3, 2)), "pages that come twice count once");
        assert!(tracker.placed(run(8, 2)));
        assert!(!tracker.placed(run(0, 10)));
        assert_eq!(tracker.missing(), 0);
    }

    #[test]
    fn a_page_is_asked_for_once() {
        let tracker = tracker(4);
        assert_eq!(tracker.touched(BlockId(0), PageIndex(2)), Touch::Ask);
        assert_eq!(tracker.touched(BlockId(0), PageIndex(2)), Touch::Asked);
        assert!(tracker.is_asked(run(1, 2)) && !tracker.is_asked(run(0, 2)) && !tracker.is_asked(run(3, 1)));
        assert_eq!(tracker.requests(), 1);
        assert_eq!(tracker.ask_again(), [run(2, 1)]);
        tracker.placed(run(2, 1));
        assert!(tracker.is_asked(run(0, 4)), "nobody was told yet");
        tracker.served(run(2, 1));
        assert!(!tracker.is_asked(run(0, 4)));
        assert_eq!(tracker.touched(BlockId(0), PageIndex(2)), Touch::Here);
        assert_eq!(tracker.ask_again(), []);
    }

    #[test]
    fn stale_pages_are_dropped_in_whole_runs_and_missing_again() {
        let tracker = tracker(300);
        tracker.placed(run(0, 200));
        let mut words = vec![0; 4];
        words[0] = 1 << 63 | 1;
        words[1] = u64::MAX;
        words[2] = 0b111;
        words[3] = u64::MAX; // pages 192 and on: only those up to 199 were there
        let mut dropped = Vec::new();
        tracker.stale(&Fragment { block: BlockId(0), first_word: 0, words }, |run| dropped.push(run));
        assert_eq!(dropped, [run(0, 1), run(63, 68), run(192, 8)]);
        assert_eq!(tracker.missing(), 100 + 1 + 68 + 8);
        assert!(!tracker.has(BlockId(0), PageIndex(64)) && tracker.has(BlockId(0), PageIndex(140)));
    }
}
