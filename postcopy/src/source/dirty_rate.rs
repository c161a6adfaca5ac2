//! How much of its RAM the guest dirtied since the log was last read.

use std::sync::OnceLock;

use crate::bitmap::{PageBitmap, RamBitmap};
use crate::guest::{DirtyLog, GuestError};
use crate::ram::{BlockId, PageIndex, PageRun};

/// The log is re-armed for so many pages at a time.
const STRETCH: u64 = 4096;

/// Reads the log so that every page counts anew in the next reading: what was read is re-armed at
/// once.
#[derive(Debug, Default)]
pub struct DirtyRateMeter {
    /// Kept between readings; all clear.
    seen: OnceLock<RamBitmap>,
}

impl DirtyRateMeter {
    /// How many pages were dirtied. `each` is shown them first, 64 at a time: a block, the number
    /// of a word of its bitmap, and the word.
    ///
    /// Whoever sends what `each` was shown afterwards loses no write: one that comes before the log
    /// is re-armed is in what is sent, one that comes after is in the log.
    pub fn read(&self, guest: &dyn DirtyLog, mut each: impl FnMut(BlockId, usize, u64)) -> Result<u64, GuestError> {
        let seen = self.seen.get_or_init(|| RamBitmap::new(guest.ram()));
        let mut pages = 0;
        for (block, seen) in seen.blocks() {
            guest.sync_dirty(block, seen)?;
            for word in 0..seen.len_words() {
                let bits = seen.word(word);
                if bits != 0 {
                    pages += u64::from(bits.count_ones());
                    each(block, word, bits);
                }
            }
            rearm(guest, block, seen)?;
        }
        Ok(pages)
    }
}

/// Re-arms the log for the pages that are set, and clears them.
fn rearm(guest: &dyn DirtyLog, block: BlockId, seen: &PageBitmap) -> Result<(), GuestError> {
    let mut from = PageIndex(0);
    while let Some(next) = seen.next_set(from) {
        let start = next.0 / STRETCH * STRETCH;
        let end = (start + STRETCH).min(seen.pages());
        guest.clear_dirty(PageRun { block, start: PageIndex(start), count: (end - start) as u32 }, seen)?;
        seen.clear_range(PageIndex(start), end - start);
        from = PageIndex(end);
    }
    Ok(())
}
