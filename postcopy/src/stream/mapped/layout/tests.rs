use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::guest::Section;
use crate::ram::PageIndex;
use crate::wire::{BlockDescription, ChannelKind, Features, Token, VERSION_MAX};

fn hello() -> Hello {
    Hello {
        versions: (VERSION_MAX, VERSION_MAX),
        kind: ChannelKind::Control,
        recover: false,
        token: Token([7; 16]),
        features: Features::default(),
    }
}

fn introduction(pages: &[u64]) -> Vec<Forward> {
    let block = |(n, pages): (usize, &u64)| BlockDescription {
        name: format!("ram{n}"),
        guest_address: n as u64 * 0x1_0000,
        pages: *pages,
    };
    vec![
        Forward::Configuration(vec![("vcpus".into(), "1".into())]),
        Forward::Ram { page_size: 4096, blocks: pages.iter().enumerate().map(block).collect() },
        Forward::Description("{}".into()),
    ]
}

fn encoded(messages: &[Forward]) -> Vec<u8> {
    let mut bytes = Vec::new();
    messages.iter().for_each(|message| message.encode(&mut bytes));
    bytes
}

/// A whole file without contents: every third page is there.
struct Sample {
    base: usize,
    plan: Plan,
    bytes: Vec<u8>,
    tail: Vec<u8>,
}

impl Sample {
    fn new(base: usize, pages: &[u64]) -> Self {
        let messages = encoded(&introduction(pages));
        let plan = Plan::new(base as u64, messages.len() as u64, pages).unwrap();
        let state = Section { name: "vcpu".into(), instance: 0, version: 1, bytes: vec![9; 100] };
        let tail = encoded(&[Forward::State(vec![state]), Forward::HandOver { running: true }, Forward::Complete]);
        let mut sample = Self { base, bytes: vec![0; base + plan.tail as usize], plan, tail };
        sample.put(0, &hello().encode());
        sample.put(INTRODUCTION as usize, &messages);
        sample.rows(&sample.plan.rows.clone());
        for row in sample.plan.rows.clone() {
            let bits = PageBitmap::new(row.pages);
            for page in (0..row.pages).step_by(3) {
                bits.set(PageIndex(page));
            }
            let words: Vec<u8> = (0..bits.len_words()).flat_map(|word| bits.word(word).to_le_bytes()).collect();
            sample.put(row.bitmap as usize, &words);
        }
        sample.bytes.extend(sample.tail.clone());
        sample.mapped(sample.plan.mapped(Some(sample.tail.len() as u64)));
        sample
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[self.base + at..][..bytes.len()].copy_from_slice(bytes);
    }

    fn mapped(&mut self, mapped: Mapped) {
        self.put(Hello::LEN, &mapped.encode());
    }

    fn rows(&mut self, rows: &[Row]) {
        let mut table = Vec::new();
        rows.iter().for_each(|row| row.encode(&mut table));
        self.put(self.plan.table as usize, &table);
    }

    fn read(&self) -> Result<Option<Layout>, ChannelError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&self.bytes).unwrap();
        Layout::of(&file, self.base as u64)
    }

    fn refusal(&self) -> String {
        crate::error::sentence(&self.read().err().expect("it is read"))
    }
}

