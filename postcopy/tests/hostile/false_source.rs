//! The destination's driver meets a source that lies.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use whimbrel_postcopy::destination::{self, DestinationHandle, Options};
use whimbrel_postcopy::guest::Section;
use whimbrel_postcopy::ram::{BlockId, PageIndex, PageRun};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::wire::{Answer, BlockDescription, ChannelKind, Forward, Fragment, Hello, Reply, Token, tag};

use crate::common::{TestGuest, Watch};
use crate::peer::{
    Network, answer, forward, hang_up, header, hello, introduction, read_message, read_until, reply, resident, say,
};

pub const BLOCKS: [u64; 2] = [3, 2];

pub struct Arrival {
    pub guest: Arc<TestGuest>,
    pub watch: Arc<Watch>,
    pub handle: DestinationHandle,
    network: Network,
}

impl Arrival {
    pub fn new() -> Self {
        Self::of(TestGuest::new(&BLOCKS, false), Options::default())
    }

    pub fn of(guest: Arc<TestGuest>, options: Options) -> Self {
        let (watch, network) = (Watch::new(), Network::default());
        let handle = destination::start_with(guest.clone(), Box::new(network.clone()), watch.clone(), options).unwrap();
        Self { guest, watch, handle, network }
    }

    pub fn greet(&self, hello: Hello) -> (UnixStream, Answer) {
        let mut channel = self.network.open();
        say(&mut channel, &hello.encode());
        let said = answer(&mut channel);
        (channel, said)
    }

    /// Both channels, welcomed.
    pub fn channels(&self) -> (UnixStream, UnixStream) {
        (self.open(ChannelKind::Control), self.open(ChannelKind::Demand))
    }

    /// A channel of this kind, welcomed.
    pub fn open(&self, kind: ChannelKind) -> UnixStream {
        let (channel, said) = self.greet(hello(kind));
        assert!(matches!(said, Answer::Welcome { .. }), "{said:?}");
        channel
    }

    /// The destination gave up before the guest was its own, and says why on both sides: also to a
    /// source that heard nothing of it and asks.
    pub fn failed(mut self, control: &mut UnixStream, what: &str) -> String {
        let told = String::from_utf8(read_until(control, tag::NOT_STARTED)).unwrap();
        let cancel = forward(&Forward::Cancel("as it says".into()));
        say(control, &cancel);
        if self.watch.until(&[Status::Failed, Status::PostcopyPaused]) == Status::PostcopyPaused {
            assert!(self.handle.can_recover(), "{what}");
            self.handle.recover(Box::new(self.network.clone()));
            let again = |kind| Hello { recover: true, ..hello(kind) };
            let (mut control, _) = self.greet(again(ChannelKind::Control));
            let (_demand, _) = self.greet(again(ChannelKind::Demand));
            assert_eq!(read_until(&mut control, tag::NOT_STARTED), told.as_bytes(), "{what}");
            say(&mut control, &cancel);
            self.watch.until(&[Status::Failed]);
        }
        self.handle.join();
        assert!(!self.guest.is_running(), "{what}: the guest runs");
        let error = self.handle.report().error.unwrap();
        assert_eq!(error, told, "{what}: both sides read the same");
        error
    }
}

pub fn run(block: u16, start: u64, count: u32) -> PageRun {
    PageRun { block: BlockId(block), start: PageIndex(start), count }
}

pub fn pages(run: PageRun) -> Vec<u8> {
    [forward(&Forward::Pages(run)), vec![5; run.bytes()]].concat()
}

pub fn state() -> Vec<u8> {
    forward(&Forward::State(vec![Section { name: "test".into(), instance: 0, version: 1, bytes: vec![1] }]))
}

pub fn all_zeros() -> Vec<u8> {
    forward(&Forward::Zeros(vec![run(0, 0, 3), run(1, 0, 2)]))
}

