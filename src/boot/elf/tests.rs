#![allow(clippy::unwrap_used)]

use super::*;
use crate::boot::testing::{ElfParts, note, padded_note, pvh_note};

const ENTRY: u64 = 0x10_0000;

fn good() -> ElfParts {
    ElfParts::pvh(ENTRY, b"code")
}

fn entry_of(parts: &ElfParts) -> Result<Option<u64>, Fault> {
    let file = parts.build();
    Elf::read(&file)?.pvh_entry()
}

fn foreign(bytes: &[u8]) -> String {
    match Elf::read(bytes).err() {
        Some(Fault::Foreign(what)) => what,
        other => panic!("{other:?}"),
    }
}

fn damage(parts: &ElfParts) -> String {
    let file = parts.build();
    match Elf::read(&file).unwrap().segments().err() {
        Some(Fault::Damaged(what)) => what,
        other => panic!("{other:?}"),
    }
}

/// What gcc and ld put beside a kernel's own notes.
fn others() -> [Vec<u8>; 2] {
    [padded_note(b"GNU\0", 5, &[0; 16], 8), note(b"GNU\0", 3, &[7; 20])]
}

#[test]
fn the_pvh_note_is_found_in_whichever_note_segment_it_is() {
    for at in 0..3 {
        let mut parts = good();
        parts.headers.remove(0);
        for (number, other) in others().iter().enumerate() {
            parts.headers.push(ElfParts::notes([8, 4][number], other));
        }
        parts.headers.insert(at, ElfParts::notes(4, &pvh_note(ENTRY as u32)));
        assert_eq!(entry_of(&parts), Ok(Some(ENTRY)), "in place {at}");
    }
}

#[test]
fn the_pvh_note_is_found_behind_and_before_others_in_one_segment() {
    let notes =
        [note(b"Linux\0", 0x101, &[1; 3]), note(b"", 1, &[]), pvh_note(ENTRY as u32), note(b"GNU\0", 3, &[7; 20])];
    let mut parts = good();
    parts.headers[0] = ElfParts::notes(4, &notes.concat());
    assert_eq!(entry_of(&parts), Ok(Some(ENTRY)));
}

#[test]
fn notes_of_every_alignment_are_read() {
    for alignment in [0, 1, 2, 4, 8, 16, 4096] {
        for padding in if alignment >= 8 { vec![4, 8] } else { vec![4] } {
            let notes = [
                padded_note(b"Linux\0", 1, &[1; 3], padding),
                padded_note(b"Xen\0", 18, &(ENTRY as u32).to_le_bytes(), padding),
            ];
            let mut parts = good();
            parts.headers[0] = ElfParts::notes(alignment, &notes.concat());
            assert_eq!(entry_of(&parts), Ok(Some(ENTRY)), "alignment {alignment}, padded to {padding}");
            // At an odd place in the file: the padding counts from the segment's start.
            parts.headers.insert(0, (0, 0, 0, 1, vec![0; 3]));
            assert_eq!(entry_of(&parts), Ok(Some(ENTRY)), "alignment {alignment}, padded to {padding}, odd");
        }
    }
}

#[test]
fn a_note_in_a_section_only_counts_too() {
    for wide in [false, true] {
        let mut parts = good();
        parts.wide = wide;
        parts.headers.remove(0);
        parts.sections = vec![note(b"GNU\0", 3, &[7; 20]), pvh_note(ENTRY as u32)];
        assert_eq!(entry_of(&parts), Ok(Some(ENTRY)), "wide {wide}");
        parts.sections.pop();
        assert_eq!(entry_of(&parts), Ok(None), "wide {wide}");
    }
}

#[test]
fn both_widths_of_the_entry_are_read_and_no_other() {
    let with = |contents: &[u8]| {
        let mut parts = good();
        parts.headers[0] = ElfParts::notes(4, &note(b"Xen\0", 18, contents));
        entry_of(&parts)
    };
    assert_eq!(with(&ENTRY.to_le_bytes()), Ok(Some(ENTRY)));
    assert!(matches!(with(&[1, 2]), Err(Fault::Damaged(what)) if what.contains("2 bytes")));
    assert!(matches!(with(&(1u64 << 32).to_le_bytes()), Err(Fault::Damaged(what)) if what.contains("above 4 GiB")));
}

