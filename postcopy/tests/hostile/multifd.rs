//! The destination's driver meets a source that lies about its multifd channels.

use std::os::unix::net::UnixStream;

use whimbrel_postcopy::ram::{PAGE_SIZE, PageIndex};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::wire::{Answer, ChannelKind, Forward, Hello, Reply, Token, tag};

use crate::false_source::{Arrival, BLOCKS, all_zeros, pages, run, state};
use crate::peer::{forward, hang_up, header, hello, introduction, read_until, reply, say};

/// An arrival with this many multifd channels, all channels welcomed.
struct MultifdThresholds {
    arrival: Arrival,
    control: UnixStream,
    multifd: Vec<UnixStream>,
    demand: UnixStream,
}

impl MultifdThresholds {
    /// The guest's description was accepted.
    fn introduced(channels: usize) -> Self {
        let arrival = Arrival::new();
        let mut control = arrival.open(ChannelKind::Control);
        let multifd = (0..channels).map(|_| arrival.open(ChannelKind::Multifd)).collect();
        let demand = arrival.open(ChannelKind::Demand);
        say(&mut control, &introduction(&BLOCKS));
        read_until(&mut control, tag::ACCEPTED);
        Self { arrival, control, multifd, demand }
    }

    /// The guest runs, with every page missing.
    fn running(channels: usize) -> Self {
        let mut many = Self::introduced(channels);
        say(&mut many.control, &[forward(&Forward::Listen), state()].concat());
        many.hand_over();
        many
    }

    fn hand_over(&mut self) {
        read_until(&mut self.control, tag::READY);
        say(&mut self.control, &forward(&Forward::HandOver { running: true }));
        read_until(&mut self.control, tag::RUNNING);
    }

    /// The source says that this was all, and it is.
    fn completed(mut self) {
        say(&mut self.control, &forward(&Forward::Complete));
        read_until(&mut self.control, tag::ALL_RECEIVED);
        say(&mut self.control, &forward(&Forward::Goodbye));
        self.arrival.watch.until(&[Status::Completed]);
        self.arrival.handle.join();
        assert!(self.arrival.guest.is_running());
    }

    fn byte(&self, block: usize, page: u64) -> u8 {
        let mut bytes = [0; PAGE_SIZE];
        self.arrival.guest.ram[block].read(PageIndex(page), &mut bytes);
        assert!(bytes.iter().all(|byte| *byte == bytes[0]));
        bytes[0]
    }
}

fn start_multifd() -> Vec<u8> {
    forward(&Forward::MultifdStart)
}

fn flush_multifd() -> Vec<u8> {
    forward(&Forward::MultifdFlush)
}

#[test]
fn a_lie_on_control_about_a_stretch_is_named() {
    let start_and = |message: Vec<u8>| [start_multifd(), message].concat();
    for (what, lie, sentence) in [
        ("arm", start_and(forward(&Forward::Listen)), "'arm' where"),
        ("pages", start_and(pages(run(0, 0, 1))), "'pages' where"),
        ("zeros", start_and(all_zeros()), "'zeros' where"),
        ("the end of the pass", start_and(forward(&Forward::PassEnd(1))), "'pass-end' where"),
        ("a mark", start_and(forward(&Forward::Barrier(1))), "'mark' where"),
        ("spread twice", start_and(start_multifd()), "'spread' where"),
        ("state", start_and(state()), "'state' where"),
        ("a cancel", start_and(forward(&Forward::Cancel("no more".into()))), "stays on the source: no more"),
        ("nothing more", start_multifd(), "closed the connection"),
        ("half a message", start_and(flush_multifd()[..3].to_vec()), "in the middle of message 'header'"),
        ("gather alone", flush_multifd(), "'gather' where"),
        ("armed", [forward(&Forward::Listen), start_multifd()].concat(), "'spread' where"),
        ("loaded", [all_zeros(), state(), start_multifd()].concat(), "'spread' where"),
        ("spread with a body", [header(tag::MULTIFD_START, 0, 1), vec![0]].concat(), "message 'spread' claims 1 bytes"),
        (
            "gather with a body",
            [header(tag::MULTIFD_FLUSH, 0, 9), vec![0; 9]].concat(),
            "message 'gather' claims 9 bytes",
        ),
    ] {
        let mut many = MultifdThresholds::introduced(2);
        say(&mut many.control, &lie);
        hang_up(&many.control);
        let error = many.arrival.failed(&mut many.control, what);
        assert!(error.contains(sentence), "{what}: '{error}' does not say '{sentence}'");
    }
}

