//! The destination's driver meets files that cannot be its guest's RAM.

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use whimbrel_postcopy::destination::Options;
use whimbrel_postcopy::memory::shared::create;
use whimbrel_postcopy::ram::PAGE_SIZE;
use whimbrel_postcopy::wire::{Features, Forward, tag};

use crate::common::TestGuest;
use crate::false_source::{Arrival, BLOCKS, all_zeros, pages, run, state};
use crate::peer::{forward, introduction, read_message, read_until, say};

fn arrival() -> Arrival {
    let features = Options::default().features.and(Features::SHARED_RAM);
    Arrival::of(TestGuest::shared(&BLOCKS, false), Options { features, ..Options::default() })
}

/// A file of so many pages that is all right.
fn file(pages: u64) -> OwnedFd {
    create("ram", pages * PAGE_SIZE as u64).unwrap()
}

fn right() -> Vec<OwnedFd> {
    BLOCKS.iter().map(|pages| file(*pages)).collect()
}

fn unsealed(pages: u64) -> OwnedFd {
    let file = File::from(memfd_create("ram", MFdFlags::MFD_ALLOW_SEALING).unwrap());
    file.set_len(pages * PAGE_SIZE as u64).unwrap();
    file.into()
}

fn send(channel: &UnixStream, bytes: &[u8], files: &[OwnedFd]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    assert!(files.is_empty() || control.push(SendAncillaryMessage::ScmRights(&files)));
    let sent = sendmsg(channel, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes.len());
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn files_that_cannot_be_ram_are_named_and_nothing_runs() {
    let message = |count| forward(&Forward::SharedRam(count));
    let many = |count| (0..count).map(|_| file(1)).collect::<Vec<_>>();
    let on_disk = || OwnedFd::from(File::open("/proc/self/exe").unwrap());
    let before_it = |more: Vec<u8>| [more, message(2)].concat();
    for (what, bytes, files, sentence) in [
        ("no file", message(2), vec![], "2 files, of which 0 came, for 2 blocks"),
        ("too few", message(2), vec![file(3)], "2 files, of which 1 came"),
        ("one too many", message(2), many(3), "2 files, of which 3 came"),
        ("far too many", message(2), many(40), "more than 16 came"),
        ("a false count", message(u32::MAX), right(), "4294967295 files, of which 2 came"),
        ("none at all", message(0), vec![], "0 files, of which 0 came"),
        ("the wrong way round", message(2), vec![file(2), file(3)], "8192 bytes where RAM has 12288"),
        ("too long", message(2), vec![file(3), file(3)], "12288 bytes where RAM has 8192"),
        ("not sealed", message(2), vec![file(3), unsealed(2)], "not sealed against shrinking"),
        ("on a disk", message(2), vec![file(3), on_disk()], "not ordinary shared memory"),
        ("too late", before_it(pages(run(0, 0, 1))), right(), "'shared-ram' where"),
        ("twice", before_it(message(2)), right(), "'shared-ram' where"),
        ("pages behind it", [message(2), pages(run(0, 0, 1))].concat(), right(), "'pages' where"),
        ("zeros behind it", [message(2), all_zeros()].concat(), right(), "'zeros' where"),
    ] {
        let arrival = arrival();
        let (mut control, _demand) = arrival.channels();
        say(&mut control, &introduction(&BLOCKS));
        assert_eq!(read_message(&mut control).unwrap().0, tag::ACCEPTED);
        send(&control, &bytes, &files);
        drop(files);
        let error = arrival.failed(&mut control, what);
        assert!(error.contains(sentence), "{what}: '{error}' does not say '{sentence}'");
    }
}

/// One that takes no RAM over closes what it is handed, whenever it comes.
#[test]
fn files_that_nobody_asked_for_are_closed() {
    let arrival = Arrival::new();
    let (mut control, demand) = arrival.channels();
    say(&mut control, &introduction(&BLOCKS));
    assert_eq!(read_message(&mut control).unwrap().0, tag::ACCEPTED);
    let before = open_files();
    send(&control, &forward(&Forward::Barrier(3)), &right());
    read_until(&mut control, tag::BARRIER_ACK);
    // Other tests open and close files of this process meanwhile, but not for ever.
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while open_files() > before && std::time::Instant::now() < patience {
        std::thread::yield_now();
    }
    send(&control, &forward(&Forward::SharedRam(2)), &right());
    drop(demand);
    let error = arrival.failed(&mut control, "unasked");
    assert!(error.contains("'shared-ram' where"), "{error}");
}

#[test]
fn ram_that_is_right_is_taken_over_and_the_guest_runs_in_it() {
    let arrival = arrival();
    let (mut control, _demand) = arrival.channels();
    say(&mut control, &introduction(&BLOCKS));
    assert_eq!(read_message(&mut control).unwrap().0, tag::ACCEPTED);
    let files = right();
    std::os::unix::fs::FileExt::write_all_at(&File::from(files[0].try_clone().unwrap()), &[7], PAGE_SIZE as u64)
        .unwrap();
    send(&control, &forward(&Forward::SharedRam(2)), &files);
    // The peer can no longer cut it off, whatever it does.
    assert!(File::from(files[1].try_clone().unwrap()).set_len(0).is_err());
    say(&mut control, &[forward(&Forward::Barrier(0)), state()].concat());
    read_until(&mut control, tag::READY);
    say(&mut control, &[forward(&Forward::HandOver { running: true }), forward(&Forward::Complete)].concat());
    read_until(&mut control, tag::ALL_RECEIVED);
    assert!(arrival.guest.is_running());
    assert_eq!(arrival.guest.read(0, 1)[0], 7);
}
