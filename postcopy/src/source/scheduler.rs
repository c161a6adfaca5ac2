//! The order of background pages in postcopy: on from where the last demand page was, round and
//! round.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::bitmap::RamBitmap;
use crate::memory::{HUGE_PAGES, HUGE_TOGETHER};
use crate::ram::{BlockId, PageIndex, PageRun};

/// Where the last demanded page was; written by the demand thread, read by the pusher. No lock
/// between them.
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

/// Pages in a group.
const GROUP: u64 = HUGE_PAGES as u64 * HUGE_TOGETHER as u64;

/// The pages that go on one after the other, some huge pages' worth: from the demanded page on to
/// their end, then from their begin.
#[derive(Clone, Copy, Debug)]
struct Group {
    block: BlockId,
    from: PageIndex,
    end: PageIndex,
    /// What stood before the demanded page is still to come.
    begin: Option<PageIndex>,
}

impl Group {
    fn around(block: BlockId, page: PageIndex) -> Self {
        let begin = page.0 / GROUP * GROUP;
        Self { block, from: page, end: PageIndex(begin + GROUP), begin: (begin < page.0).then_some(PageIndex(begin)) }
    }

    /// Claims its next run.
    fn next(&mut self, pending: &RamBitmap, most: u32) -> Option<PageRun> {
        let bitmap = pending.block(self.block)?;
        loop {
            let start = bitmap.next_set(self.from).filter(|page| *page < self.end);
            if let Some(start) = start {
                let left = (self.end.0 - start.0).min(u64::from(most)) as u32;
                let run = bitmap.claim_run(self.block, start, left).filter(|run| run.start < self.end);
                if let Some(run) = run {
                    self.from = run.end();
                    return Some(run);
                }
                // Others claimed it meanwhile.
                continue;
            }
            let begin = self.begin.take()?;
            (self.from, self.end) = (begin, PageIndex(begin.0 + GROUP));
        }
    }
}

/// Gives out each pending page once. A group that was begun is finished first: the destination
/// gives it to the guest as a whole.
#[derive(Debug)]
pub struct Scheduler {
    group: Group,
}

impl Scheduler {
    /// Begins at the first page.
    pub fn new() -> Self {
        Self { group: Group::around(BlockId(0), PageIndex(0)) }
    }

    /// Claims the next run of at most `most` pages, of one group; `None` once nothing is pending.
    pub fn next(&mut self, pending: &RamBitmap, hint: &Hint, most: u32) -> Option<PageRun> {
        if let Some(run) = self.group.next(pending, most) {
            return Some(run);
        }
        if let Some((block, page)) = hint.take() {
            self.group = Group::around(block, page);
            if let Some(run) = self.group.next(pending, most) {
                return Some(run);
            }
        }
        let (mut block, mut from) = (self.group.block, self.group.end);
        let blocks = pending.blocks().count() as u16;
        // One visit more than there are blocks: the first block is looked at again from its begin.
        for _ in 0..=blocks {
            while let Some(page) = pending.block(block).and_then(|bitmap| bitmap.next_set(from)) {
                self.group = Group::around(block, page);
                if let Some(run) = self.group.next(pending, most) {
                    return Some(run);
                }
                from = self.group.end;
            }
            (block, from) = (BlockId((block.0 + 1) % blocks.max(1)), PageIndex(0));
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
    fn the_background_finishes_its_group_and_goes_on_around_the_demanded_page() {
        let pending = RamBitmap::with_pages([9000]);
        pending.set_all();
        let (mut scheduler, hint) = (Scheduler::new(), Hint::default());
        assert_eq!(scheduler.next(&pending, &hint, 300), Some(run(0, 0, 300)));
        let demanded = 2 * GROUP + 900;
        hint.demanded(run(0, demanded, 1));
        pending.block(BlockId(0)).unwrap().claim(PageIndex(demanded));
        let behind = (3 * GROUP - demanded - 1) as u32;
        let rest = [
            run(0, 300, 1000),
            run(0, 1300, GROUP as u32 - 1300),
            run(0, demanded + 1, 1000),
            run(0, demanded + 1001, behind - 1000),
            run(0, 2 * GROUP, 900),
            run(0, 3 * GROUP, 1000),
        ];
        for next in rest {
            assert_eq!(scheduler.next(&pending, &hint, 1000), Some(next));
        }
    }

    #[test]
    fn the_last_group_may_be_shorter_than_others_and_every_block_has_its_own() {
        let pending = RamBitmap::with_pages([700, 5]);
        pending.set_all();
        let (mut scheduler, hint) = (Scheduler::new(), Hint::default());
        for next in [run(0, 0, 512), run(0, 512, 188), run(1, 0, 5)] {
            assert_eq!(scheduler.next(&pending, &hint, 512), Some(next));
        }
        assert_eq!(scheduler.next(&pending, &hint, 512), None);
    }
}
