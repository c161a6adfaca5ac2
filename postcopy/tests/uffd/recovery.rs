//! Links that break at any moment and threads that panic: the guest is on one side, or in two
//! halves that are joined again.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use whimbrel_postcopy::channel::{Channel, Connector, Listener, UnixAddress};
use whimbrel_postcopy::destination::{self, Options};
use whimbrel_postcopy::source::{self, Limits, Multifd, Policy};
use whimbrel_postcopy::stats::Status;

use crate::common::{Fault, Random, TestGuest, Watch};
use crate::{Application, BLOCKS, Pair, begin_with, completed, denied, live_on, socket_path};

/// Nothing here breaks more often than that.
const MOST_BREAKS: usize = 40;

/// How a migration with a fault in it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The guest runs on the source.
    Stayed,
    /// It runs on the destination.
    Moved,
    /// The same, after both halves were joined again.
    Joined,
}

/// Waits for the end, joining both sides again wherever they are paused, and looks at all of the
/// guest.
pub(crate) fn survive(mut pair: Pair) -> End {
    for breaks in 0..MOST_BREAKS {
        match pair.source_watch.until_last(&[Status::Completed, Status::Failed, Status::PostcopyPaused]) {
            Status::Completed => {
                completed(&mut pair);
                return if breaks == 0 { End::Moved } else { End::Joined };
            }
            Status::Failed => {
                pair.leaving.join();
                pair.arriving.abandon();
                assert!(pair.source.is_running() && !pair.destination.is_running());
                pair.application.verify(&pair.source);
                return End::Stayed;
            }
            _ => {
                let there = [Status::PostcopyPaused, Status::Completed];
                pair.destination_watch.until_last(&there);
                assert!(!pair.source.is_running() && pair.arriving.can_recover());
                let address = UnixAddress(socket_path());
                pair.arriving.recover(Box::new(Listener::unix(&address).unwrap()));
                pair.leaving.set_limits(Limits::default());
                pair.leaving.recover(Arc::new(address));
                pair.source_watch.until_last(&[Status::PostcopyRecover, Status::PostcopyActive, Status::Completed]);
            }
        }
    }
    panic!("it breaks again and again");
}

/// A migration in which one call panics; what is said of it, and how it ends.
fn with_a_panic(fault: Fault, on_source: bool, passes: Option<u32>, multifd: u8) -> (End, bool) {
    let limits = Limits { policy: passes.into(), postcopy_bandwidth: 30 << 20, ..Limits::default() };
    let pair = begin_with(limits, false, multifd, |source, destination| {
        let faulty = if on_source { source } else { destination };
        *faulty.fault.lock().unwrap() = Some(fault);
    });
    let faulty = if on_source { pair.source.clone() } else { pair.destination.clone() };
    let end = std::thread::scope(|scope| {
        let vcpu = (pair.source.clone(), pair.destination.clone(), pair.application.clone());
        let watch = pair.source_watch.clone();
        scope.spawn(move || {
            let (source, destination, application) = vcpu;
            let mut random = Random(fault.call + 1);
            let ended = || watch.seen().last().is_some_and(|status| status.is_ended());
            while !ended() {
                source.step(|| application.visit(&source, &mut random));
                destination.step(|| application.visit(&destination, &mut random));
            }
        });
        survive(pair)
    });
    (end, faulty.fault.lock().unwrap_or_else(PoisonError::into_inner).is_none())
}

/// Wherever a thread panics, the migration ends or pauses with the guest whole; no vCPU waits for
/// the thread for ever.
#[test]
fn a_panic_on_any_thread_costs_no_guest() {
    if denied() {
        return;
    }
    let call = |thread, method, call| Fault { thread, method, call };
    let methods = [
        (true, "migration", "start_dirty_log"),
        (true, "migration", "sync_dirty"),
        (true, "migration", "clear_dirty"),
        (true, "migration", "pause"),
        (true, "migration", "save"),
        (false, "incoming", "check_configuration"),
        (false, "incoming", "load"),
        (false, "incoming", "run"),
        (false, "faults", "vcpu_of_thread"),
    ];
    let mut faults: Vec<_> =
        methods.iter().map(|&(on_source, thread, method)| (on_source, call(thread, method, 1))).collect();
    for count in [1, 2, 3, 5, 8, 20, 60] {
        let threads = [(true, "migration"), (true, "mig-demand"), (true, "mig-fd"), (false, "incoming")];
        let more = [(false, "faults"), (false, "in-fd")];
        let calls = threads.into_iter().chain(more).map(|(on_source, thread)| (on_source, call(thread, "ram", count)));
        faults.extend(calls);
    }
    let mut ends = Vec::new();
    for (passes, multifd) in [(None, 2), (Some(0), 2), (Some(1), 0)] {
        for &(on_source, fault) in &faults {
            println!(
                "{fault:?} on the {}, passes {passes:?}, multifd {multifd}",
                if on_source { "source" } else { "destination" }
            );
            let (end, panicked) = with_a_panic(fault, on_source, passes, multifd);
            assert!(panicked || end == End::Moved, "{fault:?}: nothing panicked, and it is {end:?}");
            if panicked {
                ends.push((fault.thread, end));
            }
        }
    }
    for thread in ["migration", "mig-demand", "mig-fd", "incoming", "faults", "in-fd"] {
        assert!(ends.iter().any(|(it, _)| *it == thread), "no call of {thread} panicked");
    }
    for end in [End::Stayed, End::Joined] {
        assert!(ends.iter().any(|(_, it)| *it == end), "no migration ended so: {end:?}");
    }
}

