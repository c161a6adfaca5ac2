//! What has changed of a page: stretches that stayed the same, stretches that did not, in turn.
//!
//! ```text
//!  +--------+-----------+- - - - - - - -+--------+-----------+- - - -
//!  | same   | changed   | new bytes     | same   | changed   | ...
//!  +--------+-----------+- - - - - - - -+--------+-----------+- - - -
//! ```
//!
//! Both numbers take 1 or 2 bytes: a number below 128 stands as it is; of any other, the first byte
//! has the lower 7 bits and bit 7 set, and the second byte has the rest.
//!
//! The new bytes stand there as they are, not as a difference: what is applied twice, or over
//! something newer, does no harm.

use super::{EncodingError, Page};
use crate::ram::PAGE_SIZE;

/// Fewer bytes than this that stayed the same are said again with those around them: to leave them
/// out takes as many.
const SAME_LEAST: usize = 4;
/// Compared at once, in bytes.
const LINE: usize = 64;

/// Appends what makes `new` of `old`; `false`, and nothing appended, if that is as long as the
/// page.
pub fn encode_xbzrle(old: &Page, new: &Page, out: &mut Vec<u8>) -> bool {
    let begin = out.len();
    let mut at = 0;
    while let Some(start) = next_change(old, new, at) {
        let end = end_of_change(old, new, start);
        put(out, start - at);
        put(out, end - start);
        out.extend_from_slice(&new[start..end]);
        if out.len() - begin >= PAGE_SIZE {
            out.truncate(begin);
            return false;
        }
        at = end;
    }
    true
}

/// The first byte from `from` on that differs.
fn next_change(old: &Page, new: &Page, from: usize) -> Option<usize> {
    let mut at = from;
    while at < PAGE_SIZE {
        let end = at / LINE * LINE + LINE;
        let (before, after) = (&old[at..end], &new[at..end]);
        if before != after {
            return before.iter().zip(after).position(|(a, b)| a != b).map(|first| at + first);
        }
        at = end;
    }
    None
}

/// Where so many bytes begin that stayed the same that they are worth leaving out.
fn end_of_change(old: &Page, new: &Page, start: usize) -> usize {
    let mut end = start + 1;
    for (n, (a, b)) in (end..).zip(old[end..].iter().zip(&new[end..])) {
        if a != b {
            end = n + 1;
        } else if n + 1 - end >= SAME_LEAST {
            break;
        }
    }
    end
}

fn put(out: &mut Vec<u8>, number: usize) {
    match number {
        0..128 => out.push(number as u8),
        _ => out.extend([number as u8 & 127 | 128, (number >> 7) as u8]),
    }
}

/// Reads what [`encode_xbzrle`] wrote, whoever really did.
pub struct XbzrleDecoder<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> XbzrleDecoder<'a> {
    /// Of these bytes.
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, at: 0 }
    }

    /// The next stretch that changed: where in the page, and what stands there now. It lies inside
    /// the page. `None` at the end.
    pub fn take(&mut self) -> Result<Option<(usize, &'a [u8])>, EncodingError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (same, changed) = (self.number()?, self.number()?);
        let at = self.at + same;
        if changed == 0 || at + changed > PAGE_SIZE {
            return Err(EncodingError::Outside);
        }
        let (bytes, rest) = self.rest.split_at_checked(changed).ok_or(EncodingError::Short)?;
        (self.rest, self.at) = (rest, at + changed);
        Ok(Some((at, bytes)))
    }

    fn number(&mut self) -> Result<usize, EncodingError> {
        let low = self.byte()?;
        if low < 128 {
            return Ok(low.into());
        }
        match self.byte()? {
            // There is one way to write each number.
            0 => Err(EncodingError::Outside),
            high => Ok(usize::from(low & 127) | usize::from(high) << 7),
        }
    }

    fn byte(&mut self) -> Result<u8, EncodingError> {
        let (first, rest) = self.rest.split_first().ok_or(EncodingError::Short)?;
        self.rest = rest;
        Ok(*first)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn apply(page: &mut Page, bytes: &[u8]) -> Result<(), EncodingError> {
        let mut changes = XbzrleDecoder::of(bytes);
        while let Some((at, new)) = changes.take()? {
            page[at..at + new.len()].copy_from_slice(new);
        }
        Ok(())
    }

    #[test]
    fn exact_bytes() {
        let (old, mut new, mut out) = ([7; PAGE_SIZE], [7; PAGE_SIZE], Vec::new());
        assert!(encode_xbzrle(&old, &new, &mut out));
        assert!(out.is_empty());
        (new[2], new[3], new[7], new[4095]) = (1, 2, 3, 4);
        assert!(encode_xbzrle(&old, &new, &mut out));
        assert_eq!(out, [2, 6, 1, 2, 7, 7, 7, 3, 0xf7, 31, 1, 4], "three bytes between are said again, 4087 are not");
        assert!(!encode_xbzrle(&old, &[8; PAGE_SIZE], &mut out), "it would be longer than the page");
        assert_eq!(out.len(), 12, "and nothing of it stays");
    }

    #[test]
    fn what_leads_out_of_the_page_or_ends_too_soon_is_refused() {
        let mut page = [0; PAGE_SIZE];
        for (bytes, error) in [
            (&[1][..], EncodingError::Short),
            (&[0x80], EncodingError::Short),
            (&[0, 2, 9], EncodingError::Short),
            (&[0, 0], EncodingError::Outside),
            (&[0x80, 0, 1, 9], EncodingError::Outside),
            (&[0x80, 32, 1, 9], EncodingError::Outside),
            (&[0xff, 255, 1, 9], EncodingError::Outside),
            (&[0xff, 31, 1, 9, 0, 1, 9], EncodingError::Outside),
        ] {
            assert_eq!(apply(&mut page, bytes), Err(error), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_makes_the_new_page_of_the_old(
            seed in any::<u8>(),
            changes in prop::collection::vec((0..PAGE_SIZE, 1..200usize, any::<u8>()), 0..40),
        ) {
            let old: Page = std::array::from_fn(|n| (n as u8).wrapping_mul(seed));
            let mut new = old;
            for (at, count, value) in changes {
                new[at..(at + count).min(PAGE_SIZE)].fill(value);
            }
            let (mut out, mut made) = (Vec::new(), old);
            if encode_xbzrle(&old, &new, &mut out) {
                prop_assert!(out.len() < PAGE_SIZE);
                apply(&mut made, &out).unwrap();
                prop_assert!(made == new);
                // Over what is newer already, too.
                apply(&mut made, &out).unwrap();
                prop_assert!(made == new);
            }
        }

        #[test]
        fn whatever_comes_stays_inside_the_page(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut page = [0; PAGE_SIZE];
            let _ = apply(&mut page, &bytes);
        }
    }
}
