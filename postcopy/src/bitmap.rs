//! [`PageBitmap`]: one bit a page, shared between threads without locks; [`RamBitmap`]: one of them
//! a RAM block.

use crate::host::atomic::{AtomicU64, Ordering};
use crate::memory::RamBlock;
use crate::ram::{BlockId, PageIndex, PageRun};

#[cfg(test)]
mod tests;

/// One atomic bit for each page of a RAM block. Bit `n % 64` of word `n / 64` stands for page `n`.
#[derive(Debug)]
pub struct PageBitmap {
    words: Box<[AtomicU64]>,
    pages: u64,
}

impl PageBitmap {
    /// All pages clear.
    pub fn new(pages: u64) -> Self {
        Self { words: (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(), pages }
    }

    /// How many pages the bitmap covers.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How many 64-bit words it has.
    pub fn len_words(&self) -> usize {
        self.words.len()
    }

    /// Sets the bits of `mask` in word `word` (pages `word * 64` and on) and returns those that
    /// were clear before. Bits past the last page are ignored.
    pub fn or_word(&self, word: usize, mask: u64) -> u64 {
        let Some(slot) = self.words.get(word) else { return 0 };
        let mask = mask & self.valid(word);
        mask & !slot.fetch_or(mask, Ordering::AcqRel)
    }

    /// Clears the bits of `mask` in word `word` and returns those that were set before.
    pub fn clear_word(&self, word: usize, mask: u64) -> u64 {
        self.words.get(word).map_or(0, |slot| mask & slot.fetch_and(!mask, Ordering::AcqRel))
    }

    /// Word `word` as it stands: pages `word * 64` and on. Zero past the end.
    pub fn word(&self, word: usize) -> u64 {
        self.words.get(word).map_or(0, |slot| slot.load(Ordering::Acquire))
    }

    /// Whether the page's bit is set.
    pub fn test(&self, page: PageIndex) -> bool {
        self.word((page.0 / 64) as usize) & (1 << (page.0 % 64)) != 0
    }

    /// Sets the page's bit; returns whether it was clear before.
    pub fn set(&self, page: PageIndex) -> bool {
        self.or_word((page.0 / 64) as usize, 1 << (page.0 % 64)) != 0
    }

    /// Clears the page's bit; returns whether it was set before. Of several threads that claim one
    /// page, one gets `true`.
    pub fn claim(&self, page: PageIndex) -> bool {
        self.clear_word((page.0 / 64) as usize, 1 << (page.0 % 64)) != 0
    }

    /// Sets every page of the range; returns how many were clear before.
    pub fn set_range(&self, start: PageIndex, count: u64) -> u64 {
        masks(start.0, start.0 + count).map(|(word, mask)| u64::from(self.or_word(word, mask).count_ones())).sum()
    }

    /// Clears every page of the range; returns how many were set before.
    pub fn clear_range(&self, start: PageIndex, count: u64) -> u64 {
        masks(start.0, start.0 + count).map(|(word, mask)| u64::from(self.clear_word(word, mask).count_ones())).sum()
    }

    /// The first run of clear pages at or after `from` and before `end`.
    pub fn next_clear_run(&self, block: BlockId, from: PageIndex, end: PageIndex) -> Option<PageRun> {
        let end = PageIndex(end.0.min(self.pages));
        let start = self.next_clear(from, end);
        let limit = PageIndex(end.0.min(start.0.saturating_add(u64::from(u32::MAX))));
        let end = self.next_set(start).map_or(limit, |set| set.min(limit));
        (start < end).then(|| PageRun { block, start, count: (end.0 - start.0) as u32 })
    }

    /// Sets every page.
    pub fn set_all(&self) {
        self.set_range(PageIndex(0), self.pages);
    }

    /// How many pages are set.
    pub fn count(&self) -> u64 {
        (0..self.words.len()).map(|word| u64::from(self.word(word).count_ones())).sum()
    }

    /// How many pages of `start..end` are set.
    pub fn count_range(&self, start: PageIndex, end: PageIndex) -> u64 {
        let end = end.0.min(self.pages);
        masks(start.0.min(end), end).map(|(word, mask)| u64::from((self.word(word) & mask).count_ones())).sum()
    }

    /// The first set page at or after `from`.
    pub fn next_set(&self, from: PageIndex) -> Option<PageIndex> {
        let mut word = (from.0 / 64) as usize;
        let mut bits = self.word(word) & (u64::MAX << (from.0 % 64));
        while bits == 0 {
            word += 1;
            if word >= self.words.len() {
                return None;
            }
            bits = self.word(word);
        }
        Some(PageIndex(word as u64 * 64 + u64::from(bits.trailing_zeros())))
    }

    /// The first clear page at or after `from`, at most `limit`.
    fn next_clear(&self, from: PageIndex, limit: PageIndex) -> PageIndex {
        let mut word = (from.0 / 64) as usize;
        let mut bits = !self.word(word) & (u64::MAX << (from.0 % 64));
        while bits == 0 && ((word + 1) as u64) * 64 < limit.0 {
            word += 1;
            bits = !self.word(word);
        }
        let page = if bits == 0 { limit.0 } else { word as u64 * 64 + u64::from(bits.trailing_zeros()) };
        PageIndex(page.min(limit.0))
    }

    /// The first run of set pages at or after `from`, at most `most` pages long.
    pub fn next_run(&self, block: BlockId, from: PageIndex, most: u32) -> Option<PageRun> {
        let start = self.next_set(from)?;
        let limit = PageIndex((start.0 + u64::from(most)).min(self.pages));
        let end = self.next_clear(start, limit);
        (end > start).then(|| PageRun { block, start, count: (end.0 - start.0) as u32 })
    }

    /// Clears the bits of the first run of set pages at or after `from`, at most `most` pages, and
    /// returns what this thread got of it. `None` when no page from `from` on is set.
    pub fn claim_run(&self, block: BlockId, from: PageIndex, most: u32) -> Option<PageRun> {
        let mut from = from;
        loop {
            let run = self.next_run(block, from, most)?;
            let mut count = 0;
            for (word, mask) in masks(run.start.0, run.end().0) {
                let got = self.clear_word(word, mask);
                if got == mask {
                    count += mask.count_ones();
                    continue;
                }
                // Another thread claimed pages inside. Keep the leading pages, put the rest back.
                let first = mask.trailing_zeros();
                let leading = (!(got >> first)).trailing_zeros();
                count += leading;
                let kept = if leading == 0 { 0 } else { (u64::MAX >> (64 - leading)) << first };
                self.or_word(word, got & !kept);
                break;
            }
            if count > 0 {
                return Some(PageRun { block, start: run.start, count });
            }
            from = PageIndex(run.start.0 + 1);
        }
    }

    /// The runs of set pages, in order, each at most `most` pages long.
    pub fn runs(&self, block: BlockId, most: u32) -> impl Iterator<Item = PageRun> + '_ {
        let mut from = PageIndex(0);
        std::iter::from_fn(move || {
            let run = self.next_run(block, from, most)?;
            from = run.end();
            Some(run)
        })
    }