/// What the users of both sides read of it.
#[test]
fn a_panic_is_told_as_the_reason() {
    if denied() {
        return;
    }
    let fault = Fault { thread: "migration", method: "save", call: 1 };
    let mut pair = begin_with(Limits::default(), false, 0, |source, _| *source.fault.lock().unwrap() = Some(fault));
    pair.source_watch.until(&[Status::Failed]);
    pair.destination_watch.until(&[Status::Failed]);
    pair.leaving.join();
    pair.arriving.join();
    let error = pair.leaving.report().error.unwrap();
    assert_eq!(error, "the migration's source thread panicked: save fails on migration");
    assert!(pair.arriving.report().error.unwrap().ends_with(&error));

    let fault = Fault { thread: "faults", method: "vcpu_of_thread", call: 1 };
    let limits = Limits { policy: Policy::AfterPasses(0), postcopy_bandwidth: 1 << 20, ..Limits::default() };
    let pair = begin_with(limits, false, 0, |_, destination| *destination.fault.lock().unwrap() = Some(fault));
    pair.destination.await_running();
    std::thread::scope(|scope| {
        let guest = pair.destination.clone();
        let vcpu = scope.spawn(move || (0..BLOCKS[0]).rev().map(|page| guest.read(0, page)[0]).max());
        pair.destination_watch.until(&[Status::PostcopyPaused]);
        let error = pair.arriving.report().error.unwrap();
        assert_eq!(error, "the migration's faults thread panicked: vcpu_of_thread fails on faults");
        assert_eq!(survive(pair), End::Joined);
        vcpu.join().unwrap();
    });
}

/// Connections that are cut on purpose.
struct Cuttable {
    address: UnixAddress,
    made: Mutex<Vec<UnixStream>>,
}

impl Cuttable {
    /// Ends some of the connections there are: all, or a single one.
    fn cut(&self, random: &mut Random) {
        let mut made = self.made.lock().unwrap();
        let only = random.below(2 * made.len() as u64) as usize;
        let some = if only < made.len() { only..only + 1 } else { 0..made.len() };
        for stream in &made[some] {
            let _ = stream.shutdown(Shutdown::Both);
        }
        made.clear();
    }
}

impl Connector for Cuttable {
    fn connect(&self) -> io::Result<Channel> {
        let stream = UnixStream::connect(&self.address.0)?;
        self.made.lock().unwrap().push(stream.try_clone()?);
        Channel::new(stream.into())
    }
}

/// A link that flaps needs nobody: both sides join again by themselves, as often as it takes,
/// whichever channel is cut.
#[test]
fn a_link_that_flaps_is_joined_again_by_itself() {
    if denied() {
        return;
    }
    for multifd in [0, 2] {
        let source = TestGuest::new(&BLOCKS, true);
        let destination = TestGuest::new(&BLOCKS, false);
        let application = Application::fill(&source, &BLOCKS, 7);
        let address = UnixAddress(socket_path());
        let (source_watch, destination_watch) = (Watch::new(), Watch::new());
        let listener = Box::new(Listener::unix(&address).unwrap());
        let path = address.clone();
        let options = Options {
            listen_again: Some(Box::new(move || Ok(Box::new(Listener::unix(&path)?)))),
            ..Options::default()
        };
        let arriving =
            destination::start_with(destination.clone(), listener, destination_watch.clone(), options).unwrap();
        arriving.set_reconnects(true);
        let link = Arc::new(Cuttable { address, made: Mutex::default() });
        let slow = Limits {
            policy: Policy::AfterPasses(0),
            postcopy_bandwidth: 2 << 20,
            reconnect: Duration::from_secs(60),
            ..Limits::default()
        };
        let channels = Multifd { channels: multifd, postcopy: true };
        let leaving = source::start_with(source.clone(), link.clone(), slow, source_watch.clone(), channels).unwrap();
        let mut pair = Pair { source, destination, application, leaving, arriving, source_watch, destination_watch };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = Random(u64::from(multifd) + 5);
                for times in 1..=8 {
                    pair.source_watch.until_nth(Status::PostcopyActive, times);
                    pair.destination_watch.until_nth(Status::PostcopyActive, times);
                    link.cut(&mut random);
                }
                pair.source_watch.until_nth(Status::PostcopyActive, 9);
                pair.leaving.set_limits(Limits { postcopy_bandwidth: 0, ..slow });
            });
            live_on(&pair, 11);
        });
        completed(&mut pair);
        assert!(pair.arriving.report().demand.is_some());
        assert!(pair.source.handed_over.load(Ordering::SeqCst));
    }
}
