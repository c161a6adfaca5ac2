use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::stats::PageMap;

fn bitmap(pages: u64, set: &BTreeSet<u64>) -> PageBitmap {
    let bitmap = PageBitmap::new(pages);
    for &page in set {
        bitmap.set(PageIndex(page));
    }
    bitmap
}

fn pages_of(bitmap: &PageBitmap) -> BTreeSet<u64> {
    (0..bitmap.pages()).filter(|&page| bitmap.test(PageIndex(page))).collect()
}

proptest! {
    #[test]
    fn runs_cover_exactly_the_set_pages(pages in 1u64..400, set in prop::collection::btree_set(0u64..400, 0..300), most in 1u32..100) {
        let set: BTreeSet<u64> = set.into_iter().filter(|&page| page < pages).collect();
        let bitmap = bitmap(pages, &set);
        let mut covered = BTreeSet::new();
        for run in bitmap.runs(BlockId(0), most) {
            prop_assert!(run.count <= most && run.count > 0);
            for page in run.pages() {
                prop_assert!(covered.insert(page.0));
            }
        }
        prop_assert_eq!(&covered, &set);
        prop_assert_eq!(bitmap.count(), set.len() as u64);
    }

    #[test]
    fn ranges_set_what_they_say(pages in 1u64..400, a in 0u64..400, b in 0u64..400) {
        let (start, end) = (a.min(b).min(pages), a.max(b).min(pages));
        let bitmap = PageBitmap::new(pages);
        prop_assert_eq!(bitmap.set_range(PageIndex(start), end - start), end - start);
        prop_assert_eq!(bitmap.set_range(PageIndex(start), end - start), 0);
        prop_assert_eq!(pages_of(&bitmap), (start..end).collect::<BTreeSet<_>>());
    }

    #[test]
    fn claiming_empties_the_bitmap_once(set in prop::collection::btree_set(0u64..300, 0..200), most in 1u32..80) {
        let bitmap = bitmap(300, &set);
        let mut claimed = BTreeSet::new();
        while let Some(run) = bitmap.claim_run(BlockId(0), PageIndex(0), most) {
            for page in run.pages() {
                prop_assert!(claimed.insert(page.0));
            }
        }
        prop_assert_eq!(claimed, set);
        prop_assert_eq!(bitmap.count(), 0);
    }
}

#[test]
fn two_threads_never_claim_the_same_page() {
    const PAGES: u64 = 64 * 1024;
    let bitmap = PageBitmap::new(PAGES);
    bitmap.set_all();
    let seen = PageBitmap::new(PAGES);
    let twice = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while let Some(run) = bitmap.claim_run(BlockId(0), PageIndex(0), 37) {
                let fresh = seen.set_range(run.start, u64::from(run.count));
                twice.fetch_add(u64::from(run.count) - fresh, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            for page in (0..PAGES).step_by(3).chain((0..PAGES).rev()) {
                if bitmap.claim(PageIndex(page)) && !seen.set(PageIndex(page)) {
                    twice.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    });
    assert_eq!(twice.into_inner(), 0);
    assert_eq!(seen.count() + bitmap.count(), PAGES);
}

#[test]
fn bits_past_the_end_stay_clear() {
    let bitmap = PageBitmap::new(70);
    assert_eq!(bitmap.or_word(1, u64::MAX).count_ones(), 6);
    assert_eq!(bitmap.or_word(2, u64::MAX), 0);
    assert_eq!(bitmap.count(), 6);
    assert!(!bitmap.test(PageIndex(70)));
}

#[test]
fn ranges_are_counted_through_all_blocks() {
    let ram = RamBitmap::with_pages([70, 1, 130]);
    ram.set_run(PageRun { block: BlockId(0), start: PageIndex(60), count: 10 });
    ram.set_run(PageRun { block: BlockId(1), start: PageIndex(0), count: 1 });
    ram.set_run(PageRun { block: BlockId(2), start: PageIndex(63), count: 3 });
    for (range, set) in
        [(0..60, 0), (60..71, 11), (69..72, 2), (71..134, 0), (134..137, 3), (135..136, 1), (0..201, 14), (5..5, 0)]
    {
        assert_eq!(ram.count_range(range.start, range.end), set, "{range:?}");
    }
    for buckets in [1, 7, 64, 201, 9999] {
        let map = PageMap::new(ram.pages(), buckets, |start, end| ram.count_range(start, end));
        assert_eq!((map.pages, map.arrived.iter().sum::<u64>()), (201, 14), "{buckets}");
        assert_eq!(map.arrived.len(), (buckets as usize).min(201));
    }
}
