//! 16 MiB of guest RAM to be looked at for zero pages.

use std::io;

use whimbrel_postcopy::memory::{AnonymousRam, RamBlock};
use whimbrel_postcopy::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};

/// Pages of 16 MiB.
pub const PAGES: u64 = 4096;

/// Zero pages with memory of their own: never-touched ones would all be the kernel's one zero page.
pub fn zeros() -> io::Result<RamBlock> {
    let block = AnonymousRam::block("ram", PAGES)?;
    block.populate(PageRun { block: BlockId(0), start: PageIndex(0), count: PAGES as u32 })?;
    Ok(block)
}

/// Pages that are zero but for the byte at `offset`.
pub fn zeros_but(offset: usize) -> io::Result<RamBlock> {
    assert!(offset < PAGE_SIZE);
    let block = zeros()?;
    (0..PAGES).for_each(|page| block.write(PageIndex(page), offset, &[1]));
    Ok(block)
}

/// Looks at every page; returns how many are zero.
pub fn scan(block: &RamBlock) -> u64 {
    (0..block.pages()).filter(|&page| block.is_zero(PageIndex(page))).count() as u64
}
