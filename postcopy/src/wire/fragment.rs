//! Pieces of a page bitmap on the wire: stretches of zero words between them are not sent.

use crate::bitmap::{PageBitmap, RamBitmap};
use crate::ram::BlockId;

/// The most words in one fragment: 64 KiB of bitmap, 2 GiB of RAM.
pub const MAX_WORDS: usize = 8192;
/// A gap of at least so many zero words ends a fragment: its header costs as much as two words.
const GAP: usize = 4;

/// `words[n]` holds the bits of pages `(first_word + n) * 64` and on of `block`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The block.
    pub block: BlockId,
    /// The number of the first word.
    pub first_word: u64,
    /// The words, 1 to 8192.
    pub words: Vec<u64>,
}

impl Fragment {
    /// Whether every set bit stands for a page of `ram`.
    pub fn fits(&self, ram: &RamBitmap) -> bool {
        let Some(bitmap) = ram.block(self.block) else { return false };
        let Some(last) = self.words.iter().rposition(|&word| word != 0) else { return true };
        let bits = 64 - u64::from(self.words[last].leading_zeros());
        self.first_word
            .checked_add(last as u64)
            .and_then(|word| word.checked_mul(64))
            .and_then(|page| page.checked_add(bits))
            .is_some_and(|end| end <= bitmap.pages())
    }

    /// The word numbers and their bits, those without a bit left out.
    pub fn iter(&self) -> impl Iterator<Item = (usize, u64)> {
        let first = self.first_word as usize;
        self.words.iter().enumerate().filter(|(_, word)| **word != 0).map(move |(at, &word)| (first + at, word))
    }
}

/// The fragments that tell every set bit of `ram`.
pub fn fragments(ram: &RamBitmap) -> impl Iterator<Item = Fragment> {
    ram.blocks().flat_map(|(block, bitmap)| {
        let mut at = 0;
        std::iter::from_fn(move || next_fragment(block, bitmap, &mut at))
    })
}

fn next_fragment(block: BlockId, bitmap: &PageBitmap, at: &mut usize) -> Option<Fragment> {
    let end = bitmap.len_words();
    while *at < end && bitmap.word(*at) == 0 {
        *at += 1;
    }
    let first = *at;
    let mut words = Vec::new();
    let mut zeros = 0;
    while *at < end && words.len() < MAX_WORDS && zeros < GAP {
        let word = bitmap.word(*at);
        zeros = if word == 0 { zeros + 1 } else { 0 };
        words.push(word);
        *at += 1;
    }
    words.truncate(words.len() - zeros);
    (!words.is_empty()).then_some(Fragment { block, first_word: first as u64, words })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ram::PageIndex;

    proptest! {
        #[test]
        fn fragments_tell_the_whole_bitmap(pages in prop::collection::vec(1u64..5000, 1..4), set in prop::collection::vec((0u16..4, 0u64..5000), 0..200)) {
            let ram = RamBitmap::with_pages(pages.iter().copied());
            for (block, page) in set {
                if let Some(bitmap) = ram.block(BlockId(block)) && page < bitmap.pages() {
                    bitmap.set(PageIndex(page));
                }
            }
            let told = RamBitmap::with_pages(pages);
            for fragment in fragments(&ram) {
                prop_assert!(fragment.fits(&told));
                prop_assert!(fragment.words.len() <= MAX_WORDS && !fragment.words.is_empty());
                for (word, bits) in fragment.iter() {
                    told.block(fragment.block).unwrap().or_word(word, bits);
                }
            }
            for (block, bitmap) in ram.blocks() {
                for word in 0..bitmap.len_words() {
                    prop_assert_eq!(told.block(block).unwrap().word(word), bitmap.word(word));
                }
            }
        }
    }

    #[test]
    fn a_bit_past_the_end_does_not_fit() {
        let ram = RamBitmap::with_pages([70]);
        let fragment = |block, first_word, word| Fragment { block: BlockId(block), first_word, words: vec![word] };
        assert!(fragment(0, 1, 0x3f).fits(&ram));
        assert!(!fragment(0, 1, 0x40).fits(&ram));
        assert!(!fragment(0, u64::MAX, 1).fits(&ram));
        assert!(!fragment(1, 0, 1).fits(&ram));
    }
}
