//! The modelled guest's memory: RAM on each side, which pages are populated, what the guest wrote
//! last, and a dirty log.

use whimbrel_postcopy::bitmap::{PageBitmap, RamBitmap};
use whimbrel_postcopy::memory::{AnonymousRam, RamBlock};
use whimbrel_postcopy::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};

use crate::plan::Random;

pub fn ram(blocks: &[u64]) -> Vec<RamBlock> {
    let block = |(n, pages): (usize, &u64)| AnonymousRam::block(&format!("ram{n}"), *pages).unwrap();
    blocks.iter().enumerate().map(block).collect()
}

/// What the guest wrote last: a number a page, never written twice; 0 for a page of zeros.
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

    /// Any page.
    pub fn draw(&self, random: &mut Random) -> (BlockId, PageIndex) {
        let block = random.below(self.pages.len() as u64);
        (BlockId(block as u16), PageIndex(random.below(self.pages[block as usize].len() as u64)))
    }

    pub fn all(&self) -> impl Iterator<Item = (BlockId, PageIndex)> + '_ {
        let blocks = self.pages.iter().enumerate();
        blocks.flat_map(|(block, pages)| {
            (0..pages.len() as u64).map(move |page| (BlockId(block as u16), PageIndex(page)))
        })
    }

    /// The guest writes the page in this RAM: a new number, now and then zeros.
    pub fn write(&mut self, ram: &[RamBlock], block: BlockId, page: PageIndex, random: &mut Random) {
        self.last += 1;
        let value = if random.below(8) == 0 { 0 } else { self.last };
        self.pages[usize::from(block.0)][page.0 as usize] = value;
        let block = &ram[usize::from(block.0)];
        for at in [0, 2048, PAGE_SIZE - 8] {
            block.write(page, at, &value.to_le_bytes());
        }
    }

    /// The page, read by the guest, is what it wrote last.
    pub fn check(&self, ram: &[RamBlock], block: BlockId, page: PageIndex, whose: &str) {
        let mut bytes = [0; PAGE_SIZE];
        ram[usize::from(block.0)].read(page, &mut bytes);
        let want = self.pages[usize::from(block.0)][page.0 as usize];
        for at in [0, 2048, PAGE_SIZE - 8] {
            let found = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            assert_eq!(found, want, "block {} page {} at byte {at} on the {whose}", block.0, page.0);
        }
    }

    pub fn check_all(&self, ram: &[RamBlock], whose: &str) {
        self.all().for_each(|(block, page)| self.check(ram, block, page, whose));
    }
}

/// The two kinds of dirty log that hosts have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgets {
    /// Reading forgets.
    WhenRead,
    /// Only re-arming forgets.
    WhenCleared,
}

pub struct Log {
    pages: RamBitmap,
    forgets: Forgets,
    pub on: bool,
}

impl Log {
    pub fn new(ram: &[RamBlock], forgets: Forgets) -> Self {
        Self { pages: RamBitmap::new(ram), forgets, on: false }
    }

    pub fn wrote(&self, block: BlockId, page: PageIndex) {
        if self.on {
            self.pages.block(block).unwrap().set(page);
        }
    }

    pub fn sync(&self, into: &RamBitmap) {
        assert!(self.on, "the log is read while it is off");
        for (block, dirty) in into.blocks() {
            let log = self.pages.block(block).unwrap();
            for word in 0..log.len_words() {
                let bits = log.word(word);
                dirty.or_word(word, bits);
                if self.forgets == Forgets::WhenRead {
                    log.clear_word(word, bits);
                }
            }
        }
    }

    pub fn clear(&self, run: PageRun, dirty: &PageBitmap) {
        assert!(self.on && run.start.0.is_multiple_of(64));
        if self.forgets == Forgets::WhenCleared {
            let log = self.pages.block(run.block).unwrap();
            for word in (run.start.0 / 64) as usize..run.end().0.div_ceil(64) as usize {
                log.clear_word(word, dirty.word(word));
            }
        }
    }
}

/// The destination's RAM as its kernel sees it: a page that is not populated reads as zero, or
/// stops the toucher once watched.
pub struct Populated {
    pub ram: Vec<RamBlock>,
    pages: RamBitmap,
    pub watched: bool,
    pub was_watched: bool,
}

impl Populated {
    pub fn new(ram: Vec<RamBlock>) -> Self {
        Self { pages: RamBitmap::new(&ram), ram, watched: false, was_watched: false }
    }

    /// Whether a touch goes through.
    pub fn is_open(&self, block: BlockId, page: PageIndex) -> bool {
        !self.watched || self.pages.block(block).unwrap().test(page)
    }

    /// A plain write of what was precopied.
    pub fn write(&self, run: PageRun, contents: &[u8]) {
        self.ram[usize::from(run.block.0)].write(run.start, 0, contents);
        self.pages.set_run(run);
    }

    pub fn discard(&self, run: PageRun) {
        self.ram[usize::from(run.block.0)].discard(run).unwrap();
        let bitmap = self.pages.block(run.block).unwrap();
        run.pages().for_each(|page| {
            bitmap.claim(page);
        });
    }

    /// As UFFDIO_COPY: fills what is missing, leaves what is there.
    pub fn fill(&self, run: PageRun, contents: Option<&[u8]>) {
        let bitmap = self.pages.block(run.block).unwrap();
        for (n, page) in run.pages().enumerate() {
            if bitmap.set(page)
                && let Some(contents) = contents
            {
                let bytes = &contents[n * PAGE_SIZE..(n + 1) * PAGE_SIZE];
                self.ram[usize::from(run.block.0)].write(page, 0, bytes);
            }
        }
    }

    /// The guest wrote it itself.
    pub fn touch(&self, block: BlockId, page: PageIndex) {
        self.pages.block(block).unwrap().set(page);
    }
}
