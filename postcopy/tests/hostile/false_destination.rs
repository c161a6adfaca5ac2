//! The source's driver meets a destination that lies: before the hand-over the guest runs on where
//! it is.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use whimbrel_postcopy::ram::{BlockId, PageIndex, PageRun};
use whimbrel_postcopy::source::{self, Limits, Policy, SourceHandle};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::wire::{Answer, Fragment, Hello, Reply, Request, tag};

use crate::common::{TestGuest, Watch};
use crate::peer::{Network, hang_up, header, read_message, read_until, reply, request, say, welcome};

const BLOCKS: [u64; 2] = [300, 20];

struct Departure {
    guest: Arc<TestGuest>,
    watch: Arc<Watch>,
    handle: SourceHandle,
    network: Network,
}

impl Departure {
    fn new(postcopy_after: Option<u32>) -> Self {
        let (guest, watch, network) = (TestGuest::new(&BLOCKS, true), Watch::new(), Network::default());
        for page in 0..250 {
            guest.write(0, page, 1);
        }
        let limits = Limits { policy: postcopy_after.into(), ..Limits::default() };
        let handle = source::start(guest.clone(), Arc::new(network.clone()), limits, watch.clone()).unwrap();
        Self { guest, watch, handle, network }
    }

    /// One channel, greeted with whatever `answer` is.
    fn answer(&self, answer: &[u8]) -> UnixStream {
        let mut channel = self.network.open();
        let mut hello = [0; Hello::LEN];
        std::io::Read::read_exact(&mut channel, &mut hello).unwrap();
        Hello::decode(&hello).unwrap();
        say(&mut channel, answer);
        channel
    }

    fn channels(&self) -> (UnixStream, UnixStream) {
        let control = self.answer(&welcome());
        (control, self.answer(&welcome()))
    }

    /// The guest is on the source, in the state it had.
    fn failed(mut self, what: &str) -> String {
        assert_eq!(
            self.watch.until(&[Status::Failed, Status::Completed, Status::PostcopyPaused]),
            Status::Failed,
            "{what}"
        );
        self.handle.join();
        assert!(self.guest.is_running(), "{what}: the guest does not run");
        assert!(!self.guest.handed_over.load(Ordering::SeqCst));
        let error = self.handle.report().error.unwrap();
        assert!(!error.contains('\n') && error.len() < 300, "{what}: no sentence: {error}");
        error
    }

    /// The guest was handed over and may run there: it stands still here, and nothing of it is
    /// dropped.
    fn paused(mut self, what: &str) -> String {
        assert_eq!(
            self.watch.until(&[Status::Failed, Status::Completed, Status::PostcopyPaused]),
            Status::PostcopyPaused,
            "{what}"
        );
        assert!(!self.guest.is_running() && !self.guest.handed_over.load(Ordering::SeqCst), "{what}");
        let error = self.handle.report().error.unwrap();
        self.handle.abandon();
        assert!(!self.guest.is_running(), "{what}: two guests may run");
        error
    }
}

#[test]
fn a_wrong_answer_to_the_hello_is_named() {
    let mut long = Answer::Refused("no".into()).encode();
    long[10..12].copy_from_slice(&u16::MAX.to_le_bytes());
    let mut newer = welcome();
    newer[8..10].copy_from_slice(&9u16.to_le_bytes());
    for (what, said, sentence) in [
        ("nothing", Vec::new(), "closed the connection in the middle of message 'hello'"),
        ("half", welcome()[..10].to_vec(), "closed the connection in the middle of message 'hello'"),
        ("another protocol", b"HTTP/1.1 400 Bad Request".to_vec(), "does not speak Whimbrel's migration protocol"),
        ("its refusal", Answer::Refused("no room here".into()).encode(), "the peer refused: no room here"),
        ("a long refusal", long, "65535 bytes long"),
        ("a version not offered", newer, "versions 9 to 9"),
    ] {
        for demand in [false, true] {
            let departure = Departure::new(None);
            let _control = demand.then(|| departure.answer(&welcome()));
            drop(departure.answer(&said));
            let error = departure.failed(what);
            assert!(error.contains(sentence), "{what}: '{error}' does not say '{sentence}'");
        }
    }
}

