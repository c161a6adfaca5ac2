//! Whether a page of guest RAM is zero, with the widest loads that the processor has.
//!
//! The guest may write the page meanwhile, so each load is volatile: the compiler neither repeats
//! nor omits it, and no reference to guest RAM is made. The compiler never merges volatile loads,
//! either, so they are loads of vectors here.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_or_si128, _mm_setzero_si128, _mm256_or_si256,
    _mm256_testz_si256,
};

use crate::ram::PAGE_SIZE;

/// Vectors that are looked at together. Most pages that are not zero show it in the first of them.
const TOGETHER: usize = 8;

/// Whether every byte of the page was zero when it was looked at.
///
/// # Safety
/// `page` is aligned to [`PAGE_SIZE`] and so many bytes from it can be read.
pub unsafe fn is_zero(page: *const u8) -> bool {
    if is_x86_feature_detected!("avx2") {
        // SAFETY: as the caller promises; the processor has AVX2.
        unsafe { is_zero_avx2(page) }
    } else {
        // SAFETY: as the caller promises; every x86-64 processor has SSE2.
        unsafe { is_zero_sse2(page) }
    }
}

/// # Safety
/// As for [`is_zero`], and the processor has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn is_zero_avx2(page: *const u8) -> bool {
    let vectors = page.cast::<__m256i>();
    (0..PAGE_SIZE / size_of::<__m256i>()).step_by(TOGETHER).all(|first| {
        // SAFETY: the caller promises that the whole page can be read; vectors are aligned in it.
        let at = |index: usize| unsafe { vectors.add(first + index).read_volatile() };
        let all = (1..TOGETHER).fold(at(0), |all, index| _mm256_or_si256(all, at(index)));
        _mm256_testz_si256(all, all) == 1
    })
}

/// For processors without AVX2.
///
/// # Safety
/// As for [`is_zero`].
#[target_feature(enable = "sse2")]
unsafe fn is_zero_sse2(page: *const u8) -> bool {
    const ALL_BYTES: i32 = 0xffff;
    let vectors = page.cast::<__m128i>();
    (0..PAGE_SIZE / size_of::<__m128i>()).step_by(TOGETHER).all(|first| {
        // SAFETY: the caller promises that the whole page can be read; vectors are aligned in it.
        let at = |index: usize| unsafe { vectors.add(first + index).read_volatile() };
        let all = (1..TOGETHER).fold(at(0), |all, index| _mm_or_si128(all, at(index)));
        _mm_movemask_epi8(_mm_cmpeq_epi8(all, _mm_setzero_si128())) == ALL_BYTES
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::AnonymousRam;
    use crate::ram::PageIndex;

    /// Every way of looking that this host has.
    fn each_way(page: *const u8) -> [bool; 3] {
        // SAFETY: the tests below only pass pages of blocks that live.
        unsafe {
            let avx2 = if is_x86_feature_detected!("avx2") { is_zero_avx2(page) } else { is_zero_sse2(page) };
            [is_zero(page), is_zero_sse2(page), avx2]
        }
    }

    /// The page between two others that are not zero, so that a look outside it would be noticed.
    #[test]
    fn one_byte_that_is_not_zero_is_seen_at_every_offset() {
        let ram = AnonymousRam::block("ram", 3).unwrap();
        let page = ram.address(PageIndex(1)) as *const u8;
        for around in [0, 2] {
            ram.write(PageIndex(around), 0, &[0xff; PAGE_SIZE]);
        }
        assert_eq!(each_way(page), [true; 3]);
        for offset in 0..PAGE_SIZE {
            for byte in [0x01, 0x80] {
                ram.write(PageIndex(1), offset, &[byte]);
                assert_eq!(each_way(page), [false; 3], "{byte:#x} at {offset}");
            }
            ram.write(PageIndex(1), offset, &[0]);
        }
        assert_eq!(each_way(page), [true; 3]);
    }

    /// Wherever a page lies in a huge page: all that a page-aligned address can be.
    #[test]
    fn every_page_of_a_huge_page_is_looked_at_alike() {
        let ram = AnonymousRam::block("ram", 512).unwrap();
        for page in 0..512 {
            let address = ram.address(PageIndex(page)) as *const u8;
            assert_eq!(each_way(address), [true; 3], "page {page}");
            ram.write(PageIndex(page), page as usize * 8, &[1]);
            assert_eq!(each_way(address), [false; 3], "page {page}");
        }
    }
}