/// What is said after the introduction, and a part of the sentence that it must get.
fn lies() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let stale = |block, first_word, word| {
        forward(&Forward::Discard(Fragment { block: BlockId(block), first_word, words: vec![word] }))
    };
    vec![
        ("unknown number", header(99, 0, 0), "message number 99 is unknown"),
        ("a reply", reply(&Reply::Ready), "message number 66 is unknown"),
        ("a request", header(tag::REQUEST, 0, 0), "message number 128 is unknown"),
        ("flags", header(tag::LISTEN, 4, 0), "message 'arm' has unknown flags 0x4"),
        ("long pages", header(tag::PAGES, 0, u32::MAX), "message 'pages' claims 4294967295 bytes"),
        ("long state", header(tag::STATE, 0, 64 * 1024 * 1024 + 1), "message 'state' claims 67108865 bytes"),
        ("arm with a body", [header(tag::LISTEN, 0, 1), vec![0]].concat(), "message 'arm' claims 1 bytes"),
        ("short hand-over", header(tag::HAND_OVER, 0, 0), "'hand-over' ends in the middle of a field"),
        ("short pages", [header(tag::PAGES, 0, 8), vec![0; 8]].concat(), "'pages' ends in the middle of a field"),
        ("no pages", [header(tag::PAGES, 0, 16), vec![0; 16]].concat(), "'pages' has an impossible page count"),
        ("count lies", [header(tag::STATE, 0, 4), vec![255; 4]].concat(), "'state' has an impossible count"),
        ("odd zeros", [header(tag::ZEROS, 0, 15), vec![0; 15]].concat(), "'zeros' has an impossible length"),
        ("words lie", [header(tag::DISCARD, 0, 16), vec![1; 16]].concat(), "'discard' has an impossible"),
        ("past the end", pages(run(0, 2, 2)), "block 0 pages 2+2, which this guest does not have"),
        ("far outside", pages(run(0, u64::MAX - 1, 1)), "block 0 pages 18446744073709551614+1"),
        ("no such block", pages(run(9, 0, 1)), "block 9 pages 0+1"),
        (
            "zeros outside",
            forward(&Forward::Zeros(vec![run(0, 0, 3), run(1, 0, u32::MAX)])),
            "block 1 pages 0+4294967295",
        ),
        ("stale outside", stale(0, 0, 1 << 3), "stale pages in block 0"),
        ("stale nowhere", stale(2, 0, 1), "stale pages in block 2"),
        ("stale far", stale(0, u64::MAX, 1), "stale pages in block 0"),
        ("twice the same", forward(&Forward::Configuration(Vec::new())), "'configuration' where"),
        ("state without pages", state(), "5 pages were never sent"),
        ("hand-over without state", forward(&Forward::HandOver { running: true }), "'hand-over' where"),
        ("the end at once", forward(&Forward::Complete), "'complete' where"),
        ("armed twice", [forward(&Forward::Listen), forward(&Forward::Listen)].concat(), "'arm' where"),
        (
            "a pass after arming",
            [forward(&Forward::Listen), forward(&Forward::PassBegin(1))].concat(),
            "'pass-begin' where",
        ),
        ("stale after arming", [forward(&Forward::Listen), stale(0, 0, 1)].concat(), "'discard' where"),
        ("two states", [all_zeros(), state(), state()].concat(), "'state' where"),
        ("complete before hand-over", [all_zeros(), state(), forward(&Forward::Complete)].concat(), "'complete' where"),
        ("pages after the state", [all_zeros(), state(), pages(run(0, 0, 1))].concat(), "'pages' where"),
        ("a cancel", forward(&Forward::Cancel("changed my mind".into())), "stays on the source: changed my mind"),
    ]
}

#[test]
fn every_lie_is_named_and_nothing_runs() {
    for (what, lie, sentence) in lies() {
        let arrival = Arrival::new();
        let (mut control, _demand) = arrival.channels();
        say(&mut control, &introduction(&BLOCKS));
        assert_eq!(read_message(&mut control).unwrap().0, tag::ACCEPTED);
        say(&mut control, &lie);
        hang_up(&control);
        let error = arrival.failed(&mut control, what);
        assert!(error.contains(sentence), "{what}: '{error}' does not say '{sentence}'");
        assert!(!error.contains('\n') && error.len() < 300, "{what}: no sentence: {error}");
    }
}

