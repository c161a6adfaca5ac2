use super::*;
use crate::encoding::Codec;
use crate::ram::{BlockId, PageIndex, PageRun};
use crate::wire::Fragment;

fn run(block: u16, start: u64, count: u32) -> PageRun {
    PageRun { block: BlockId(block), start: PageIndex(start), count }
}

fn forwards() -> Vec<Forward> {
    vec![
        Forward::Configuration(vec![("vcpus".into(), "2".into()), ("memory".into(), "512M".into())]),
        Forward::Ram {
            page_size: 4096,
            blocks: vec![BlockDescription { name: "ram.low".into(), guest_address: 0, pages: 4096 }],
        },
        Forward::Description("{}".into()),
        Forward::PassBegin(1),
        Forward::PassEnd(1),
        Forward::Pages(run(0, 7, 3)),
        Forward::Zeros(vec![run(0, 0, 9000), run(1, 5, 1)]),
        Forward::Discard(Fragment { block: BlockId(1), first_word: 3, words: vec![1, u64::MAX] }),
        Forward::Listen,
        Forward::State(vec![Section { name: "vcpu".into(), instance: 1, version: 2, bytes: vec![1, 2, 3] }]),
        Forward::HandOver { running: true },
        Forward::Complete,
        Forward::Cancel("because".into()),
        Forward::Barrier(7),
        Forward::MultifdStart,
        Forward::MultifdFlush,
        Forward::Goodbye,
        Forward::SharedRam(2),
        Forward::Compressed { run: run(0, 7, 3), codec: Codec::Zstd, length: 77 },
        Forward::Xbzrle { run: run(0, 7, 3), length: 8 },
    ]
}

fn replies() -> Vec<Reply> {
    vec![
        Reply::Accepted,
        Reply::Listening,
        Reply::Ready,
        Reply::Running,
        Reply::NotStarted("no memory".into()),
        Reply::AllReceived,
        Reply::Received(Fragment { block: BlockId(0), first_word: 0, words: vec![5] }),
        Reply::ReceivedEnd,
        Reply::BarrierAck(7),
    ]
}

fn split(bytes: &[u8]) -> (Header, &[u8]) {
    let header = Header::decode(bytes[..Header::LEN].try_into().unwrap()).unwrap();
    (header, &bytes[Header::LEN..])
}

