//! [`Staging`]: memory that a disk reads and writes directly.

use crate::ram::PAGE_SIZE;

/// Disks want addresses, places and lengths to be multiples of their blocks, which are no longer
/// than a page.
const ALIGNMENT: usize = PAGE_SIZE;

/// Bytes that begin at a multiple of the page size, with room for something before them.
pub(super) struct Staging {
    bytes: Vec<u8>,
    begin: usize,
    length: usize,
}

impl Staging {
    /// Of `length` bytes; all zero.
    pub fn new(length: usize) -> Self {
        let bytes = vec![0; length + 2 * ALIGNMENT];
        // What stands before them has a page, too.
        let begin = ALIGNMENT + bytes.as_ptr().align_offset(ALIGNMENT) % ALIGNMENT;
        Self { bytes, begin, length }
    }

    /// The aligned bytes.
    pub fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.begin..self.begin + self.length]
    }

    /// The same, to be read.
    pub fn as_ref(&self) -> &[u8] {
        &self.bytes[self.begin..self.begin + self.length]
    }

    /// The bytes `at..at + count`, with `head` written over what stands before them.
    ///
    /// `head` is at most a page long.
    pub fn headed(&mut self, head: &[u8], at: usize, count: usize) -> &[u8] {
        let begin = self.begin + at;
        self.bytes[begin - head.len()..begin].copy_from_slice(head);
        &self.bytes[begin - head.len()..begin + count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_aligned_and_a_head_fits_before_them() {
        for length in [PAGE_SIZE, 7 * PAGE_SIZE] {
            let mut staging = Staging::new(length);
            assert_eq!(staging.as_ref().as_ptr().align_offset(ALIGNMENT), 0);
            staging.as_mut().fill(7);
            assert_eq!(staging.headed(&[1, 2, 3], 0, 2), [1, 2, 3, 7, 7]);
            let last = length - 1;
            assert_eq!(staging.headed(&[4, 5], last, 1), [4, 5, 7]);
            assert_eq!(staging.as_ref().len(), length);
        }
    }
}
