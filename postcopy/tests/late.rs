//! A source by hand, whose background comes late: what the guest has written since it got a page
//! stays. With real userfaultfd.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[allow(dead_code)]
#[path = "hostile/peer.rs"]
mod peer;
#[path = "../../tests/e2e/support/skip.rs"]
mod skip;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use common::{TestGuest, Watch};
use peer::{Network, answer, forward, hello, introduction, read_message, read_until, say};
use whimbrel_postcopy::destination;
use whimbrel_postcopy::guest::Section;
use whimbrel_postcopy::ram::{BlockId, PageIndex, PageRun};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::uffd::Uffd;
use whimbrel_postcopy::wire::{Answer, ChannelKind, Forward, tag};

/// Huge pages that go in together.
const GROUP: u64 = 4 * 512;
const PAGES: u64 = 4 * GROUP;
/// A background message's run.
const RUN: u64 = 512;
/// One that the guest does not touch; it comes first of the background.
const FIRST: u64 = PAGES - 1;

/// Why this host cannot show it.
fn unable() -> Option<String> {
    match Uffd::open() {
        Ok(uffd) if !uffd.moves() => Some("this kernel cannot move pages (UFFDIO_MOVE, Linux 6.8)".into()),
        Ok(_) => None,
        Err(error) => Some(whimbrel_postcopy::error::sentence(&error)),
    }
}

fn run(start: u64, count: u64) -> PageRun {
    PageRun { block: BlockId(0), start: PageIndex(start), count: count as u32 }
}

/// More pages than may be in RAM alone, and of no huge page all.
fn touched() -> impl Iterator<Item = u64> {
    (0..PAGES).filter(|page| page % 4 != 3)
}

/// What the source holds in all pages.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Old {
    Stamped,
    Zero,
}

impl Old {
    fn generation(self) -> u64 {
        u64::from(self == Self::Stamped)
    }

    fn contents(self, run: PageRun) -> Vec<u8> {
        let pages = run.pages().flat_map(|page| TestGuest::stamp(page.0, self.generation()));
        [forward(&Forward::Pages(run)), pages.collect()].concat()
    }

    /// As an honest source would say it.
    fn message(self, run: PageRun) -> Vec<u8> {
        match self {
            Self::Stamped => self.contents(run),
            Self::Zero => forward(&Forward::Zeros(vec![run])),
        }
    }
}

/// Answers page requests until the channel ends.
fn serve(mut demand: UnixStream, old: Old) {
    while let Ok((tag::REQUEST, body)) = read_message(&mut demand) {
        for asked in body.chunks_exact(16) {
            let count = u32::from_le_bytes(asked[4..8].try_into().unwrap());
            let start = u64::from_le_bytes(asked[8..].try_into().unwrap());
            demand.write_all(&old.message(run(start, u64::from(count)))).unwrap();
        }
    }
}

/// Everything is touched and written while the background is on its way: more than may be in RAM
/// alone, so that part of it waits in the shadow again when the background's copies come.
fn written_pages_stay(old: Old, multifd: usize) {
    let (guest, watch, network) = (TestGuest::new(&[PAGES], false), Watch::new(), Network::default());
    let mut arriving = destination::start(guest.clone(), Box::new(network.clone()), watch.clone()).unwrap();
    let open = |kind| {
        let mut channel = network.open();
        say(&mut channel, &hello(kind).encode());
        assert!(matches!(answer(&mut channel), Answer::Welcome { .. }));
        channel
    };
    let mut control = open(ChannelKind::Control);
    let mut others: Vec<_> = (0..multifd).map(|_| open(ChannelKind::Multifd)).collect();
    let demand = open(ChannelKind::Demand);
    let server = std::thread::spawn(move || serve(demand, old));
    let state = Forward::State(vec![Section { name: "test".into(), instance: 0, version: 1, bytes: vec![1] }]);
    say(&mut control, &[introduction(&[PAGES]), forward(&Forward::Listen), forward(&state)].concat());
    read_until(&mut control, tag::READY);
    say(&mut control, &forward(&Forward::HandOver { running: true }));
    read_until(&mut control, tag::RUNNING);

    let vcpu = vcpu(&guest, old);
    vcpu.join().unwrap();
    // Whoever takes this off the channel looks, before it takes more, whether too many pages are in
    // RAM alone.
    say(&mut control, &old.contents(run(FIRST, 1)));
    background(&mut control, &mut others, old);
    say(&mut control, &forward(&Forward::Complete));
    read_until(&mut control, tag::ALL_RECEIVED);
    say(&mut control, &forward(&Forward::Goodbye));
    assert_eq!(watch.until(&[Status::Completed, Status::Failed]), Status::Completed);
    arriving.join();
    server.join().unwrap();

    let lost = |page: &u64| *guest.read(0, *page) != TestGuest::stamp(*page, 2);
    let lost: Vec<u64> = touched().filter(lost).collect();
    assert!(lost.is_empty(), "{} of the guest's writes are lost, the first in page {}", lost.len(), lost[0]);
    for page in (0..PAGES).filter(|page| page % 4 == 3) {
        assert!(*guest.read(0, page) == TestGuest::stamp(page, old.generation()), "page {page}");
    }
}

/// Reads and writes every page of [`touched`], each once.
fn vcpu(guest: &Arc<TestGuest>, old: Old) -> std::thread::JoinHandle<()> {
    let guest = guest.clone();
    std::thread::spawn(move || {
        for page in touched() {
            assert!(*guest.read(0, page) == TestGuest::stamp(page, old.generation()), "page {page} as it was demanded");
            guest.write(0, page, 2);
        }
    })
}

/// All pages but one, as they were before the guest wrote them; in whole huge pages, as far as they
/// go.
fn background(control: &mut UnixStream, others: &mut [UnixStream], old: Old) {
    let runs = (0..PAGES).step_by(RUN as usize).map(|start| run(start, RUN.min(FIRST - start)));
    if others.is_empty() {
        return runs.for_each(|run| say(control, &old.message(run)));
    }
    say(control, &forward(&Forward::MultifdStart));
    let count = others.len();
    runs.enumerate().for_each(|(number, run)| say(&mut others[number % count], &old.message(run)));
    others.iter_mut().for_each(|channel| say(channel, &forward(&Forward::MultifdFlush)));
    say(control, &forward(&Forward::MultifdFlush));
}

#[test]
fn a_page_that_the_background_sends_late_does_not_overwrite_what_the_guest_wrote_since() {
    if let Some(why) = unable() {
        return skip::skip(&why);
    }
    [0, 2].into_iter().for_each(|multifd| written_pages_stay(Old::Stamped, multifd));
}

#[test]
fn zeros_that_the_background_sends_late_do_not_overwrite_what_the_guest_wrote_since() {
    if let Some(why) = unable() {
        return skip::skip(&why);
    }
    [0, 2].into_iter().for_each(|multifd| written_pages_stay(Old::Zero, multifd));
}