#[test]
fn a_wrong_reply_is_named_and_the_guest_runs_on() {
    let received = |block, first_word| Reply::Received(Fragment { block: BlockId(block), first_word, words: vec![1] });
    for (what, said, sentence) in [
        ("ready too early", reply(&Reply::Ready), "'ready' where"),
        ("running", reply(&Reply::Running), "'running' where"),
        ("all received", reply(&Reply::AllReceived), "'all-received' where"),
        ("armed unasked", reply(&Reply::Listening), "'armed' where"),
        ("a bitmap", reply(&received(0, 0)), "'received' where"),
        ("the end of a bitmap", reply(&Reply::ReceivedEnd), "'received-end' where"),
        ("a refusal", reply(&Reply::NotStarted("CPUs differ".into())), "did not start the guest: CPUs differ"),
        ("a forward message", header(tag::COMPLETE, 0, 0), "message number 12 is unknown"),
        ("an unknown number", header(999, 0, 0), "message number 999 is unknown"),
        ("flags", header(tag::ACCEPTED, 1, 0), "message 'accepted' has unknown flags 0x1"),
        ("a body", [header(tag::ACCEPTED, 0, 1), vec![0]].concat(), "message 'accepted' claims 1 bytes"),
        ("a giant", header(tag::STATE, 0, 60 << 20), "message number 10 is unknown"),
        (
            "half a reply",
            header(tag::ACCEPTED, 0, 0)[..5].to_vec(),
            "closed the connection in the middle of message 'header'",
        ),
        ("nothing", Vec::new(), "closed the connection"),
    ] {
        let departure = Departure::new(None);
        let (mut control, demand) = departure.channels();
        read_until(&mut control, tag::DESCRIPTION);
        say(&mut control, &said);
        hang_up(&control);
        let error = departure.failed(what);
        assert!(error.contains(sentence), "{what}: '{error}' does not say '{sentence}'");
        drop(demand);
    }
}

/// Plays an honest destination up to `stage`, then closes. What the source does next tells whether
/// it keeps the guest.
fn closes_at(stage: usize, postcopy: bool, word: &[u8]) -> Departure {
    let departure = Departure::new(postcopy.then_some(1));
    let (mut control, demand) = departure.channels();
    let stages: [(u16, Option<Reply>); 6] = [
        (tag::DESCRIPTION, Some(Reply::Accepted)),
        (tag::PASS_BEGIN, None),
        (tag::PASS_END, None),
        (tag::STATE, Some(Reply::Ready)),
        (tag::HAND_OVER, Some(Reply::Running)),
        (tag::COMPLETE, None),
    ];
    for (heard, said) in &stages[..stage] {
        read_until(&mut control, *heard);
        said.iter().for_each(|said| say(&mut control, &reply(said)));
    }
    if let Some((heard, _)) = stages.get(stage) {
        read_until(&mut control, *heard);
    }
    say(&mut control, word);
    drop((control, demand));
    departure
}

#[test]
fn a_destination_that_closes_before_the_hand_over_leaves_the_guest_and_after_it_keeps_it() {
    for postcopy in [false, true] {
        for stage in 0..=3 {
            let error = closes_at(stage, postcopy, &[]).failed(&format!("stage {stage}"));
            assert!(error.contains("link to the destination failed"), "{error}");
        }
        for stage in 4..=6 {
            let error = closes_at(stage, postcopy, &[]).paused(&format!("stage {stage}"));
            assert!(error.contains("link to the destination failed"), "{error}");
        }
    }
}

#[test]
fn a_last_word_is_heard_though_the_channel_closes_behind_it() {
    let refusal = reply(&Reply::NotStarted("out of memory".into()));
    for postcopy in [false, true] {
        // The hand-over is the last stage at which the destination may give the guest back.
        for stage in 0..=4 {
            let word = if stage == 3 && postcopy {
                [reply(&Reply::Listening), refusal.clone()].concat()
            } else {
                refusal.clone()
            };
            let error = closes_at(stage, postcopy, &word).failed(&format!("stage {stage}"));
            assert!(error.contains("did not start the guest: out of memory"), "stage {stage}: {error}");
        }
    }
}

/// A source that waits for 'ready', its demand channel being served.
fn ready_to_leave() -> (Departure, UnixStream, UnixStream) {
    let departure = Departure::new(Some(0));
    let (mut control, demand) = departure.channels();
    read_until(&mut control, tag::DESCRIPTION);
    say(&mut control, &reply(&Reply::Accepted));
    read_until(&mut control, tag::LISTEN);
    say(&mut control, &reply(&Reply::Listening));
    read_until(&mut control, tag::STATE);
    (departure, control, demand)
}

fn run(block: u16, start: u64, count: u32) -> PageRun {
    PageRun { block: BlockId(block), start: PageIndex(start), count }
}