#[test]
fn what_is_no_note_of_xens_is_no_entry() {
    for other in [
        note(b"Xen", 18, &[0; 4]),
        note(b"XEN\0", 18, &[0; 4]),
        note(b"Xen\0", 17, &[0; 4]),
        vec![0xff; 64],
        vec![0; 7],
    ] {
        let mut parts = good();
        parts.headers[0] = ElfParts::notes(4, &other);
        assert_eq!(entry_of(&parts), Ok(None), "{other:?}");
    }
}

#[test]
fn a_32_bit_elf_is_read_as_one() {
    let mut parts = good();
    parts.wide = false;
    parts.kind = [2, 3];
    parts.headers.push((1, 0x20_0000, 0x5000, 4, b"data".to_vec()));
    let file = parts.build();
    let elf = Elf::read(&file).unwrap();
    assert_eq!(elf.pvh_entry(), Ok(Some(ENTRY)));
    let segments = elf.segments().unwrap();
    assert_eq!(segments[1], Segment { address: 0x20_0000, contents: b"data", memory_bytes: 0x5000 });
}

#[test]
fn segments_without_memory_are_none_wherever_they_are_and_order_does_not_matter() {
    let mut parts = good();
    parts.headers.insert(0, (1, u64::MAX - 5, 0, 1, Vec::new()));
    parts.headers.push((1, 0x8000, 0x1000, 1, b"low".to_vec()));
    let file = parts.build();
    let segments = Elf::read(&file).unwrap().segments().unwrap();
    assert_eq!(segments.iter().map(|it| it.address).collect::<Vec<_>>(), [ENTRY, 0x8000]);
}

#[test]
fn headers_that_contradict_themselves_are_told_as_that() {
    let mut parts = good();
    parts.headers.push((1, 0x30_0000, 3, 1, b"four".to_vec()));
    assert!(damage(&parts).contains("4 bytes in the file and 3 in memory"));
    let mut parts = good();
    parts.headers.push((1, ENTRY + 3, 0x1000, 1, Vec::new()));
    assert!(damage(&parts).contains("0x100000 and 0x100003 overlap"));
    parts.headers[2].1 = ENTRY + 4;
    assert!(Elf::read(&parts.build()).unwrap().segments().is_ok(), "neighbours do not overlap");
    let mut parts = good();
    parts.headers.pop();
    assert!(damage(&parts).contains("no segment"));
    let mut file = good().build();
    file[54] = 57;
    assert!(matches!(Elf::read(&file).unwrap().segments(), Err(Fault::Damaged(what)) if what.contains("57 bytes")));
}

#[test]
fn a_file_that_ends_early_is_cut_off_and_says_how_long_it_should_be() {
    let whole = good().build();
    let try_all = |file: &[u8]| {
        let elf = Elf::read(file)?;
        elf.pvh_entry()?;
        elf.segments().map(|_| ())
    };
    assert_eq!(try_all(&whole), Ok(()));
    for length in 4..whole.len() {
        let Err(Fault::CutOff(wanted)) = try_all(&whole[..length]) else { panic!("{length} bytes") };
        assert!(wanted > length as u64 && wanted <= whole.len() as u64, "{length}: {wanted}");
    }
}

#[test]
fn elfs_of_other_machines_are_named() {
    let mut parts = good();
    parts.kind[1] = 183;
    assert_eq!(foreign(&parts.build()), "an ELF for another machine: 64-bit, little-endian, AArch64");
    parts.wide = false;
    parts.kind[1] = 9999;
    assert_eq!(foreign(&parts.build()), "an ELF for another machine: 32-bit, little-endian, machine 9999");
    let mut big = good().build();
    big[5] = 2;
    big[16..20].copy_from_slice(&[0, 2, 0, 22]);
    assert_eq!(foreign(&big), "an ELF for another machine: 64-bit, big-endian, S/390");
}

#[test]
fn elfs_that_are_no_programs_are_named() {
    for (kind, word) in [(1, "kernel module"), (4, "core dump"), (7, "type 7")] {
        let mut parts = good();
        parts.kind[0] = kind;
        assert!(foreign(&parts.build()).contains(word));
    }
}
