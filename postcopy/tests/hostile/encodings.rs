//! The destination's driver meets a source that lies about compressed pages and about what has
//! changed of pages.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use whimbrel_postcopy::encoding::Codec;
use whimbrel_postcopy::ram::{PAGE_SIZE, PageRun};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::wire::{ChannelKind, Forward, tag};

use crate::false_source::{Arrival, BLOCKS, all_zeros, run, state};
use crate::peer::{forward, hang_up, header, introduction, read_message, read_until, resident, say};

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
    zlib.write_all(bytes).unwrap();
    zlib.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 19).unwrap()
}

fn packed(run: PageRun, codec: Codec, contents: &[u8]) -> Vec<u8> {
    let message = Forward::Compressed { run, codec, length: contents.len() as u32 };
    [forward(&message), contents.to_vec()].concat()
}

fn delta(run: PageRun, contents: &[u8]) -> Vec<u8> {
    let message = Forward::Xbzrle { run, length: contents.len() as u32 };
    [forward(&message), contents.to_vec()].concat()
}

/// What stands for compressed pages, and a part of the sentence that it must get.
fn packed_lies() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let (page, bomb) = (vec![7; PAGE_SIZE], vec![0; 16 << 20]);
    let (z, s) = (Codec::Zlib, Codec::Zstd);
    // Says how much it holds, and does not.
    let claims = zstd(&bomb);
    let silent = zstd::stream::encode_all(&bomb[..], 19).unwrap();
    let mut damaged = zlib(&page);
    damaged.iter_mut().skip(2).for_each(|byte| *byte ^= 0x5a);
    let other = [&packed(run(0, 0, 1), z, &zlib(&page))[..24], &[9, 0, 0, 0]].concat();
    vec![
        ("past the end", packed(run(0, 2, 2), z, &zlib(&page)), "block 0 pages 2+2, which this guest does not have"),
        ("no such block", packed(run(9, 0, 1), s, &zstd(&page)), "block 9 pages 0+1"),
        ("an unknown codec", [other, zlib(&page)].concat(), "'packed' has an impossible codec"),
        ("as long as its pages", packed(run(0, 0, 1), z, &page), "'packed' has an impossible length"),
        ("too many pages", packed(run(0, 0, 65), z, &page), "'packed' has an impossible page count"),
        ("a giant", header(tag::COMPRESSED, 0, 1 << 20), "message 'packed' claims 1048576 bytes"),
        ("a bomb of zlib", packed(run(0, 0, 3), z, &zlib(&bomb[..2 << 20])), "unpack to more than their 12288 bytes"),
        ("a bomb of zstd", packed(run(0, 0, 1), s, &claims), "unpack to more than their 4096 bytes"),
        ("a silent bomb", packed(run(0, 0, 1), s, &silent), "they do not unpack"),
        ("too little", packed(run(0, 0, 2), s, &zstd(&page)), "unpack to 4096 bytes, not to their 8192"),
        ("too little of zlib", packed(run(0, 0, 2), z, &zlib(&page)), "unpack to 4096 bytes, not to their 8192"),
        ("more behind", packed(run(0, 0, 1), z, &[zlib(&page), vec![1, 2]].concat()), "2 bytes stand behind them"),
        ("twice", packed(run(0, 0, 2), s, &[zstd(&page), zstd(&page)].concat()), "bytes stand behind them"),
        ("damaged", packed(run(0, 0, 1), z, &damaged), "they do not unpack"),
        ("the other codec", packed(run(0, 0, 1), s, &zlib(&page)), "they do not unpack"),
        ("nothing", packed(run(0, 0, 1), z, &[]), "they do not unpack"),
        ("half of it", packed(run(0, 0, 1), z, &zlib(&page))[..30].to_vec(), "in the middle of message 'packed'"),
    ]
}

fn delta_lies() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let zeros = |lie: Vec<u8>| [all_zeros(), lie].concat();
    vec![
        ("never came", delta(run(0, 0, 1), &[0, 0]), "they are said to have changed, and never came"),
        (
            "one never came",
            [forward(&Forward::Zeros(vec![run(0, 0, 2)])), delta(run(0, 0, 3), &[0; 6])].concat(),
            "never came",
        ),
        ("past the end", zeros(delta(run(1, 1, 2), &[0; 4])), "block 1 pages 1+2, which this guest does not have"),
        ("too many pages", zeros(delta(run(0, 0, 65), &[0; 130])), "'delta' has an impossible page count"),
        ("too short", zeros(delta(run(0, 0, 2), &[0; 3])), "'delta' has an impossible length"),
        ("too long", zeros(delta(run(0, 0, 1), &[0; 4098])), "'delta' has an impossible length"),
        ("a length that lies", zeros(delta(run(0, 0, 1), &[3, 0, 0, 1])), "ends in the middle"),
        ("no length for the last", zeros(delta(run(0, 0, 2), &[2, 0, 0, 0])), "outside the page"),
        ("more behind", zeros(delta(run(0, 0, 1), &[0, 0, 5])), "1 bytes stand behind them"),
        ("out of the page", zeros(delta(run(0, 0, 1), &[4, 0, 0x80, 32, 1, 9])), "lies outside the page"),
        ("over the end", zeros(delta(run(0, 0, 1), &[5, 0, 0xff, 31, 2, 9, 9])), "lies outside the page"),
        ("half of a change", zeros(delta(run(0, 0, 1), &[3, 0, 0, 2, 9])), "ends in the middle"),
        ("half of it", zeros(delta(run(0, 0, 1), &[3, 0, 0, 1, 9])[..26].to_vec()), "in the middle of message 'delta'"),
        ("armed", [all_zeros(), forward(&Forward::Listen), delta(run(0, 0, 1), &[0, 0])].concat(), "'delta' where"),
        ("loaded", [all_zeros(), state(), delta(run(0, 0, 1), &[0, 0])].concat(), "'delta' where"),
    ]
}