#[test]
fn a_stretch_without_multifd_channels_is_refused() {
    let mut few = MultifdThresholds::introduced(0);
    say(&mut few.control, &[start_multifd(), flush_multifd()].concat());
    let error = few.arrival.failed(&mut few.control, "precopy");
    assert!(error.contains("'spread' where"), "{error}");
    let mut few = MultifdThresholds::running(0);
    say(&mut few.control, &[start_multifd(), flush_multifd()].concat());
    few.arrival.watch.until(&[Status::PostcopyPaused]);
    let error = few.arrival.handle.report().error.unwrap();
    assert!(error.contains("'spread' where"), "{error}");
    few.arrival.handle.abandon();
}

/// What is said on one multifd channel before it ends, and a part of the sentence that it must get.
fn lies() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    vec![
        ("past the end", pages(run(0, 2, 2)), "block 0 pages 2+2, which this guest does not have"),
        ("no such block", pages(run(9, 0, 1)), "block 9 pages 0+1"),
        ("zeros outside", forward(&Forward::Zeros(vec![run(0, 0, 3), run(1, 2, 1)])), "block 1 pages 2+1"),
        ("an unknown number", header(99, 0, 0), "message number 99 is unknown"),
        ("state", state(), "message number 10 is unknown"),
        ("arm", forward(&Forward::Listen), "message number 9 is unknown"),
        ("spread", start_multifd(), "message number 15 is unknown"),
        ("a cancel", forward(&Forward::Cancel("why".into())), "message number 13 is unknown"),
        ("a reply", reply(&Reply::Ready), "message number 66 is unknown"),
        ("a request", [header(tag::REQUEST, 0, 16), vec![0; 16]].concat(), "message number 128 is unknown"),
        ("flags", header(tag::MULTIFD_FLUSH, 2, 0), "message 'gather' has unknown flags 0x2"),
        ("too long", header(tag::PAGES, 0, u32::MAX), "message 'pages' claims 4294967295 bytes"),
        ("half a page", pages(run(0, 0, 2))[..5000].to_vec(), "in the middle of message 'pages'"),
        ("half a header", flush_multifd()[..5].to_vec(), "in the middle of message 'header'"),
        ("pages and no gather", pages(run(0, 0, 2)), "closed the connection"),
        ("nothing", Vec::new(), "closed the connection"),
    ]
}

#[test]
fn a_lie_on_a_multifd_channel_is_named_and_nothing_runs() {
    for (what, lie, sentence) in lies() {
        let mut many = MultifdThresholds::introduced(2);
        // What is behind the stretch would be refused, too, if anybody looked at it.
        say(&mut many.control, &[start_multifd(), flush_multifd(), forward(&Forward::Complete)].concat());
        say(&mut many.multifd[0], &flush_multifd());
        say(&mut many.multifd[1], &lie);
        hang_up(&many.multifd[1]);
        let error = many.arrival.failed(&mut many.control, what);
        assert!(error.contains(sentence), "{what}: '{error}' does not say '{sentence}'");
        assert!(!error.contains('\n') && error.len() < 300, "{what}: no sentence: {error}");
    }
}

#[test]
fn a_lie_on_a_multifd_channel_pauses_a_guest_that_runs() {
    for (what, lie, sentence) in lies() {
        // Whether or not the control channel has come to the end of the stretch.
        for flushed in [false, true] {
            let mut many = MultifdThresholds::running(2);
            say(&mut many.control, &start_multifd());
            say(&mut many.multifd[1], &lie);
            hang_up(&many.multifd[1]);
            if flushed {
                say(&mut many.control, &flush_multifd());
            }
            many.arrival.watch.until(&[Status::PostcopyPaused]);
            let error = many.arrival.handle.report().error.unwrap();
            assert!(error.contains(sentence), "{what}: '{error}' does not say '{sentence}'");
            assert!(many.arrival.guest.is_running(), "{what}");
            many.arrival.handle.abandon();
        }
    }
}