#[test]
fn nothing_comes_before_the_introduction() {
    let ram = |page_size, blocks: &[(&str, u64, u64)]| {
        let blocks = blocks.iter().map(|&(name, guest_address, pages)| BlockDescription {
            name: name.into(),
            guest_address,
            pages,
        });
        forward(&Forward::Ram { page_size, blocks: blocks.collect() })
    };
    let right = forward(&Forward::Configuration(vec![("vcpus".into(), "1".into())]));
    let after = |more: Vec<u8>| [right.clone(), more].concat();
    for (what, said, sentence) in [
        ("pages first", pages(run(0, 0, 1)), "'pages' where"),
        ("arm first", forward(&Forward::Listen), "'arm' where"),
        ("state first", state(), "'state' where"),
        ("ram first", ram(4096, &[]), "'ram' where"),
        ("pages before ram", after(all_zeros()), "'zeros' where"),
        ("another machine", forward(&Forward::Configuration(vec![("vcpus".into(), "9".into())])), "vcpus"),
        ("page size", after(ram(16384, &[])), "pages of 16384 bytes on the source, 4096 here"),
        ("block count", after(ram(4096, &[("ram0", 0, 3)])), "1 blocks on the source, 2 here"),
        ("block size", after(ram(4096, &[("ram0", 0, 4), ("ram1", 0, 2)])), "block ram0 with 4 pages at 0x0"),
        ("block name", after(ram(4096, &[("ram0", 0, 3), ("rom", 0, 2)])), "block rom with 2 pages"),
        ("block address", after(ram(4096, &[("ram0", 4096, 3), ("ram1", 0, 2)])), "3 pages at 0x1000"),
    ] {
        let arrival = Arrival::new();
        let (mut control, _demand) = arrival.channels();
        say(&mut control, &said);
        let error = arrival.failed(&mut control, what);
        assert!(error.contains(sentence), "{what}: '{error}' does not say '{sentence}'");
    }
}

#[test]
fn strangers_are_told_why_and_the_real_source_still_gets_in() {
    let arrival = Arrival::new();
    let control = hello(ChannelKind::Control);
    let refused = |said: Answer, part: &str| match said {
        Answer::Refused(why) => assert!(why.contains(part), "{why}"),
        other => panic!("{part}: {other:?}"),
    };
    for (first, part) in [
        (Hello { versions: (2, 9), ..control }, "versions 2 to 9, this side speaks 1 to 1"),
        (Hello { versions: (0, 0), ..control }, "versions 0 to 0"),
        (Hello { recover: true, ..control }, "no paused migration is here"),
        (hello(ChannelKind::Demand), "the control channel must come first"),
    ] {
        refused(arrival.greet(first).1, part);
    }
    let mut bytes = control.encode();
    bytes[..8].copy_from_slice(b"GET / HT");
    for (bytes, part) in
        [(bytes, "does not speak"), ([&control.encode()[..12], &[9; 28]].concat().try_into().unwrap(), "kind 9")]
    {
        let mut channel = arrival.network.open();
        say(&mut channel, &bytes);
        refused(answer(&mut channel), part);
    }
    // One that hangs up after its hello, and one that hangs up inside it.
    drop({
        let mut channel = arrival.network.open();
        say(&mut channel, &control.encode());
        channel
    });
    drop({
        let mut channel = arrival.network.open();
        say(&mut channel, &control.encode()[..39]);
        channel
    });
    let (_control, said) = arrival.greet(control);
    assert!(matches!(said, Answer::Welcome { .. }), "{said:?}");
    refused(arrival.greet(control).1, "there is a control channel already");
    refused(arrival.greet(Hello { token: Token([8; 16]), ..hello(ChannelKind::Demand) }).1, "another migration");
    assert!(matches!(arrival.greet(hello(ChannelKind::Demand)).1, Answer::Welcome { .. }));
}

