//! The pure parts of the test guest, tested on the host: what its checker would miss, every other
//! test would miss too.
#![allow(clippy::unwrap_used)]

// The guest uses all of these; a test need not.
#[allow(dead_code)]
#[path = "guest/src/cmdline.rs"]
mod cmdline;
#[allow(dead_code)]
#[path = "guest/src/extents.rs"]
mod extents;
#[allow(dead_code)]
#[path = "guest/src/hist.rs"]
mod hist;
#[allow(dead_code)]
#[path = "guest/src/page.rs"]
mod page;

use cmdline::{BadWord, Options, Order};
use extents::Extents;
use page::{FIRST_GENERATION, Page, Pattern, WORDS, ZERO_PAGE};

const INDEX: u64 = 12_345;

fn page_at(pattern: &Pattern, generation: u32) -> Page {
    let mut page = [0; WORDS];
    pattern.fill(&mut page, INDEX, generation);
    page
}

#[test]
fn an_empty_command_line_gives_the_defaults() {
    assert_eq!(Options::parse(" \t"), Ok(Options::default()));
}

#[test]
fn every_word_of_the_command_line_is_taken() {
    let line = "ws=3M order=hot write=5 rate=17000 zero=20 bits=9 cpus=4 tsc_khz=2600000 beat_us=500 seed=9 \
                beat_bytes=14 plant=7 plant_word=8";
    let expected = Options {
        working_set: Some(3 << 20),
        order: Order::Hot,
        write_percent: 5,
        rate: 17_000,
        zero_percent: 20,
        bits: 9,
        cpus: Some(4),
        tsc_khz: Some(2_600_000),
        beat_us: 500,
        seed: 9,
        beat_bytes: Some(14),
        plant: Some(7),
        plant_word: Some(8),
    };
    assert_eq!(Options::parse(line), Ok(expected));
}

#[test]
fn sizes_have_suffixes() {
    for (line, bytes) in [("ws=4096", 4096), ("ws=8k", 8 << 10), ("ws=64M", 64 << 20), ("ws=5G", 5 << 30)] {
        assert_eq!(Options::parse(line).unwrap().working_set, Some(bytes));
    }
}

#[test]
fn a_word_that_makes_no_sense_is_named() {
    for word in ["quiet", "ws=", "ws=M", "ws=99999999999G", "order=up", "write=101", "cpus=0", "cpus=17", "rate=-1"] {
        let line = format!("seed=1 {word} seed=2");
        assert_eq!(Options::parse(&line), Err(BadWord(word)));
    }
}

#[test]
fn buckets_are_contiguous_and_narrow() {
    for bucket in 1..hist::BUCKETS {
        let lower = hist::lower_bound(bucket);
        assert_eq!(hist::bucket(lower), bucket);
        assert_eq!(hist::bucket(lower - 1), bucket - 1);
        let before = hist::lower_bound(bucket - 1);
        assert!(bucket <= 8 || (lower - before) * 8 <= before, "bucket {bucket} is wider than an eighth");
    }
    assert_eq!(hist::bucket(u64::MAX), hist::BUCKETS - 1);
}

#[test]
fn nanoseconds_neither_overflow_nor_lose_precision() {
    assert_eq!(hist::nanoseconds(2_600_000, 2_600_000), 1_000_000);
    assert_eq!(hist::nanoseconds(26, 2_600_000), 10);
    assert_eq!(hist::nanoseconds(2_600_000_000 * 86_400, 2_600_000), 86_400_000_000_000);
    assert_eq!(hist::nanoseconds(u64::MAX, 1000), u64::MAX);
}

#[test]
fn a_filled_page_has_no_zero_word_in_its_middle_and_verifies() {
    let pattern = Pattern::new(1, 0);
    let page = page_at(&pattern, FIRST_GENERATION);
    assert!(page[2..WORDS - 2].iter().all(|&word| word != 0));
    assert_eq!(pattern.verify(&page, INDEX, FIRST_GENERATION), Ok(()));
}

#[test]
fn filler_of_few_bits_has_no_others() {
    let page = page_at(&Pattern::new(7, 0).of_bits(9), 3);
    assert!(page[2..WORDS - 2].iter().all(|&word| word != 0 && word < 1 << 9));
}

#[test]
fn writing_generation_by_generation_equals_filling_at_once() {
    [64, 5].into_iter().for_each(writing_equals_filling);
}

fn writing_equals_filling(bits: u32) {
    let pattern = Pattern::new(7, 0).of_bits(bits);
    let mut page = page_at(&pattern, FIRST_GENERATION);
    let mut generation = FIRST_GENERATION;
    for _ in 0..1200 {
        generation = pattern.write(&mut page, INDEX, generation);
        assert_eq!(page, page_at(&pattern, generation), "generation {generation}");
    }
    assert_eq!(generation, 1201);
}

#[test]
fn the_last_generation_is_followed_by_the_first() {
    let pattern = Pattern::new(7, 0);
    let mut page = page_at(&pattern, u32::MAX);
    assert_eq!(pattern.write(&mut page, INDEX, u32::MAX), FIRST_GENERATION);
    assert_eq!(pattern.verify(&page, INDEX, FIRST_GENERATION), Ok(()));
}

