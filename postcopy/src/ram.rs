//! Guest RAM as the engine names it: blocks, page indices and runs of pages.

use std::fmt;

/// The only page size that the protocol speaks of, in bytes. Huge pages are a matter of each host.
pub const PAGE_SIZE: usize = 4096;

/// A RAM block's number: its place in the list of blocks that source and destination agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u16);

/// A page's number inside its RAM block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageIndex(pub u64);

/// `count` consecutive pages of one block, from `start` on. Never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRun {
    /// The block that holds the run.
    pub block: BlockId,
    /// The run's first page.
    pub start: PageIndex,
    /// How many pages, at least 1.
    pub count: u32,
}

impl PageRun {
    /// A run of exactly one page.
    pub const fn single(block: BlockId, page: PageIndex) -> Self {
        Self { block, start: page, count: 1 }
    }

    /// The page after the run's last one.
    pub const fn end(self) -> PageIndex {
        PageIndex(self.start.0 + self.count as u64)
    }

    /// The run's length in bytes.
    pub const fn bytes(self) -> usize {
        self.count as usize * PAGE_SIZE
    }

    /// The pages of the run, in order.
    pub fn pages(self) -> impl Iterator<Item = PageIndex> {
        (self.start.0..self.end().0).map(PageIndex)
    }
}

impl fmt::Display for PageRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {} pages {}+{}", self.block.0, self.start.0, self.count)
    }
}
