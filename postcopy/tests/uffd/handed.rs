//! RAM that is shared memory goes to another process as it is, over a unix socket.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use whimbrel_postcopy::channel::{Connector, Listener, TcpAddress, UnixAddress};
use whimbrel_postcopy::destination::{self, Options};
use whimbrel_postcopy::ram::{PAGE_SIZE, PageIndex};
use whimbrel_postcopy::source::{self, Limits, Multifd};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::wire::Features;

use crate::common::{Fault, TestGuest, Watch};
use crate::{Application, BLOCKS, Pair, completed, live_on, only, socket_path};

/// All that a destination can offer.
fn able() -> Options {
    only(Options::default().features.and(Features::SHARED_RAM))
}

fn begin(options: Options, tcp: bool, source: Arc<TestGuest>, destination: Arc<TestGuest>) -> Pair {
    let application = Application::fill(&source, &BLOCKS, 7);
    let (listener, connector): (_, Arc<dyn Connector>) = if tcp {
        let mut address = TcpAddress { host: "127.0.0.1".into(), port: 0 };
        let listener = Listener::tcp(&address).unwrap();
        address.port = listener.port().unwrap();
        (listener, Arc::new(address))
    } else {
        let address = UnixAddress(socket_path());
        (Listener::unix(&address).unwrap(), Arc::new(address))
    };
    let (source_watch, destination_watch) = (Watch::new(), Watch::new());
    let arriving =
        destination::start_with(destination.clone(), Box::new(listener), destination_watch.clone(), options).unwrap();
    let limits = Limits { ignore_shared: true, ..Limits::default() };
    let multifd = Multifd::default();
    let leaving = source::start_with(source.clone(), connector, limits, source_watch.clone(), multifd).unwrap();
    Pair { source, destination, application, leaving, arriving, source_watch, destination_watch }
}

/// The guest stays at the source, where nothing of its RAM changed; why.
fn stays(mut pair: Pair) -> String {
    assert_eq!(pair.source_watch.until(&[Status::Completed, Status::Failed]), Status::Failed);
    pair.leaving.join();
    pair.arriving.abandon();
    assert!(pair.source.is_running() && !pair.destination.is_running());
    pair.application.verify(&pair.source);
    // And what the other process does with its own RAM is its own affair.
    (0..BLOCKS[0]).for_each(|page| pair.destination.write(0, page, 99));
    pair.application.verify(&pair.source);
    pair.leaving.report().error.unwrap()
}

#[test]
fn a_running_guest_is_handed_over_and_no_page_is_sent() {
    let (source, destination) = (TestGuest::shared(&BLOCKS, true), TestGuest::shared(&BLOCKS, false));
    let mut pair = begin(able(), false, source, destination);
    live_on(&pair, 5);
    completed(&mut pair);
    let pages: u64 = BLOCKS.iter().sum();
    let ram = pair.leaving.report().ram;
    assert_eq!((ram.skipped, ram.normal, ram.duplicate, ram.remaining, ram.dirty_sync_count), (pages, 0, 0, 0, 0));
    assert!(ram.transferred < PAGE_SIZE as u64, "{ram:?}");
    assert_eq!(pair.arriving.report().ram.skipped, pages);
    // The source has let go of it: nothing it writes is seen.
    (0..BLOCKS[0]).for_each(|page| pair.source.write(0, page, 99));
    pair.application.verify(&pair.destination);
}

#[test]
fn a_destination_that_fails_lets_go_and_the_guest_runs_on() {
    for method in ["adopt_ram", "load"] {
        let (source, destination) = (TestGuest::shared(&BLOCKS, true), TestGuest::shared(&BLOCKS, false));
        *destination.fault.lock().unwrap() = Some(Fault { thread: "incoming", method, call: 1 });
        let why = stays(begin(able(), false, source, destination));
        assert!(why.contains(method), "{why}");
    }
    let (source, destination) = (TestGuest::shared(&BLOCKS, true), TestGuest::shared(&BLOCKS, false));
    destination.refuse_run.store(true, Ordering::SeqCst);
    let why = stays(begin(able(), false, source, destination));
    assert!(why.contains("the vCPUs are refused"), "{why}");
}

#[test]
fn what_cannot_be_handed_over_is_refused_before_the_guest_stands_still() {
    let shared = |running| TestGuest::shared(&BLOCKS, running);
    let private = |running| TestGuest::new(&BLOCKS, running);
    for (options, tcp, source, destination, why) in [
        // A destination that offers nothing of the kind.
        (Options::default(), false, shared(true), shared(false), "must be shared memory"),
        // One that offers what it has not got.
        (able(), false, shared(true), private(false), "this side's RAM is not shared memory"),
        (able(), false, private(true), shared(false), "cannot be handed to another process"),
        (able(), true, shared(true), shared(false), "cannot be handed to another process"),
    ] {
        let pair = begin(options, tcp, source, destination);
        let source = pair.source.clone();
        let said = stays(pair);
        assert!(said.contains(why), "{said}");
        assert_eq!(source.resumed.load(Ordering::SeqCst), 0);
    }
}

/// Without the wish for it shared RAM goes as any other.
#[test]
fn shared_ram_goes_by_its_pages_too() {
    if crate::denied() {
        return;
    }
    let (source, destination) = (TestGuest::shared(&BLOCKS, true), TestGuest::shared(&BLOCKS, false));
    let mut pair = begin(able(), false, source, destination);
    completed(&mut pair);
    // On from there, by its pages.
    let next = TestGuest::shared(&BLOCKS, false);
    let address = UnixAddress(socket_path());
    let (source_watch, destination_watch) = (Watch::new(), Watch::new());
    let listener = Box::new(Listener::unix(&address).unwrap());
    let arriving = destination::start_with(next.clone(), listener, destination_watch.clone(), able()).unwrap();
    let limits = Limits::default();
    let leaving = source::start(pair.destination.clone(), Arc::new(address), limits, source_watch.clone()).unwrap();
    let application = pair.application.clone();
    let source = pair.destination.clone();
    let mut pair = Pair { source, destination: next, application, leaving, arriving, source_watch, destination_watch };
    live_on(&pair, 6);
    completed(&mut pair);
    assert_eq!(pair.leaving.report().ram.skipped, 0);
    assert!(!pair.source.ram[0].is_zero(PageIndex(1)), "the source keeps its own");
}