#[test]
fn wrong_requests_are_named_before_and_after_the_hand_over() {
    for (what, said, sentence) in [
        (
            "past the end",
            request(&Request(vec![run(0, 299, 2)])),
            "block 0 pages 299+2, which this guest does not have",
        ),
        ("no such block", request(&Request(vec![run(2, 0, 1)])), "block 2 pages 0+1"),
        (
            "too many",
            request(&Request(vec![run(0, 0, 300); 14])),
            "asked for 4200 pages in one request, more than 4096",
        ),
        ("too long a run", request(&Request(vec![run(0, 0, 1025)])), "'request' has an impossible page count"),
        ("nothing", request(&Request(Vec::new())), "'request' has an impossible length"),
        ("another message", reply(&Reply::Ready), "message number 66 is unknown"),
        ("a giant", header(tag::STATE, 0, 60 << 20), "message number 10 is unknown"),
        ("half a request", request(&Request(vec![run(0, 0, 1)]))[..13].to_vec(), "in the middle of message 'request'"),
    ] {
        for handed_over in [false, true] {
            let (departure, mut control, mut demand) = ready_to_leave();
            if handed_over {
                say(&mut control, &reply(&Reply::Ready));
                read_until(&mut control, tag::HAND_OVER);
            }
            say(&mut demand, &said);
            hang_up(&demand);
            let error = if handed_over { departure.paused(what) } else { departure.failed(what) };
            assert!(error.contains(sentence), "{what}: '{error}' does not say '{sentence}'");
        }
    }
}

#[test]
fn many_requests_for_one_page_are_answered_once() {
    let (mut departure, mut control, mut demand) = ready_to_leave();
    let ask = request(&Request(vec![run(0, 7, 1); 4096]));
    (0..50).for_each(|_| say(&mut demand, &ask));
    say(&mut demand, &request(&Request(vec![run(0, 8, 1)])));
    let answers: Vec<(u16, Vec<u8>)> = (0..2).map(|_| read_message(&mut demand).unwrap()).collect();
    assert!(answers.iter().all(|(found, body)| *found == tag::PAGES && body.len() == 16 + 4096));
    assert_ne!(answers[0].1[..16], answers[1].1[..16], "a page is sent twice");
    departure.handle.cancel().unwrap();
    read_until(&mut control, tag::CANCEL);
    departure.watch.until(&[Status::Cancelled]);
    departure.handle.join();
    assert!(departure.guest.is_running());
}

#[test]
fn a_destination_that_stalls_inside_a_reply_can_be_left_by_cancelling() {
    for half in [header(tag::READY, 0, 0)[..3].to_vec(), header(tag::NOT_STARTED, 0, 2000), header(99, 0, 0)] {
        let (mut departure, mut control, _demand) = ready_to_leave();
        say(&mut control, &half);
        if half != header(99, 0, 0) {
            // Let it read the half: what follows must not depend on it, so too early is no failure.
            std::thread::sleep(Duration::from_millis(20));
            departure.handle.cancel().unwrap();
        }
        departure.watch.until(&[Status::Cancelled, Status::Failed]);
        departure.handle.join();
        assert!(departure.guest.is_running());
    }
}

#[test]
fn steering_while_it_connects_does_not_end_the_migration() {
    let departure = Departure::new(None);
    let mut channel = departure.network.open();
    std::io::Read::read_exact(&mut channel, &mut [0; Hello::LEN]).unwrap();
    departure.handle.set_limits(Limits { policy: Policy::AfterPasses(0), ..Limits::default() });
    departure.handle.start_postcopy().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    say(&mut channel, &welcome());
    let _demand = departure.answer(&welcome());
    read_until(&mut channel, tag::DESCRIPTION);
    say(&mut channel, &reply(&Reply::Accepted));
    read_until(&mut channel, tag::LISTEN);
    drop(channel);
    departure.failed("closed");
}

/// A source that has handed over and heard nothing more, and the sentence that its user reads.
fn in_doubt(passes: Option<u32>) -> (Departure, String) {
    let (departure, control, demand) = match passes {
        Some(0) => ready_to_leave(),
        _ => precopied(),
    };
    let (mut control, demand) = (control, demand);
    say(&mut control, &reply(&Reply::Ready));
    read_until(&mut control, tag::HAND_OVER);
    drop((control, demand));
    departure.watch.until_nth(Status::PostcopyPaused, 1);
    assert!(!departure.guest.is_running());
    let error = departure.handle.report().error.unwrap();
    (departure, error)
}