fn encoded<T>(message: &T, encode: impl Fn(&T, &mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(message, &mut bytes);
    bytes
}

#[test]
fn exact_bytes_of_the_hot_messages() {
    let pages = encoded(&Forward::Pages(run(1, 0x1_0000_0002, 1)), Forward::encode);
    assert_eq!(pages, [6, 0, 0, 0, 0x10, 0x10, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]);
    let request = encoded(&Request(vec![run(0, 9, 2)]), Request::encode);
    assert_eq!(request, [128, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    let packed = encoded(&Forward::Compressed { run: run(0, 9, 2), codec: Codec::Zstd, length: 256 }, Forward::encode);
    let run_bytes = [0, 0, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(packed, [&[18, 0, 0, 0, 20, 1, 0, 0][..], &run_bytes, &[2, 0, 0, 0]].concat());
    let delta = encoded(&Forward::Xbzrle { run: run(0, 9, 2), length: 4 }, Forward::encode);
    assert_eq!(delta, [&[19, 0, 0, 0, 20, 0, 0, 0][..], &run_bytes].concat());
    assert_eq!(encoded(&Reply::Ready, Reply::encode), [66, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(encoded(&Forward::HandOver { running: true }, Forward::encode), [11, 0, 0, 0, 1, 0, 0, 0, 1]);
}

#[test]
fn every_message_survives_the_round_trip() {
    for message in forwards() {
        let bytes = encoded(&message, Forward::encode);
        let (header, fields) = split(&bytes);
        assert_eq!(fields.len(), header.fields());
        assert_eq!(decode_forward(header, fields), Ok(message));
    }
    for message in replies() {
        let bytes = encoded(&message, Reply::encode);
        let (header, fields) = split(&bytes);
        assert_eq!(decode_reply(header, fields), Ok(message));
    }
    let request = Request(vec![run(3, 1, 1), run(0, 2, 1024)]);
    let bytes = encoded(&request, Request::encode);
    let (header, fields) = split(&bytes);
    assert_eq!(Request::decode(header, fields), Ok(request));
}

#[test]
fn every_truncation_of_every_message_is_an_error() {
    for message in forwards() {
        let bytes = encoded(&message, Forward::encode);
        let (header, fields) = split(&bytes);
        for end in 0..fields.len() {
            let cut = Header { tag: header.tag, length: header.length.min(end as u32) };
            let result = decode_forward(cut, &fields[..end]);
            // The texts to the end of a message are as long as the message says.
            let is_text = matches!(message, Forward::Description(_) | Forward::Cancel(_));
            // A list of runs cut between two runs is a shorter list.
            let is_list = matches!(message, Forward::Zeros(_)) && end > 0 && end % RUN_LEN == 0;
            assert_eq!(result.is_ok(), is_text || is_list, "{message:?} cut at {end}: {result:?}");
        }
    }
}

#[test]
fn lengths_are_judged_before_the_body() {
    for tag in 0..200u16 {
        let mut bytes = [0xff; Header::LEN];
        bytes[..2].copy_from_slice(&tag.to_le_bytes());
        bytes[2..4].fill(0);
        match Header::decode(bytes) {
            Err(DecodeError::Unknown(_)) => assert!(longest(tag).is_none()),
            Err(DecodeError::TooLong { .. }) => assert!(longest(tag).is_some()),
            other => panic!("message {tag} with an absurd length gave {other:?}"),
        }
    }
}

#[test]
fn lying_counts_and_impossible_fields_are_named() {
    let lie = |tag: u16, fields: &[u8]| decode_forward(Header { tag, length: fields.len() as u32 }, fields);
    assert_eq!(lie(tag::STATE, &u32::MAX.to_le_bytes()), Err(DecodeError::Field { tag: tag::STATE, field: "count" }));
    assert_eq!(lie(tag::HAND_OVER, &[2]), Err(DecodeError::Field { tag: tag::HAND_OVER, field: "run state" }));
    assert_eq!(lie(tag::ZEROS, &[0; 16]), Err(DecodeError::Field { tag: tag::ZEROS, field: "page count" }));
    let mut overflow = encoded(&Forward::Zeros(vec![run(0, u64::MAX, 1)]), Forward::encode).split_off(Header::LEN);
    assert_eq!(lie(tag::ZEROS, &overflow), Err(DecodeError::Field { tag: tag::ZEROS, field: "page count" }));
    overflow[0..4].copy_from_slice(&70_000u32.to_le_bytes());
    assert_eq!(lie(tag::ZEROS, &overflow), Err(DecodeError::Field { tag: tag::ZEROS, field: "block number" }));
    let pages = Header { tag: tag::PAGES, length: 16 + 4096 };
    let two = encoded(&Forward::Pages(run(0, 0, 2)), Forward::encode);
    assert_eq!(decode_forward(pages, &two[8..24]), Err(DecodeError::Field { tag: tag::PAGES, field: "length" }));
    let short = encoded(&Forward::Compressed { run: run(0, 0, 1), codec: Codec::Zlib, length: 0 }, Forward::encode);
    let packed = |length, fields: &[u8]| decode_forward(Header { tag: tag::COMPRESSED, length }, fields);
    assert!(packed(20 + 4095, &short[8..]).is_ok());
    assert_eq!(packed(20 + 4096, &short[8..]), Err(DecodeError::Field { tag: tag::COMPRESSED, field: "length" }));
    let other = [&short[8..24], &[3, 0, 0, 0]].concat();
    assert_eq!(packed(20, &other), Err(DecodeError::Field { tag: tag::COMPRESSED, field: "codec" }));
    let long = encoded(&Forward::Xbzrle { run: run(0, 0, 65), length: 130 }, Forward::encode);
    let delta = |length, fields: &[u8]| decode_forward(Header { tag: tag::XBZRLE, length }, fields);
    assert_eq!(delta(16 + 130, &long[8..]), Err(DecodeError::Field { tag: tag::XBZRLE, field: "page count" }));
    for (length, whole) in [(1, false), (2, true), (4097, true), (4098, false)] {
        assert_eq!(delta(16 + length, &short[8..24]).is_ok(), whole, "changes of {length} bytes");
    }
    for tag in [tag::COMPRESSED, tag::XBZRLE] {
        assert_eq!(decode_demand(Header { tag, length: 20 }, &short[8..]), Err(DecodeError::Unknown(tag)));
    }
    let fields = Header { tag: tag::XBZRLE, length: 18 };
    assert_eq!(decode_multifd(fields, &short[8..24]), Err(DecodeError::Unknown(tag::XBZRLE)));
    assert_eq!(decode_demand(Header { tag: tag::LISTEN, length: 0 }, &[]), Err(DecodeError::Unknown(tag::LISTEN)));
    assert_eq!(
        decode_reply(Header { tag: tag::READY, length: 1 }, &[0]),
        Err(DecodeError::Rest { tag: tag::READY, rest: 1 })
    );
}

#[test]
fn many_empty_entries_are_too_many() {
    let sections = |count: usize| {
        let empty = Section { name: String::new(), instance: 0, version: 0, bytes: Vec::new() };
        let bytes = encoded(&Forward::State(vec![empty; count]), Forward::encode);
        let (header, fields) = split(&bytes);
        decode_forward(header, fields).map(drop)
    };
    assert_eq!(sections(MAX_ENTRIES), Ok(()));
    assert_eq!(sections(MAX_ENTRIES + 1), Err(DecodeError::Field { tag: tag::STATE, field: "count" }));
}

/// Fuzzing found that the reason of a cancel went out whole however long it was: the destination
/// refused the message as too long, and its user read that instead of the reason.
#[test]
fn a_long_reason_is_cut_between_characters_and_arrives() {
    let long = "ä".repeat(3000);
    let bytes = encoded(&Forward::Cancel(long.clone()), Forward::encode);
    let (header, fields) = split(&bytes);
    assert_eq!(Header::decode(*bytes.first_chunk().unwrap()), Ok(header));
    assert_eq!(decode_forward(header, fields), Ok(Forward::Cancel("ä".repeat(2048))));
    // One byte before the limit would be inside a character.
    let bytes = encoded(&Reply::NotStarted(format!("x{long}")), Reply::encode);
    let (header, fields) = split(&bytes);
    assert_eq!(decode_reply(header, fields), Ok(Reply::NotStarted(format!("x{}", "ä".repeat(2047)))));
}

#[test]
fn every_number_has_a_name_of_its_own() {
    for (index, (number, name)) in tag::NAMES.iter().enumerate() {
        assert!(longest(*number).is_some(), "{name} has no limit");
        assert!(tag::NAMES[..index].iter().all(|(other, text)| other != number && text != name));
    }
}