#[test]
fn multifd_channels_that_do_not_belong_are_turned_away() {
    let arrival = Arrival::new();
    let refused = |hello: Hello, part: &str| match arrival.greet(hello).1 {
        Answer::Refused(why) => assert!(why.contains(part), "{why}"),
        other => panic!("{part}: {other:?}"),
    };
    let multifd = hello(ChannelKind::Multifd);
    refused(multifd, "the control channel must come first");
    let control = arrival.open(ChannelKind::Control);
    refused(Hello { token: Token([8; 16]), ..multifd }, "another migration");
    refused(Hello { recover: true, ..multifd }, "no paused migration is here");
    refused(Hello { versions: (2, 9), ..multifd }, "versions 2 to 9");
    let (one, demand) = (arrival.open(ChannelKind::Multifd), arrival.open(ChannelKind::Demand));
    let mut many = MultifdThresholds { arrival, control, multifd: vec![one], demand };
    say(&mut many.control, &[introduction(&BLOCKS), start_multifd(), flush_multifd(), state()].concat());
    say(&mut many.multifd[0], &[all_zeros(), flush_multifd()].concat());
    many.hand_over();
    many.completed();
}

#[test]
fn a_source_may_open_255_multifd_channels_and_no_more() {
    let mut arrival = Arrival::new();
    let _control = arrival.open(ChannelKind::Control);
    let _multifd: Vec<_> = (0..255).map(|_| arrival.open(ChannelKind::Multifd)).collect();
    match arrival.greet(hello(ChannelKind::Multifd)).1 {
        Answer::Refused(why) => assert!(why.contains("more multifd channels than a migration may have"), "{why}"),
        other => panic!("{other:?}"),
    }
    arrival.handle.abandon();
}

#[test]
fn what_a_source_opened_that_died_is_not_the_next_one_s() {
    let arrival = Arrival::new();
    drop((arrival.open(ChannelKind::Control), arrival.open(ChannelKind::Multifd)));
    let next = |kind| {
        let (channel, said) = arrival.greet(Hello { token: Token([8; 16]), ..hello(kind) });
        assert!(matches!(said, Answer::Welcome { .. }), "{said:?}");
        channel
    };
    let (mut control, _demand) = (next(ChannelKind::Control), next(ChannelKind::Demand));
    say(&mut control, &[introduction(&BLOCKS), start_multifd()].concat());
    let error = arrival.failed(&mut control, "spread");
    assert!(error.contains("'spread' where"), "{error}");
}

#[test]
fn multifd_channels_may_be_of_no_use() {
    for postcopy in [false, true] {
        let mut many = if postcopy { MultifdThresholds::running(3) } else { MultifdThresholds::introduced(3) };
        say(&mut many.control, &all_zeros());
        if !postcopy {
            say(&mut many.control, &state());
            many.hand_over();
        }
        many.completed();
    }
}

/// The control channel is ahead all the while: what it says behind `gather` needs the pages that
/// are still to come on the others.
#[test]
fn nothing_overtakes_the_pages_of_a_stretch() {
    for postcopy in [false, true] {
        let mut many = if postcopy { MultifdThresholds::running(2) } else { MultifdThresholds::introduced(2) };
        let mut stretches = [start_multifd(), flush_multifd(), start_multifd(), flush_multifd()].concat();
        if !postcopy {
            stretches.extend(state());
        }
        say(&mut many.control, &stretches);
        // Both stretches' worth on one channel: what is behind its `gather` belongs to the second.
        say(
            &mut many.multifd[1],
            &[pages(run(0, 1, 2)), flush_multifd(), forward(&Forward::Zeros(vec![run(1, 0, 1)]))].concat(),
        );
        say(&mut many.multifd[0], &[pages(run(0, 0, 1)), flush_multifd()].concat());
        say(&mut many.multifd[0], &flush_multifd());
        say(&mut many.multifd[1], &[pages(run(1, 1, 1)), flush_multifd()].concat());
        if !postcopy {
            many.hand_over();
        }
        for (block, page, byte) in [(0, 0, 5), (0, 1, 5), (0, 2, 5), (1, 0, 0), (1, 1, 5)] {
            assert_eq!(many.byte(block, page), byte, "block {block} page {page}");
        }
        many.completed();
    }
}

#[test]
fn a_stretch_that_does_not_end_does_not_keep_the_process() {
    for half in [Vec::new(), flush_multifd()[..3].to_vec(), pages(run(0, 0, 2))[..5000].to_vec()] {
        for postcopy in [false, true] {
            let mut many = if postcopy { MultifdThresholds::running(2) } else { MultifdThresholds::introduced(2) };
            say(&mut many.control, &[start_multifd(), flush_multifd()].concat());
            say(&mut many.multifd[0], &flush_multifd());
            say(&mut many.multifd[1], &half);
            many.arrival.handle.abandon();
            drop(many.demand);
        }
    }
}
