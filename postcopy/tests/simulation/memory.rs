//! What the guest wrote last, and the two kinds of dirty log that hosts have.

use whimbrel_postcopy::bitmap::{PageBitmap, RamBitmap};
use whimbrel_postcopy::host::random;
use whimbrel_postcopy::memory::RamBlock;
use whimbrel_postcopy::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};

pub type Page = (BlockId, PageIndex);

/// Where a page's number stands in it.
const AT: [usize; 3] = [0, 2048, PAGE_SIZE - 8];

/// A number a page, never written twice; 0 for a page of zeros.
pub struct Truth {
    pages: Vec<Vec<u64>>,
    last: u64,
    /// The CPU state that was saved last.
    pub state: u64,
}

impl Truth {
    pub fn new(blocks: &[u64]) -> Self {
        Self { pages: blocks.iter().map(|&pages| vec![0; pages as usize]).collect(), last: 0, state: 0 }
    }

    pub fn draw(&self) -> Page {
        let block = random(self.pages.len() as u64);
        (BlockId(block as u16), PageIndex(random(self.pages[block as usize].len() as u64)))
    }

    pub fn all(&self) -> Vec<Page> {
        let blocks = self.pages.iter().enumerate();
        let page = |block: usize, page: u64| (BlockId(block as u16), PageIndex(page));
        blocks.flat_map(|(block, pages)| (0..pages.len() as u64).map(move |at| page(block, at))).collect()
    }

    /// A new number for the guest to write; now and then zero.
    pub fn next(&mut self) -> u64 {
        self.last += 1;
        if random(8) == 0 { 0 } else { self.last }
    }

    /// The guest has written it.
    pub fn wrote(&mut self, page: Page, value: u64) {
        self.pages[usize::from(page.0.0)][page.1.0 as usize] = value;
    }

    /// What is wrong with the page's contents.
    pub fn fault(&self, page: Page, bytes: &[u8; PAGE_SIZE]) -> Option<String> {
        let want = self.pages[usize::from(page.0.0)][page.1.0 as usize];
        let found = AT.map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()));
        (found != [want; 3]).then(|| format!("block {} page {} holds {found:?}, not {want}", page.0.0, page.1.0))
    }
}

/// The contents of a page that holds this number.
pub fn contents(value: u64) -> [u8; PAGE_SIZE] {
    let mut bytes = [0; PAGE_SIZE];
    AT.iter().for_each(|&at| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes()));
    bytes
}

pub fn read(ram: &[RamBlock], page: Page) -> [u8; PAGE_SIZE] {
    let mut bytes = [0; PAGE_SIZE];
    ram[usize::from(page.0.0)].read(page.1, &mut bytes);
    bytes
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgets {
    /// Reading forgets.
    WhenRead,
    /// Only re-arming forgets.
    WhenCleared,
}

pub struct Log {
    pages: RamBitmap,
    pub forgets: Forgets,
}

impl Log {
    pub fn new(ram: &[RamBlock], forgets: Forgets) -> Self {
        Self { pages: RamBitmap::new(ram), forgets }
    }

    pub fn wrote(&self, page: Page) {
        self.pages.block(page.0).unwrap().set(page.1);
    }

    pub fn sync(&self, block: BlockId, dirty: &PageBitmap) {
        let log = self.pages.block(block).unwrap();
        for word in 0..log.len_words() {
            let bits = log.word(word);
            dirty.or_word(word, bits);
            if self.forgets == Forgets::WhenRead {
                log.clear_word(word, bits);
            }
        }
    }

    pub fn clear(&self, run: PageRun, dirty: &PageBitmap) {
        if self.forgets == Forgets::WhenCleared {
            let log = self.pages.block(run.block).unwrap();
            for word in (run.start.0 / 64) as usize..run.end().0.div_ceil(64) as usize {
                log.clear_word(word, dirty.word(word));
            }
        }
    }
}
