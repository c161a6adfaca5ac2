//! [`PageBitmap`]: one bit a page, shared between threads without locks.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::ram::{BlockId, PageIndex, PageRun};

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

    /// Sets the bits of `mask` in word `word` (pages `word * 64` and on). Bits past the end are ignored.
    pub fn or_word(&self, word: usize, mask: u64) {
        if let Some(slot) = self.words.get(word) {
            slot.fetch_or(mask & self.valid(word), Ordering::AcqRel);
        }
    }

    /// Word `word` as it stands: pages `word * 64` and on. Zero past the end.
    pub fn word(&self, word: usize) -> u64 {
        self.words.get(word).map_or(0, |slot| slot.load(Ordering::Acquire))
    }

    /// The bits of word `word` that stand for pages.
    fn valid(&self, word: usize) -> u64 {
        let rest = self.pages - (word as u64) * 64;
        if rest >= 64 { u64::MAX } else { (1 << rest) - 1 }
    }
}

#[allow(dead_code)]
fn _names(_: BlockId, _: PageIndex, _: PageRun) {}