#[test]
fn every_lie_is_named_costs_no_memory_and_nothing_runs() {
    for (what, lie, sentence) in packed_lies().into_iter().chain(delta_lies()) {
        let arrival = Arrival::new();
        let (mut control, _demand) = arrival.channels();
        say(&mut control, &introduction(&BLOCKS));
        assert_eq!(read_message(&mut control).unwrap().0, tag::ACCEPTED);
        let before = resident();
        say(&mut control, &lie);
        hang_up(&control);
        let error = arrival.failed(&mut control, what);
        assert!(error.contains(sentence), "{what}: '{error}' does not say '{sentence}'");
        assert!(!error.contains('\n') && error.len() < 300, "{what}: no sentence: {error}");
        // Other tests run beside this one.
        assert!(resident() < before + (12 << 20), "{what} made the destination hold what it claims");
    }
}

#[test]
fn lies_on_a_multifd_channel_are_named_and_changes_have_no_place_there() {
    let mut lies = packed_lies();
    lies.push(("a delta", delta(run(0, 0, 1), &[0, 0]), "message number 19 is unknown here"));
    for (what, lie, sentence) in lies {
        let arrival = Arrival::new();
        let mut control = arrival.open(ChannelKind::Control);
        let mut multifd = arrival.open(ChannelKind::Multifd);
        let _demand = arrival.open(ChannelKind::Demand);
        say(&mut control, &introduction(&BLOCKS));
        read_until(&mut control, tag::ACCEPTED);
        say(&mut control, &[forward(&Forward::MultifdStart), forward(&Forward::MultifdFlush)].concat());
        say(&mut multifd, &lie);
        hang_up(&multifd);
        let error = arrival.failed(&mut control, what);
        assert!(error.contains(sentence), "{what}: '{error}' does not say '{sentence}'");
    }
}

/// The guest that runs here is kept, and the page comes with the next link.
#[test]
fn a_bomb_in_a_postcopy_pauses_it() {
    let arrival = Arrival::new();
    let (mut control, _demand) = arrival.channels();
    say(&mut control, &[introduction(&BLOCKS), forward(&Forward::Listen), state()].concat());
    read_until(&mut control, tag::READY);
    say(&mut control, &forward(&Forward::HandOver { running: true }));
    read_until(&mut control, tag::RUNNING);
    say(&mut control, &packed(run(0, 0, 1), Codec::Zstd, &zstd(&vec![0; 1 << 20])));
    arrival.watch.until(&[Status::PostcopyPaused]);
    let error = arrival.handle.report().error.unwrap();
    assert!(error.contains("block 0 pages 0+1 in a way that cannot be read: they unpack to more"), "{error}");
    assert!(arrival.guest.is_running());
    let mut arrival = arrival;
    arrival.handle.abandon();
}

#[test]
fn an_honest_source_is_understood_to_the_byte() {
    let mut arrival = Arrival::new();
    let (mut control, _demand) = arrival.channels();
    let page: Vec<u8> = (0..PAGE_SIZE).map(|at| (at / 100) as u8).collect();
    let said = [
        introduction(&BLOCKS),
        packed(run(0, 0, 2), Codec::Zlib, &zlib(&page.repeat(2))),
        packed(run(0, 2, 1), Codec::Zstd, &zstd(&page)),
        forward(&Forward::Zeros(vec![run(1, 0, 2)])),
        // The first stays as it is. Of the second bytes 1 and 2 change, and the last, 4092 further
        // on.
        delta(run(0, 0, 2), &[0, 0, 8, 0, 1, 2, 0xaa, 0xbb, 0xfc, 31, 1, 0xcc]),
        delta(run(1, 1, 1), &[4, 0, 0x80, 1, 1, 9]),
        state(),
    ];
    say(&mut control, &said.concat());
    read_until(&mut control, tag::READY);
    say(&mut control, &[forward(&Forward::HandOver { running: true }), forward(&Forward::Complete)].concat());
    read_until(&mut control, tag::ALL_RECEIVED);
    say(&mut control, &forward(&Forward::Goodbye));
    arrival.watch.until(&[Status::Completed]);
    arrival.handle.join();
    let (mut second, mut last) = (page.clone(), vec![0; PAGE_SIZE]);
    (second[1], second[2], second[4095], last[128]) = (0xaa, 0xbb, 0xcc, 9);
    for (block, number, wanted) in [(0, 0, &page), (0, 1, &second), (0, 2, &page), (1, 1, &last)] {
        assert!(arrival.guest.read(block, number)[..] == wanted[..], "block {block} page {number}");
    }
}