/// A destination whose guest runs, with every page missing.
fn running_without_pages() -> (Arrival, UnixStream, UnixStream) {
    let arrival = Arrival::new();
    let (mut control, demand) = arrival.channels();
    say(&mut control, &[introduction(&BLOCKS), forward(&Forward::Listen), state()].concat());
    read_until(&mut control, tag::READY);
    say(&mut control, &forward(&Forward::HandOver { running: true }));
    read_until(&mut control, tag::RUNNING);
    (arrival, control, demand)
}

#[test]
fn lies_on_the_demand_channel_pause_the_migration_and_keep_the_guest() {
    for (what, lie, sentence) in [
        ("outside", pages(run(1, 2, 1)), "block 1 pages 2+1, which this guest does not have"),
        ("zeros outside", forward(&Forward::Zeros(vec![run(5, 0, 1)])), "block 5 pages 0+1"),
        ("another message", forward(&Forward::Complete), "message number 12 is unknown"),
        ("a giant", header(tag::STATE, 0, 60 * 1024 * 1024), "message number 10 is unknown"),
        ("half a page", pages(run(0, 0, 1))[..1000].to_vec(), "in the middle of message 'pages'"),
        ("nothing", Vec::new(), "the peer closed the connection"),
    ] {
        let (mut arrival, _control, mut demand) = running_without_pages();
        say(&mut demand, &lie);
        hang_up(&demand);
        arrival.watch.until(&[Status::PostcopyPaused]);
        let error = arrival.handle.report().error.unwrap();
        assert!(error.contains(sentence), "{what}: '{error}' does not say '{sentence}'");
        assert!(arrival.guest.is_running());
        arrival.handle.abandon();
    }
}

/// The fault loop asks on the new channel for what it had asked for on the old one: a channel that
/// is gone by then is one more broken link.
#[test]
fn a_demand_channel_that_ends_while_the_link_is_joined_again_pauses_it_once_more() {
    let (mut arrival, control, mut demand) = running_without_pages();
    let guest = arrival.guest.clone();
    let vcpu = std::thread::spawn(move || guest.read(0, 0)[0]);
    assert_eq!(read_message(&mut demand).unwrap().0, tag::REQUEST);
    drop((control, demand));
    arrival.watch.until_nth(Status::PostcopyPaused, 1);
    let again = |kind| Hello { recover: true, ..hello(kind) };
    for times in 2..10 {
        arrival.handle.recover(Box::new(arrival.network.clone()));
        let (mut control, _) = arrival.greet(again(ChannelKind::Control));
        drop(arrival.greet(again(ChannelKind::Demand)));
        read_until(&mut control, tag::RECEIVED_END);
        arrival.watch.until_nth(Status::PostcopyPaused, times);
    }
    arrival.handle.recover(Box::new(arrival.network.clone()));
    let (mut control, _) = arrival.greet(again(ChannelKind::Control));
    let (mut demand, _) = arrival.greet(again(ChannelKind::Demand));
    read_until(&mut control, tag::RECEIVED_END);
    assert_eq!(read_message(&mut demand).unwrap().0, tag::REQUEST);
    say(&mut demand, &pages(run(0, 0, 1)));
    assert_eq!(vcpu.join().unwrap(), 5);
    arrival.handle.abandon();
}

