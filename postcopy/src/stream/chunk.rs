//! [`Chunk`]: pages copied out of guest RAM, as the messages of a stream.

use crate::memory::RamBlock;
use crate::ram::{PAGE_SIZE, PageIndex, PageRun};
use crate::wire::Forward;

/// Messages with pages, and where in them each page's contents stand.
#[derive(Default)]
pub(super) struct Chunk {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

/// Pages in a row, and where their contents stand; `None` for zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub run: PageRun,
    pub at: Option<u64>,
}

impl Chunk {
    /// Adds the run as it is now. Nobody may be writing to it.
    pub fn copy(&mut self, block: &RamBlock, run: PageRun) {
        let mut start = run.start.0;
        while start < run.end().0 {
            let zero = block.is_zero(PageIndex(start));
            let same = |page: &u64| block.is_zero(PageIndex(*page)) == zero;
            let end = start + 1 + (start + 1..run.end().0).take_while(same).count() as u64;
            let part = PageRun { block: run.block, start: PageIndex(start), count: (end - start) as u32 };
            if zero {
                Forward::Zeros(vec![part]).encode(&mut self.bytes);
                self.places.push(Place { run: part, at: None });
            } else {
                Forward::Pages(part).encode(&mut self.bytes);
                self.places.push(Place { run: part, at: Some(self.bytes.len() as u64) });
                self.copy_contents(block, part);
            }
            start = end;
        }
    }

    fn copy_contents(&mut self, block: &RamBlock, run: PageRun) {
        let begin = self.bytes.len();
        self.bytes.resize(begin + run.bytes(), 0);
        let (pages, _) = self.bytes[begin..].as_chunks_mut::<PAGE_SIZE>();
        run.pages().zip(pages).for_each(|(page, bytes)| block.read(page, bytes));
    }

    /// The messages.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The pages in them; places count from the begin of [`Self::bytes`].
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.places.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::AnonymousRam;
    use crate::ram::BlockId;

    #[test]
    fn places_say_where_contents_stand() {
        let ram = AnonymousRam::block("ram", 8).unwrap();
        for page in [1, 2, 5] {
            ram.write(PageIndex(page), 9, &[page as u8]);
        }
        let mut chunk = Chunk::default();
        chunk.copy(&ram, PageRun { block: BlockId(3), start: PageIndex(0), count: 8 });
        let runs: Vec<_> = chunk.places().iter().map(|it| (it.run.start.0, it.run.count, it.at.is_some())).collect();
        assert_eq!(runs, [(0, 1, false), (1, 2, true), (3, 2, false), (5, 1, true), (6, 2, false)]);
        for Place { run, at } in chunk.places() {
            let Some(at) = at else { continue };
            for page in run.pages() {
                let first = *at as usize + (page.0 - run.start.0) as usize * PAGE_SIZE;
                assert_eq!(chunk.bytes()[first + 9], page.0 as u8);
            }
        }
        chunk.clear();
        assert!(chunk.is_empty() && chunk.bytes().is_empty());
    }
}
