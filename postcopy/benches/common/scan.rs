//! The ways in which the engine goes through a bitmap, each from the first page to the last.

use whimbrel_postcopy::bitmap::PageBitmap;
use whimbrel_postcopy::ram::{BlockId, PageIndex};
use whimbrel_postcopy::wire::MAX_RUN_PAGES;

const BLOCK: BlockId = BlockId(0);

/// Page by page, by [`PageBitmap::next_set`]; returns how many are set.
pub fn next_set(bitmap: &PageBitmap) -> u64 {
    let pages = std::iter::successors(bitmap.next_set(PageIndex(0)), |page| bitmap.next_set(PageIndex(page.0 + 1)));
    pages.count() as u64
}

/// Run by run, by [`PageBitmap::runs`]; returns how many pages are set.
pub fn runs(bitmap: &PageBitmap) -> u64 {
    bitmap.runs(BLOCK, MAX_RUN_PAGES).map(|run| u64::from(run.count)).sum()
}

/// Clears everything by [`PageBitmap::claim_run`]; returns how many pages were set.
pub fn claim_run(bitmap: &PageBitmap) -> u64 {
    let (mut from, mut pages) = (PageIndex(0), 0);
    while let Some(run) = bitmap.claim_run(BLOCK, from, MAX_RUN_PAGES) {
        from = run.end();
        pages += u64::from(run.count);
    }
    pages
}

/// Gap by gap, by [`PageBitmap::next_clear_run`]; returns how many pages are clear.
pub fn next_clear_run(bitmap: &PageBitmap) -> u64 {
    let (mut from, mut pages) = (PageIndex(0), 0);
    while let Some(run) = bitmap.next_clear_run(BLOCK, from, PageIndex(bitmap.pages())) {
        from = run.end();
        pages += u64::from(run.count);
    }
    pages
}
