#![allow(clippy::unwrap_used)]

use vm_memory::{Bytes, GuestAddress};

use super::super::testing::{INDIRECT as IN, NEXT as N, RAM, Raw, WRITE as W, put_descriptor, ram};
use super::*;

const TABLE: u64 = 0x1000;
const OTHER: u64 = 0x8000;

fn raw(address: u64, bytes: u32, flags: u16, next: u16) -> Raw {
    Raw { address, bytes, flags, next }
}

/// Reads the chain from descriptor 0 of a table of four; `other` is an indirect table's content.
fn read(table: &[Raw], other: &[Raw]) -> Result<Chain, Broken> {
    let ram = ram();
    for (place, raws) in [(TABLE, table), (OTHER, other)] {
        for (index, raw) in (0..u32::MAX).zip(raws) {
            put_descriptor(ram.memory(), place, index as u16, *raw);
        }
    }
    Chain::read(ram.memory(), Table { address: TABLE, size: 4, indirect: true }, 0)
}

#[test]
fn a_chain_is_what_is_read_and_then_what_is_written() {
    let chain = read(&[raw(0x2000, 16, N, 2), raw(0, 0, 0, 0), raw(0x3000, 512, N | W, 3), raw(0x4000, 1, W, 0)], &[]);
    let chain = chain.unwrap();
    assert_eq!(chain.readable(), [Segment { address: 0x2000, bytes: 16 }]);
    assert_eq!((chain.readable_bytes(), chain.writable_bytes()), (16, 513));
}

#[test]
fn an_indirect_table_may_end_a_chain() {
    let table = [raw(0x2000, 16, N, 1), raw(OTHER, 32, IN | W, 0)];
    let chain = read(&table, &[raw(0x3000, 8, N, 1), raw(0x4000, 4, W, 0)]).unwrap();
    assert_eq!((chain.readable_bytes(), chain.writable_bytes()), (24, 4));
}

#[test]
fn what_cannot_be_right_is_refused() {
    for (table, other, words) in [
        (vec![raw(0x2000, 1, N, 1), raw(0x2000, 1, N, 0)], vec![], "goes round"),
        (vec![raw(0x2000, 1, N, 0)], vec![], "goes round"),
        (vec![raw(0x2000, 1, N, 4)], vec![], "descriptor 4 of a table of 4"),
        (vec![raw(RAM - 8, 16, 0, 0)], vec![], "not in RAM"),
        (vec![raw(0x2000, u32::MAX, W, 0)], vec![], "not in RAM"),
        (vec![raw(u64::MAX - 3, 16, 0, 0)], vec![], "not in RAM"),
        (vec![raw(0x2000, 1, N | W, 1), raw(0x2000, 1, 0, 0)], vec![], "for the device to read follows"),
        (vec![raw(OTHER, 17, IN, 0)], vec![], "17 bytes"),
        (vec![raw(OTHER, 0, IN, 0)], vec![], "0 bytes"),
        (vec![raw(OTHER, 16, IN | N, 1)], vec![], "where none may be"),
        (vec![raw(OTHER, 16, IN, 0)], vec![raw(OTHER, 16, IN, 0)], "where none may be"),
        (vec![raw(OTHER, 16 * 65535, IN, 0)], vec![raw(0x2000, 1, N, 0)], "goes round"),
        (vec![raw(RAM - 16, 16 * 65535, IN, 0)], vec![], "not in RAM"),
        (vec![raw(RAM, 32, IN, 0)], vec![], "not in RAM"),
    ] {
        let error = read(&table, &other).map(|_| format!("{table:?}")).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn an_indirect_table_of_65535_descriptors_is_not_followed_to_its_end() {
    let long: Vec<Raw> = (1..=u16::MAX).map(|next| raw(0x2000, 1, N, next)).collect();
    let error = read(&[raw(OTHER, 16 * 65535, IN, 0)], &long).unwrap_err().to_string();
    assert!(error.contains("goes round"), "{error}");
}

#[test]
fn indirect_tables_that_were_not_agreed_on_are_refused() {
    let ram = ram();
    put_descriptor(ram.memory(), TABLE, 0, raw(OTHER, 16, IN, 0));
    let table = Table { address: TABLE, size: 4, indirect: false };
    assert!(Chain::read(ram.memory(), table, 0).is_err());
    let nowhere = Table { address: u64::MAX - 8, size: 4, indirect: false };
    assert!(Chain::read(ram.memory(), nowhere, 1).is_err());
}

#[test]
fn bytes_go_in_and_out_across_segments() {
    let ram = ram();
    let memory = ram.memory();
    for (index, raw) in (0..).zip([
        raw(0x2000, 3, N, 1),
        raw(0x3000, 0, N, 2),
        raw(0x4000, 4, N, 3),
        raw(0x5000, 2, N | W, 4),
        raw(0x6000, 2, W, 0),
    ]) {
        put_descriptor(memory, TABLE, index, raw);
    }
    memory.write_slice(b"abc", GuestAddress(0x2000)).unwrap();
    memory.write_slice(b"defg", GuestAddress(0x4000)).unwrap();
    let chain = Chain::read(memory, Table { address: TABLE, size: 8, indirect: false }, 0).unwrap();
    let mut data = [0; 4];
    assert_eq!(chain.read_at(memory, 1, &mut data).unwrap(), 4);
    assert_eq!(&data, b"bcde");
    assert_eq!(chain.read_at(memory, 5, &mut data).unwrap(), 2);
    assert_eq!(&data[..2], b"fg");
    assert_eq!(chain.read_at(memory, 7, &mut data).unwrap(), 0);
    assert_eq!(chain.write_at(memory, 1, b"wxyz").unwrap(), 3);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0x5001)).unwrap(), b'w');
    assert_eq!(memory.read_obj::<[u8; 2]>(GuestAddress(0x6000)).unwrap(), *b"xy");
}