    /// The bits of word `word` that stand for pages.
    fn valid(&self, word: usize) -> u64 {
        let rest = self.pages - (word as u64) * 64;
        if rest >= 64 { u64::MAX } else { (1 << rest) - 1 }
    }
}

/// The words and masks that cover pages `start..end`.
fn masks(start: u64, end: u64) -> impl Iterator<Item = (usize, u64)> {
    (start / 64..end.div_ceil(64)).map(move |word| {
        let low = start.saturating_sub(word * 64).min(63);
        let high = (end - word * 64).min(64);
        let mask = (u64::MAX << low) & (u64::MAX >> (64 - high));
        (word as usize, mask)
    })
}

/// One [`PageBitmap`] for each RAM block.
#[derive(Debug)]
pub struct RamBitmap {
    blocks: Vec<PageBitmap>,
}

impl RamBitmap {
    /// All pages of all blocks clear.
    pub fn new(ram: &[RamBlock]) -> Self {
        Self::with_pages(ram.iter().map(RamBlock::pages))
    }

    /// All pages clear, for blocks of these sizes in pages.
    pub fn with_pages(pages: impl IntoIterator<Item = u64>) -> Self {
        Self { blocks: pages.into_iter().map(PageBitmap::new).collect() }
    }

    /// The bitmap of one block.
    pub fn block(&self, block: BlockId) -> Option<&PageBitmap> {
        self.blocks.get(usize::from(block.0))
    }

    /// Each block with its number.
    pub fn blocks(&self) -> impl Iterator<Item = (BlockId, &PageBitmap)> {
        self.blocks.iter().enumerate().map(|(index, bitmap)| (BlockId(index as u16), bitmap))
    }

    /// How many pages are set.
    pub fn count(&self) -> u64 {
        self.blocks.iter().map(PageBitmap::count).sum()
    }

    /// How many pages there are.
    pub fn pages(&self) -> u64 {
        self.blocks.iter().map(PageBitmap::pages).sum()
    }

    /// How many pages of `start..end` are set, counted through all blocks one after the other.
    pub fn count_range(&self, start: u64, end: u64) -> u64 {
        let mut first = 0;
        let counts = self.blocks.iter().map(|bitmap| {
            let inside = |page: u64| PageIndex(page.saturating_sub(first));
            let count = bitmap.count_range(inside(start), inside(end));
            first += bitmap.pages();
            count
        });
        counts.sum()
    }

    /// Sets every page.
    pub fn set_all(&self) {
        self.blocks.iter().for_each(PageBitmap::set_all);
    }

    /// Clears every page.
    pub fn clear_all(&self) {
        for bitmap in &self.blocks {
            bitmap.clear_range(PageIndex(0), bitmap.pages());
        }
    }

    /// Whether `run` lies inside a block.
    pub fn holds(&self, run: PageRun) -> bool {
        run.count > 0
            && self.block(run.block).is_some_and(|bitmap| {
                run.start.0.checked_add(u64::from(run.count)).is_some_and(|end| end <= bitmap.pages())
            })
    }

    /// Sets the pages of `run`; returns how many were clear before.
    pub fn set_run(&self, run: PageRun) -> u64 {
        self.block(run.block).map_or(0, |bitmap| bitmap.set_range(run.start, u64::from(run.count)))
    }
}