/// The guest is whole and needs nobody; the source that did not hear of it asks, as often as it
/// takes.
#[test]
fn a_source_that_missed_the_last_word_asks_for_it() {
    for armed in [true, false] {
        let mut arrival = Arrival::new();
        let (mut control, mut demand) = arrival.channels();
        let before = if armed { forward(&Forward::Listen) } else { all_zeros() };
        say(&mut control, &[introduction(&BLOCKS), before, state()].concat());
        read_until(&mut control, tag::READY);
        say(&mut control, &forward(&Forward::HandOver { running: true }));
        read_until(&mut control, tag::RUNNING);
        if armed {
            say(&mut demand, &all_zeros());
            say(&mut control, &forward(&Forward::Complete));
            read_until(&mut control, tag::ALL_RECEIVED);
        }
        drop((control, demand));
        arrival.watch.until(&[Status::Completed]);
        let again = |kind| Hello { recover: true, ..hello(kind) };
        for last in [false, true] {
            assert!(arrival.handle.can_recover());
            arrival.handle.recover(Box::new(arrival.network.clone()));
            let (mut control, _) = arrival.greet(again(ChannelKind::Control));
            let (_demand, _) = arrival.greet(again(ChannelKind::Demand));
            read_until(&mut control, tag::RECEIVED_END);
            say(&mut control, &forward(&Forward::Complete));
            read_until(&mut control, tag::ALL_RECEIVED);
            if last {
                say(&mut control, &forward(&Forward::Goodbye));
                arrival.handle.join();
            }
        }
        assert!(arrival.guest.is_running() && !arrival.handle.can_recover());
        assert_eq!(arrival.handle.report().status, Status::Completed);
        assert!(!arrival.watch.seen().contains(&Status::PostcopyPaused), "{:?}", arrival.watch.seen());
    }
}

#[test]
fn claims_of_length_cost_nothing_until_the_bytes_come() {
    let before = resident();
    let mut arrivals = Vec::new();
    for _ in 0..8 {
        let arrival = Arrival::new();
        let (mut control, demand) = arrival.channels();
        say(&mut control, &introduction(&BLOCKS));
        read_until(&mut control, tag::ACCEPTED);
        say(&mut control, &header(tag::STATE, 0, 64 * 1024 * 1024));
        say(&mut control, &[0; 1000]);
        arrivals.push((arrival, control, demand));
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 << 20, "eight claims of 64 MiB cost {grown} bytes");
    for (arrival, mut control, _demand) in arrivals {
        hang_up(&control);
        let error = arrival.failed(&mut control, "claim");
        assert!(error.contains("in the middle of message 'state'"), "{error}");
    }
}

#[test]
fn a_source_that_stalls_inside_a_message_does_not_keep_the_process() {
    for said in [forward(&Forward::Listen)[..3].to_vec(), pages(run(0, 0, 2))[..5000].to_vec()] {
        let mut arrival = Arrival::new();
        let (mut control, mut demand) = arrival.channels();
        say(&mut control, &[introduction(&BLOCKS), said.clone()].concat());
        say(&mut demand, &said);
        read_until(&mut control, tag::ACCEPTED);
        arrival.handle.abandon();
        assert!(!arrival.guest.is_running());
    }
}

#[test]
fn a_load_that_waits_for_a_page_ends_when_the_demand_channel_does() {
    let arrival = Arrival::new();
    arrival.guest.load_touches.store(true, Ordering::SeqCst);
    let (mut control, mut demand) = arrival.channels();
    say(&mut control, &[introduction(&BLOCKS), forward(&Forward::Listen), state()].concat());
    assert_eq!(read_message(&mut demand).unwrap().0, tag::REQUEST);
    drop(demand);
    let error = arrival.failed(&mut control, "load");
    assert!(error.contains("closed the connection"), "{error}");
}

#[test]
fn a_guest_that_cannot_be_started_is_given_back() {
    for armed in [true, false] {
        let arrival = Arrival::new();
        arrival.guest.refuse_run.store(true, Ordering::SeqCst);
        let (mut control, _demand) = arrival.channels();
        let ready = if armed { forward(&Forward::Listen) } else { all_zeros() };
        say(&mut control, &[introduction(&BLOCKS), ready, state()].concat());
        read_until(&mut control, tag::READY);
        say(&mut control, &[forward(&Forward::HandOver { running: true }), forward(&Forward::Complete)].concat());
        let error = arrival.failed(&mut control, "run");
        assert!(error.contains("failed to run"), "{error}");
    }
}