#[test]
fn exact_bytes_of_header_and_row() {
    let mapped = Mapped { blocks: 2, table: 0x1234, tail: Some((0x10_0000, 0x42)) };
    let mut wanted = vec![21, 0, 0, 0, 32, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0x34, 0x12, 0, 0, 0, 0, 0, 0];
    wanted.extend([0, 0, 0x10, 0, 0, 0, 0, 0, 0x42, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(mapped.encode().to_vec(), wanted);
    assert_eq!(Mapped::decode(&mapped.encode()).unwrap().unwrap(), mapped);
    let mut row = Vec::new();
    Row { pages: 65, bitmap: 0x99, area: 0x20_0000 }.encode(&mut row);
    let wanted = [65u64, 0x99, 16, 0x20_0000].map(u64::to_le_bytes).concat();
    assert_eq!(row, wanted);
}

#[test]
fn pages_begin_at_multiples_of_a_mebibyte_of_the_file() {
    for base in [0, 1, 4096, ALIGNMENT - 1, ALIGNMENT] {
        let plan = Plan::new(base, 1000, &[1, 256, 257, 0, 1]).unwrap();
        assert!(plan.rows.iter().all(|row| (base + row.area).is_multiple_of(ALIGNMENT)), "{base}");
        let pages: u64 = plan.rows.iter().map(|row| row.pages).sum();
        assert!(plan.tail <= pages * 4096 + 5 * ALIGNMENT);
    }
    assert_eq!(Plan::new(0, 0, &[u64::MAX / 4096]), None);
    assert_eq!(Plan::new(i64::MAX as u64, 0, &[1]), None);
}

#[test]
fn what_was_written_is_read() {
    for base in [0, 1000] {
        let sample = Sample::new(base, &[300, 64, 1]);
        let layout = sample.read().unwrap().unwrap();
        assert_eq!(layout.introduction, introduction(&[300, 64, 1]));
        assert!(layout.running);
        assert_eq!(layout.areas.iter().map(|area| area.present.count()).collect::<Vec<_>>(), [100, 22, 1]);
        assert_eq!(layout.areas[1].at, base as u64 + sample.plan.rows[1].area);
    }
}

#[test]
fn another_layout_is_not_taken_for_this() {
    for bytes in [Vec::new(), vec![b'x'; 30], vec![0; 4096], [&hello().encode()[..], &[1; 200]].concat()] {
        let sample = Sample { bytes, ..Sample::new(0, &[1]) };
        assert!(sample.read().unwrap().is_none());
    }
}

#[test]
fn a_file_without_its_end_is_no_guest_s() {
    let sample = Sample::new(1000, &[300, 1]);
    for cut in 1..=sample.tail.len() {
        let sample =
            Sample { bytes: sample.bytes[..sample.bytes.len() - cut].to_vec(), ..Sample::new(1000, &[300, 1]) };
        assert!(sample.refusal().contains("it was cut"));
    }
    let mut sample = sample;
    sample.mapped(sample.plan.mapped(None));
    assert!(sample.refusal().contains("not written to its end"));
}

#[test]
fn parts_that_stand_on_each_other_or_beyond_the_file_are_refused() {
    let rows = Sample::new(0, &[300, 64]).plan.rows;
    let area = |block: usize, area: u64| {
        let mut rows = rows.clone();
        rows[block].area = area;
        rows
    };
    let bitmap = |block: usize, bitmap: u64| {
        let mut rows = rows.clone();
        rows[block].bitmap = bitmap;
        rows
    };
    let (first, second) = (rows[0], rows[1]);
    for (rows, why) in [
        (area(1, first.area), "on each other"),
        (area(1, first.area + 299 * 4096), "on each other"),
        (area(0, 0), "on each other"),
        (area(0, first.bitmap), "on each other"),
        (area(1, second.area + 4096), "on each other"),
        (area(1, u64::MAX), "beyond any file"),
        (area(1, u64::MAX - 64 * 4096), "behind its tail"),
        (bitmap(0, second.bitmap), "on each other"),
        (bitmap(1, first.area), "on each other"),
        (bitmap(1, u64::MAX), "beyond any file"),
        (bitmap(1, 1 << 60), "behind its tail"),
    ] {
        let mut sample = Sample::new(0, &[300, 64]);
        sample.rows(&rows);
        let refusal = sample.refusal();
        assert!(refusal.contains(why), "{rows:?}: {refusal}");
    }
}

#[test]
fn a_lying_header_is_refused_by_name() {
    let whole = Sample::new(0, &[300, 64]);
    let mapped = whole.plan.mapped(Some(whole.tail.len() as u64));
    let (tail, length) = mapped.tail.unwrap();
    for (mapped, why) in [
        (Mapped { blocks: 1, ..mapped }, "1 blocks, its guest 2"),
        (Mapped { blocks: u32::MAX, ..mapped }, "its guest 2"),
        (Mapped { table: 0, ..mapped }, "its table cannot stand"),
        (Mapped { table: u64::MAX, ..mapped }, "its table cannot stand"),
        (Mapped { table: mapped.table + 1, ..mapped }, "ends in its header"),
        (Mapped { table: mapped.table - 1, ..mapped }, "is not of the protocol"),
        (Mapped { tail: Some((tail, u64::MAX)), ..mapped }, "no 18446744073709551615 bytes"),
        (Mapped { tail: Some((u64::MAX, length)), ..mapped }, "beyond any file"),
        (Mapped { tail: Some((tail, length - 1)), ..mapped }, "is damaged"),
        (Mapped { tail: Some((tail + 1, length - 1)), ..mapped }, "is not of the protocol"),
        (Mapped { tail: Some((INTRODUCTION, length)), ..mapped }, "on each other"),
    ] {
        let mut sample = Sample::new(0, &[300, 64]);
        sample.mapped(mapped);
        let refusal = sample.refusal();
        assert!(refusal.contains(why), "{mapped:?}: {refusal}");
    }
}

#[test]
fn a_lying_table_is_refused_by_name() {
    let mut sample = Sample::new(0, &[300, 64]);
    let (table, rows) = (sample.plan.table as usize, sample.plan.rows.clone());
    // The bitmap's length.
    sample.put(table + 16, &7u64.to_le_bytes());
    assert!(sample.refusal().contains("a bitmap of 7 bytes"));
    sample.rows(&[Row { pages: 299, ..rows[0] }, rows[1]]);
    assert!(sample.refusal().contains("the pages of block 0"));
    sample.rows(&[Row { pages: u64::MAX, ..rows[0] }, rows[1]]);
    assert!(sample.refusal().contains("18446744073709551615 pages"));
    sample.rows(&rows);
    // A page behind the last.
    sample.put(rows[0].bitmap as usize + 4 * 8, &u64::MAX.to_le_bytes());
    assert!(sample.refusal().contains("a bitmap has pages"));
}

#[test]
fn too_much_ram_is_refused_before_it_is_believed() {
    let mut sample = Sample::new(0, &[1, 1]);
    let messages = encoded(&introduction(&[MOST_PAGES, 1]));
    sample.put(INTRODUCTION as usize, &messages);
    assert!(sample.refusal().contains("more RAM than any"));
    sample.put(INTRODUCTION as usize, &encoded(&introduction(&[u64::MAX, 1])));
    assert!(sample.refusal().contains("more RAM than any"));
}

proptest! {
    /// Whatever bytes are changed: it is read, with parts that are apart, or it is refused.
    #[test]
    fn damage_is_an_error_and_no_more(
        changes in proptest::collection::vec((0usize..700, any::<u8>()), 1..6), cut in 0usize..300,
    ) {
        let mut sample = Sample::new(0, &[70, 3]);
        for (at, byte) in changes {
            sample.bytes[at] = byte;
        }
        let length = sample.bytes.len();
        sample.bytes.truncate(length - cut);
        if let Ok(Some(layout)) = sample.read() {
            prop_assert_eq!(cut, 0);
            let mut ends: Vec<_> =
                layout.areas.iter().map(|area| (area.at, area.at + area.present.pages() * 4096)).collect();
            ends.sort_unstable();
            prop_assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0));
            prop_assert!(ends.iter().all(|(_, end)| *end <= length as u64));
        }
    }

    /// Numbers near every edge, in every field of header and table.
    #[test]
    fn lying_numbers_are_an_error_and_no_more(
        field in 0usize..12, value in prop_oneof![any::<u64>(), 0u64..5000, (0u64..64).prop_map(|bit| 1 << bit)],
    ) {
        let mut sample = Sample::new(0, &[70, 3]);
        let at = match field {
            0..4 => Hello::LEN + Header::LEN + field * 8,
            _ => sample.plan.table as usize + (field - 4) * 8,
        };
        let before = sample.bytes[at..at + 8].to_vec();
        sample.put(at, &value.to_le_bytes());
        let same = before == value.to_le_bytes();
        match sample.read() {
            Ok(layout) => prop_assert!(same || layout.is_some()),
            Err(_) => prop_assert!(!same),
        }
    }
}
