//! Bitmaps of 1 GiB of guest RAM, as words: what they look like decides what a scan costs.

use whimbrel_postcopy::bitmap::PageBitmap;

/// Pages of 1 GiB.
pub const PAGES: u64 = 262_144;

/// No page.
pub fn empty() -> Vec<u64> {
    words(|_| false)
}

/// Every page.
pub fn full() -> Vec<u64> {
    words(|_| true)
}

/// Every third page: the most runs that a guest could well make.
pub fn third() -> Vec<u64> {
    words(|page| page.is_multiple_of(3))
}

/// One page in a hundred, anywhere; the same ones each time.
pub fn hundredth() -> Vec<u64> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    words(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.is_multiple_of(100)
    })
}

/// The bitmap that holds these words.
pub fn bitmap(words: &[u64]) -> PageBitmap {
    let bitmap = PageBitmap::new(PAGES);
    words.iter().enumerate().for_each(|(word, &bits)| {
        bitmap.or_word(word, bits);
    });
    bitmap
}

fn words(mut holds: impl FnMut(u64) -> bool) -> Vec<u64> {
    (0..PAGES / 64).map(|word| (0..64).fold(0, |bits, bit| bits | u64::from(holds(word * 64 + bit)) << bit)).collect()
}
