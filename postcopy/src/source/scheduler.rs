//! The order of background pages in postcopy: on from where the last demand page was, round and round.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::bitmap::RamBitmap;
use crate::ram::{BlockId, PageIndex, PageRun};

/// Where the last demanded page was; written by the demand thread, read by the pusher. No lock between them.
#[derive(Debug, Default)]
pub struct Hint(AtomicU64);

impl Hint {
    /// The page after the demanded run: touches tend to go on upwards.
    pub fn demanded(&self, run: PageRun) {
        // 16 bits of block, 47 of page, one to tell a hint from none.
        self.0.store(u64::from(run.block.0) << 48 | run.end().0 << 1 | 1, Ordering::Relaxed);
    }

    fn take(&self) -> Option<(BlockId, PageIndex)> {
        if self.0.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let packed = self.0.swap(0, Ordering::Relaxed);
        (packed & 1 == 1).then_some((BlockId((packed >> 48) as u16), PageIndex((packed & 0xffff_ffff_ffff) >> 1)))
    }
}

/// Gives out each pending page once.
#[derive(Debug)]
pub struct Scheduler {
    block: BlockId,
    from: PageIndex,
}

impl Scheduler {
    /// Begins at the first page.
    pub fn new() -> Self {
        Self { block: BlockId(0), from: PageIndex(0) }
    }

    /// Claims the next run of at most `most` pages; `None` once nothing is pending.
    pub fn next(&mut self, pending: &RamBitmap, hint: &Hint, most: u32) -> Option<PageRun> {
        if let Some((block, page)) = hint.take() {
            (self.block, self.from) = (block, page);
        }
        let blocks = pending.blocks().count() as u16;
        // One visit more than there are blocks: the first block is looked at again from its begin.
        for _ in 0..=blocks {
            let found = pending.block(self.block).and_then(|bitmap| bitmap.claim_run(self.block, self.from, most));
            if let Some(run) = found {
                self.from = run.end();
                return Some(run);
            }
            self.block = BlockId((self.block.0 + 1) % blocks.max(1));
            self.from = PageIndex(0);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(block: u16, start: u64, count: u32) -> PageRun {
        PageRun { block: BlockId(block), start: PageIndex(start), count }
    }

    #[test]
    fn everything_is_given_out_once_whatever_the_hints() {
        let pending = RamBitmap::with_pages([100, 1, 70]);
        pending.set_all();
        let (mut scheduler, hint, seen) = (Scheduler::new(), Hint::default(), RamBitmap::with_pages([100, 1, 70]));
        let hints = [run(2, 30, 1), run(0, 99, 1), run(1, 0, 1), run(2, 69, 1), run(0, 50, 2)];
        let mut count = 0;
        while let Some(given) = scheduler.next(&pending, &hint, 7) {
            assert_eq!(seen.set_run(given), u64::from(given.count), "{given} again");
            if let Some(next) = hints.get(count) {
                hint.demanded(*next);
            }
            count += 1;
        }
        assert_eq!(seen.count(), 171);
        assert_eq!(pending.count(), 0);
    }

    #[test]
    fn the_background_goes_on_from_the_demanded_page() {
        let pending = RamBitmap::with_pages([1000]);
        pending.set_all();
        let (mut scheduler, hint) = (Scheduler::new(), Hint::default());
        assert_eq!(scheduler.next(&pending, &hint, 10), Some(run(0, 0, 10)));
        hint.demanded(run(0, 500, 1));
        assert_eq!(scheduler.next(&pending, &hint, 10), Some(run(0, 501, 10)));
        assert_eq!(scheduler.next(&pending, &hint, 10), Some(run(0, 511, 10)));
    }
}