#[test]
fn a_lost_stale_foreign_or_swapped_page_fails_the_visit() {
    let pattern = Pattern::new(1, 0);
    let lost = pattern.check(&[0; WORDS], INDEX, 5).unwrap_err();
    assert_eq!((lost.front, lost.back, pattern.index(lost.name)), (0, 0, None));
    let stale = pattern.check(&page_at(&pattern, 4), INDEX, 5).unwrap_err();
    assert_eq!((stale.front, stale.back, pattern.index(stale.name)), (4, 4, Some(INDEX)));
    let swapped = pattern.check(&page_at(&pattern, 5), INDEX + 1, 5).unwrap_err();
    assert_eq!((swapped.front, pattern.index(swapped.name)), (5, Some(INDEX)));
    assert!(pattern.check(&page_at(&Pattern::new(2, 0), 5), INDEX, 5).is_err());
    assert_eq!(pattern.check(&page_at(&pattern, 5), INDEX, 5), Ok(()));
}

/// A copy that took the front of a page before a write and the rest after it, or the other way
/// round, at every word.
#[test]
fn a_page_torn_anywhere_is_found() {
    let pattern = Pattern::new(1, 0);
    let (old, new) = (page_at(&pattern, 700), page_at(&pattern, 701));
    for cut in 2..WORDS - 2 {
        let mut torn = old;
        torn[cut..].copy_from_slice(&new[cut..]);
        assert!(pattern.check(&torn, INDEX, 701).is_err(), "torn at word {cut}");
        let mut torn = new;
        torn[cut..].copy_from_slice(&old[cut..]);
        assert!(pattern.check(&torn, INDEX, 701).is_err(), "torn at word {cut}");
    }
}

#[test]
fn one_wrong_bit_anywhere_fails_the_verification() {
    let pattern = Pattern::new(1, 0);
    for generation in [ZERO_PAGE, FIRST_GENERATION, 701] {
        let good = page_at(&pattern, generation);
        for word in 0..WORDS {
            let mut bad = good;
            bad[word] ^= 1 << (word % 64);
            let damage = pattern.verify(&bad, INDEX, generation).unwrap_err();
            let middle = (2..WORDS - 2).contains(&word);
            assert_eq!(damage.word, middle.then_some(word));
        }
    }
}

#[test]
fn the_share_of_zero_pages_is_kept() {
    let zero = |percent| {
        let pattern = Pattern::new(3, percent);
        (0..10_000).filter(|&index| pattern.first_generation(index) == ZERO_PAGE).count()
    };
    assert_eq!((zero(0), zero(100)), (0, 10_000));
    assert!((1900..2100).contains(&zero(20)), "{} of 10000", zero(20));
}

#[test]
fn a_page_that_must_be_zero_is_made_so() {
    let mut page = [1; WORDS];
    Pattern::new(1, 100).fill(&mut page, INDEX, ZERO_PAGE);
    assert_eq!(page, [0; WORDS]);
}

#[test]
fn pages_are_counted_across_the_hole() {
    let mut ram = Extents::new();
    ram.push(0x10_0800, 0x10_3fff); // two whole pages
    ram.push(4 << 30, (4 << 30) + 0x2000);
    assert_eq!((ram.pages(), ram.end()), (4, (4 << 30) + 0x2000));
    let addresses: Vec<u64> = (0..4).map(|page| ram.address(page)).collect();
    assert_eq!(addresses, [0x10_1000, 0x10_2000, 4 << 30, (4 << 30) + 0x1000]);
}

#[test]
fn what_is_cut_out_is_gone_whole_pages_wide() {
    let mut ram = Extents::new();
    ram.push(0x10_0000, 0x10_8000);
    ram.cut(0x10_2800, 0x10_3001);
    let addresses: Vec<u64> = (0..ram.pages()).map(|page| ram.address(page)).collect();
    assert_eq!(addresses, [0x10_0000, 0x10_1000, 0x10_4000, 0x10_5000, 0x10_6000, 0x10_7000]);
    ram.cut(0, u64::MAX);
    assert_eq!((ram.pages(), ram.end(), ram.take(1)), (0, 0, None));
}

#[test]
fn what_is_taken_comes_from_the_low_end() {
    let mut ram = Extents::new();
    ram.push(0x10_0000, 0x10_4000);
    ram.push(0x20_0000, 0x30_0000);
    assert_eq!(ram.take(4097), Some(0x10_0000));
    assert_eq!(ram.address(0), 0x10_2000);
    assert_eq!(ram.take(3 * 4096), None, "the first extent has two pages left");
    assert_eq!(ram.pages(), 2 + 256);
}

#[test]
fn overlapping_or_unordered_ram_is_not_counted_twice() {
    let mut ram = Extents::new();
    ram.push(0x20_0000, 0x30_0000);
    ram.push(0x28_0000, 0x40_0000);
    ram.push(0x10_0000, 0x20_0000);
    assert_eq!(ram.pages(), 256);
}

#[test]
fn the_image_is_an_elf_with_a_pvh_entry() {
    let image = include_bytes!(env!("WHIMBREL_TEST_GUEST"));
    assert_eq!(&image[..5], b"\x7fELF\x02");
    let note = [4u32, 8, 18].iter().flat_map(|word| word.to_le_bytes()).chain(*b"Xen\0").collect::<Vec<u8>>();
    let at = image.windows(16).position(|window| window == note).expect("a note XEN_ELFNOTE_PHYS32_ENTRY");
    let entry = u64::from_le_bytes(image[at + 16..at + 24].try_into().unwrap());
    assert!((1 << 20..4 << 20).contains(&entry), "entry at {entry:#x}");
}