/// A source that has sent everything by a precopy and waits for `ready`.
fn precopied() -> (Departure, UnixStream, UnixStream) {
    let departure = Departure::new(None);
    let (mut control, demand) = departure.channels();
    read_until(&mut control, tag::DESCRIPTION);
    say(&mut control, &reply(&Reply::Accepted));
    read_until(&mut control, tag::STATE);
    (departure, control, demand)
}

fn everything() -> Vec<u8> {
    let block =
        |block, words: Vec<u64>| reply(&Reply::Received(Fragment { block: BlockId(block), first_word: 0, words }));
    let first = [vec![u64::MAX; 4], vec![(1 << 44) - 1]].concat();
    [block(0, first), block(1, vec![(1 << 20) - 1]), reply(&Reply::ReceivedEnd)].concat()
}

#[test]
fn a_hand_over_in_doubt_is_told_and_the_guest_comes_back_if_it_never_ran_there() {
    for passes in [None, Some(0)] {
        let (departure, error) = in_doubt(passes);
        assert!(error.contains("whether the guest runs on the destination is not known"), "{error}");
        assert!(departure.handle.cancel().is_err());
        for times in 2..4 {
            // A link that breaks before anything was said leaves the doubt as it is.
            departure.handle.recover(Arc::new(departure.network.clone()));
            drop(departure.channels());
            departure.watch.until_nth(Status::PostcopyPaused, times);
            assert!(!departure.guest.is_running());
            assert!(departure.handle.report().error.unwrap().contains("is not known"));
        }
        departure.handle.recover(Arc::new(departure.network.clone()));
        let (mut control, _demand) = departure.channels();
        say(&mut control, &reply(&Reply::NotStarted("the power went".into())));
        assert_eq!(read_until(&mut control, tag::CANCEL), b"the power went");
        departure.watch.until(&[Status::Failed]);
        assert_eq!(departure.guest.resumed.load(Ordering::SeqCst), 1);
        let mut handle = departure.handle;
        handle.join();
        assert!(departure.guest.is_running() && !departure.guest.handed_over.load(Ordering::SeqCst));
        let error = handle.report().error.unwrap();
        assert!(error.contains("did not start the guest: the power went"), "{error}");
    }
}

#[test]
fn a_hand_over_in_doubt_is_completed_by_a_destination_that_has_everything() {
    for passes in [None, Some(0)] {
        let (departure, _) = in_doubt(passes);
        departure.handle.recover(Arc::new(departure.network.clone()));
        let (mut control, _demand) = departure.channels();
        say(&mut control, &everything());
        read_until(&mut control, tag::COMPLETE);
        say(&mut control, &reply(&Reply::AllReceived));
        read_until(&mut control, tag::GOODBYE);
        departure.watch.until(&[Status::Completed]);
        assert!(!departure.guest.is_running() && departure.guest.handed_over.load(Ordering::SeqCst));
    }
}

/// Whoever has said that the guest runs there has no way to give it back.
#[test]
fn a_destination_that_ran_cannot_say_later_that_it_never_did() {
    for told_on in ["the link", "a new link", "a new link, after its bitmap"] {
        let (departure, mut control, demand) = ready_to_leave();
        say(&mut control, &reply(&Reply::Ready));
        read_until(&mut control, tag::HAND_OVER);
        say(&mut control, &reply(&Reply::Running));
        // The background is the sign that this was heard.
        read_until(&mut control, tag::PAGES);
        let never = reply(&Reply::NotStarted("I changed my mind".into()));
        if told_on == "the link" {
            say(&mut control, &never);
            departure.watch.until_nth(Status::PostcopyPaused, 1);
        } else {
            drop((control, demand));
            departure.watch.until_nth(Status::PostcopyPaused, 1);
            departure.handle.recover(Arc::new(departure.network.clone()));
            let (mut control, _demand) = departure.channels();
            if told_on != "a new link" {
                say(&mut control, &reply(&Reply::ReceivedEnd));
            }
            say(&mut control, &never);
            departure.watch.until_nth(Status::PostcopyPaused, 2);
        }
        assert!(!departure.guest.is_running(), "{told_on}: two guests may run");
        departure.paused(told_on);
    }
}

#[test]
fn a_precopy_whose_destination_lacks_pages_stays_paused() {
    let (departure, _) = in_doubt(None);
    departure.handle.recover(Arc::new(departure.network.clone()));
    let (mut control, _demand) = departure.channels();
    say(&mut control, &reply(&Reply::ReceivedEnd));
    departure.watch.until_nth(Status::PostcopyPaused, 2);
    let error = departure.paused("lacking");
    assert!(error.contains("320 pages were never sent"), "{error}");
}
