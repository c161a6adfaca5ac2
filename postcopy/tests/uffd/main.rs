//! The whole engine with real threads, sockets and userfaultfd, and a guest without KVM.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod encodings;
mod handed;
mod recovery;
mod release;
#[path = "../../../tests/e2e/support/skip.rs"]
mod skip;

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Random, TestGuest, Watch};
use whimbrel_postcopy::channel::{Connector, Listener, TcpAddress, UnixAddress};
use whimbrel_postcopy::destination::{self, DestinationHandle, Options};
use whimbrel_postcopy::ram::PAGE_SIZE;
use whimbrel_postcopy::source::{self, Limits, Multifd, Policy, SourceHandle};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::uffd::Uffd;
use whimbrel_postcopy::wire::Features;

fn only(features: Features) -> Options {
    Options { features, ..Options::default() }
}

/// An application: writes pages in random order, checks each page it visits, knows the last
/// generation it wrote.
struct Application {
    generations: Mutex<Vec<Vec<u64>>>,
    errors: AtomicU64,
    visits: AtomicU64,
}

impl Application {
    fn fill(guest: &TestGuest, blocks: &[u64], zero_every: u64) -> Arc<Self> {
        let mut generations = Vec::new();
        for (block, &pages) in blocks.iter().enumerate() {
            let generation = |page: u64| u64::from(!page.is_multiple_of(zero_every));
            (0..pages).filter(|&page| generation(page) > 0).for_each(|page| guest.write(block, page, 1));
            generations.push((0..pages).map(generation).collect());
        }
        Arc::new(Self { generations: Mutex::new(generations), errors: AtomicU64::new(0), visits: AtomicU64::new(0) })
    }

    /// Visits a random page; half of the visits write.
    fn visit(&self, guest: &TestGuest, random: &mut Random) {
        let mut generations = self.generations.lock().unwrap();
        let block = random.below(generations.len() as u64) as usize;
        let page = random.below(generations[block].len() as u64);
        let generation = &mut generations[block][page as usize];
        if *guest.read(block, page) != TestGuest::stamp(page, *generation) {
            self.errors.fetch_add(1, Ordering::SeqCst);
        }
        if random.below(2) == 0 {
            *generation += 1;
            guest.write(block, page, *generation);
        }
        self.visits.fetch_add(1, Ordering::SeqCst);
    }

    fn verify(&self, guest: &TestGuest) {
        assert_eq!(self.errors.load(Ordering::SeqCst), 0, "wrong pages seen while running");
        for (block, generations) in self.generations.lock().unwrap().iter().enumerate() {
            for (page, &generation) in generations.iter().enumerate() {
                let right = *guest.read(block, page as u64) == TestGuest::stamp(page as u64, generation);
                assert!(right, "block {block} page {page} does not hold generation {generation}");
            }
        }
    }
}

struct Pair {
    source: Arc<TestGuest>,
    destination: Arc<TestGuest>,
    application: Arc<Application>,
    leaving: SourceHandle,
    arriving: DestinationHandle,
    source_watch: Arc<Watch>,
    destination_watch: Arc<Watch>,
}

static SOCKETS: AtomicU64 = AtomicU64::new(0);

/// Whether this host lets these tests run; says so if not.
fn denied() -> bool {
    Uffd::open().inspect_err(|error| skip::skip(&whimbrel_postcopy::error::sentence(error))).is_err()
}

fn socket_path() -> PathBuf {
    let number = SOCKETS.fetch_add(1, Ordering::SeqCst);
    std::env::temp_dir().join(format!("whimbrel-uffd-{}-{number}", std::process::id()))
}

const BLOCKS: [u64; 2] = [3000, 700];

fn begin(limits: Limits, tcp: bool, change: impl FnOnce(&TestGuest, &TestGuest)) -> Pair {
    begin_with(limits, tcp, 0, change)
}

fn begin_with(limits: Limits, tcp: bool, channels: u8, change: impl FnOnce(&TestGuest, &TestGuest)) -> Pair {
    let source = TestGuest::new(&BLOCKS, true);
    let destination = TestGuest::new(&BLOCKS, false);
    let application = Application::fill(&source, &BLOCKS, 7);
    change(&source, &destination);
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
    let arriving = destination::start(destination.clone(), Box::new(listener), destination_watch.clone()).unwrap();
    let multifd = Multifd { channels, postcopy: true };
    let leaving = source::start_with(source.clone(), connector, limits, source_watch.clone(), multifd).unwrap();
    Pair { source, destination, application, leaving, arriving, source_watch, destination_watch }
}

/// The application runs on the source until that stops it, and on the destination from then on
/// until the migration ended.
fn live_on(pair: &Pair, seed: u64) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(seed);
            while pair.source.step(|| pair.application.visit(&pair.source, &mut random)) {}
            pair.destination.await_running();
            let ended = || pair.arriving.report().status == Status::Completed;
            while !ended() {
                pair.destination.step(|| pair.application.visit(&pair.destination, &mut random));
            }
        });
    });
}

fn completed(pair: &mut Pair) {
    assert_eq!(
        pair.source_watch.until(&[Status::Completed, Status::Failed]),
        Status::Completed,
        "{:?}",
        pair.leaving.report().error
    );
    assert_eq!(pair.destination_watch.until(&[Status::Completed, Status::Failed]), Status::Completed);
    pair.leaving.join();
    pair.arriving.join();
    assert!(pair.destination.is_running() && !pair.source.is_running());
    assert!(pair.source.handed_over.load(Ordering::SeqCst));
    pair.application.verify(&pair.destination);
}

#[test]
fn every_mode_moves_a_running_guest_over_every_transport() {
    if denied() {
        return;
    }
    let few = [(None, false, 0), (Some(0), false, 0), (Some(1), false, 0), (Some(2), true, 0), (None, true, 0)];
    let many = [(Some(0), true, 0), (None, true, 4), (Some(0), true, 3), (Some(1), true, 2), (Some(0), false, 2)];
    for (passes, tcp, multifd) in few.into_iter().chain(many).chain([(Some(2), false, 1), (None, false, 8)]) {
        let seed = 42 + u64::from(tcp) + u64::from(passes.unwrap_or(9));
        println!("passes {passes:?} tcp {tcp} multifd {multifd} seed {seed}");
        // Slow enough that the application touches pages before the background brings them.
        let postcopy_bandwidth = if passes == Some(0) { 40 << 20 } else { 0 };
        let limits = Limits { policy: passes.into(), bandwidth: 200 << 20, postcopy_bandwidth, ..Limits::default() };
        let mut pair = begin_with(limits, tcp, multifd, |_, _| ());
        live_on(&pair, seed);
        completed(&mut pair);
        let report = pair.arriving.report();
        assert!(report.demand.is_some() || passes != Some(0), "no page was demanded: {report:?}");
        assert_eq!(report.ram.remaining, 0);
        let sent = pair.leaving.report().ram;
        // How many pages are demanded before the background brings them is chance.
        let background = sent.transferred.saturating_sub(sent.postcopy_requests * (PAGE_SIZE as u64 + 24));
        assert_eq!(sent.multifd_bytes > background / 2, multifd > 0, "{sent:?}");
    }
}

/// The migration may end at the very moment in which a page of a chunk that is not in RAM yet is
/// placed alone: that chunk counts, too.
#[test]
fn the_end_waits_for_a_page_that_is_being_placed() {
    if denied() {
        return;
    }
    for round in 0..100 {
        let missing = round * 29 % BLOCKS[0];
        // All that is missing at the switch.
        let last_write = |source: &TestGuest, _: &TestGuest| source.last_writes.lock().unwrap().push((0, missing, 9));
        let mut pair = begin(Limits { policy: Policy::AfterPasses(1), ..Limits::default() }, false, last_write);
        pair.application.generations.lock().unwrap()[0][missing as usize] = 9;
        std::thread::scope(|vcpus| {
            for first in [missing, missing / 512 * 512] {
                let guest = &pair.destination;
                vcpus.spawn(move || {
                    guest.await_running();
                    for page in (first..BLOCKS[0]).chain(0..first) {
                        let generation = if page == missing { 9 } else { u64::from(!page.is_multiple_of(7)) };
                        assert!(
                            *guest.read(0, page) == TestGuest::stamp(page, generation),
                            "round {round}: page {page} does not hold generation {generation}"
                        );
                    }
                });
            }
        });
        completed(&mut pair);
    }
}

#[test]
fn postcopy_starts_in_the_middle_of_a_slow_pass() {
    if denied() {
        return;
    }
    [0, 2].into_iter().for_each(switch_in_a_pass);
}

fn switch_in_a_pass(multifd: u8) {
    let limits = Limits { bandwidth: 4 << 20, ..Limits::default() };
    let mut pair = begin_with(limits, false, multifd, |_, _| ());
    pair.source_watch.until(&[Status::Active]);
    // The cut lies inside one of the destination's huge pages, whose other pages have not come.
    while pair.arriving.report().ram.normal < 100 {
        std::thread::yield_now();
    }
    pair.leaving.start_postcopy().unwrap();
    live_on(&pair, 7);
    completed(&mut pair);
    assert!(pair.source_watch.seen().contains(&Status::PostcopyActive));
}

#[test]
fn a_destination_without_postcopy_is_known_as_such_and_the_precopy_goes_on() {
    let source = TestGuest::new(&BLOCKS, true);
    let destination = TestGuest::new(&BLOCKS, false);
    let application = Application::fill(&source, &BLOCKS, 7);
    let address = UnixAddress(socket_path());
    let listener = Box::new(Listener::unix(&address).unwrap());
    let (source_watch, watch) = (Watch::new(), Watch::new());
    let mut arriving =
        destination::start_with(destination.clone(), listener, watch.clone(), only(Features::default())).unwrap();
    let slow = Limits { bandwidth: 2 << 20, ..Limits::default() };
    let mut leaving = source::start(source, Arc::new(address), slow, source_watch.clone()).unwrap();
    source_watch.until(&[Status::Active]);
    let refusal = leaving.start_postcopy().unwrap_err().to_string();
    assert!(refusal.contains("cannot do postcopy"), "{refusal}");
    leaving.set_limits(Limits::default());
    assert_eq!(source_watch.until(&[Status::Completed, Status::Failed]), Status::Completed);
    watch.until(&[Status::Completed]);
    leaving.join();
    arriving.join();
    application.verify(&destination);
}

#[test]
fn a_destination_without_multifd_is_refused_before_anything_moves() {
    let source = TestGuest::new(&BLOCKS, true);
    let destination = TestGuest::new(&BLOCKS, false);
    let address = UnixAddress(socket_path());
    let listener = Box::new(Listener::unix(&address).unwrap());
    let (source_watch, watch) = (Watch::new(), Watch::new());
    let mut arriving = destination::start_with(destination, listener, watch.clone(), only(Features::POSTCOPY)).unwrap();
    let to = Arc::new(address);
    let multifd = Multifd { channels: 2, postcopy: true };
    let mut leaving = source::start_with(source.clone(), to, Limits::default(), source_watch.clone(), multifd).unwrap();
    assert_eq!(source_watch.until(&[Status::Completed, Status::Failed]), Status::Failed);
    leaving.join();
    let error = leaving.report().error.unwrap();
    assert!(error.contains("takes no multifd channels"), "{error}");
    assert!(source.is_running());
    arriving.abandon();
}

#[test]
fn a_paused_guest_arrives_paused() {
    if denied() {
        return;
    }
    for passes in [None, Some(0), Some(1)] {
        let mut pair = begin(Limits { policy: passes.into(), ..Limits::default() }, false, |source, _| {
            // Its user stops it: nobody has a right to start it again.
            source.stop();
        });
        assert_eq!(pair.source_watch.until(&[Status::Completed, Status::Failed]), Status::Completed);
        pair.destination_watch.until(&[Status::Completed]);
        pair.leaving.join();
        pair.arriving.join();
        assert!(!pair.destination.is_running() && !pair.source.is_running());
        pair.application.verify(&pair.destination);
    }
}

#[test]
fn cancelling_leaves_the_guest_running_on_the_source() {
    if denied() {
        return;
    }
    [0, 3].into_iter().for_each(cancel);
}

fn cancel(multifd: u8) {
    let limits = Limits { bandwidth: 2 << 20, ..Limits::default() };
    let mut pair = begin_with(limits, true, multifd, |_, _| ());
    pair.source_watch.until(&[Status::Active]);
    pair.leaving.cancel().unwrap();
    assert_eq!(pair.source_watch.until(&[Status::Cancelled, Status::Failed]), Status::Cancelled);
    assert_eq!(pair.destination_watch.until(&[Status::Failed]), Status::Failed);
    pair.leaving.join();
    pair.arriving.join();
    assert!(pair.source.is_running() && !pair.destination.is_running());
    let error = pair.arriving.report().error.unwrap();
    assert!(error.contains("cancelled"), "{error}");
}

#[test]
fn a_difference_is_named_on_both_sides_before_any_page_moves() {
    if denied() {
        return;
    }
    let mut pair = begin(Limits::default(), false, |_, destination| {
        destination.configuration.lock().unwrap()[0].1 = "2".into();
    });
    pair.source_watch.until(&[Status::Failed]);
    pair.destination_watch.until(&[Status::Failed]);
    pair.leaving.join();
    pair.arriving.join();
    assert!(pair.source.is_running());
    for error in [pair.leaving.report().error.unwrap(), pair.arriving.report().error.unwrap()] {
        assert!(error.contains("vcpus") && error.contains('2'), "{error}");
    }
    assert_eq!(pair.leaving.report().ram.normal, 0);
}

#[test]
fn a_destination_that_cannot_load_the_state_gives_the_guest_back() {
    if denied() {
        return;
    }
    for passes in [None, Some(0), Some(1)] {
        let mut pair = begin(Limits { policy: passes.into(), ..Limits::default() }, false, |_, destination| {
            destination.refuse_load.store(true, Ordering::SeqCst);
        });
        pair.source_watch.until(&[Status::Failed]);
        pair.leaving.join();
        pair.arriving.join();
        assert!(pair.source.is_running() && !pair.destination.is_running());
        assert_eq!(pair.source.resumed.load(Ordering::SeqCst), 1);
        let error = pair.leaving.report().error.unwrap();
        assert!(error.contains("the state is refused"), "{error}");
        pair.application.verify(&pair.source);
    }
}

#[test]
fn a_broken_link_in_postcopy_pauses_both_sides_and_a_new_one_joins_them() {
    if denied() {
        return;
    }
    [0, 2].into_iter().for_each(break_and_join);
}

fn break_and_join(multifd: u8) {
    let limits = Limits { policy: Policy::AfterPasses(0), postcopy_bandwidth: 1 << 20, ..Limits::default() };
    let mut pair = begin_with(limits, false, multifd, |_, _| ());
    pair.destination.await_running();
    for round in 1..=3 {
        pair.source_watch.until_nth(Status::PostcopyActive, round);
        pair.destination_watch.until_nth(Status::PostcopyActive, round);
        pair.leaving.break_link();
        pair.source_watch.until_nth(Status::PostcopyPaused, round);
        pair.destination_watch.until_nth(Status::PostcopyPaused, round);
        assert!(!pair.source.is_running() && pair.destination.is_running());
        let address = UnixAddress(socket_path());
        pair.arriving.recover(Box::new(Listener::unix(&address).unwrap()));
        if round == 3 {
            pair.leaving.set_limits(Limits::default());
        }
        pair.leaving.recover(Arc::new(address));
    }
    live_on(&pair, 3);
    completed(&mut pair);
}

#[test]
fn strangers_do_not_disturb_a_waiting_destination() {
    if denied() {
        return;
    }
    let path = socket_path();
    let destination = TestGuest::new(&BLOCKS, false);
    let watch = Watch::new();
    let listener = Listener::unix(&UnixAddress(path.clone())).unwrap();
    let mut arriving = destination::start(destination.clone(), Box::new(listener), watch.clone()).unwrap();
    for bytes in [&b"GET / HTTP/1.1\r\nHost: whimbrel.example.org\r\n\r\n"[..], b"", b"WHIMBREL"] {
        use std::io::Write;
        let mut stranger = UnixStream::connect(&path).unwrap();
        stranger.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        stranger.write_all(bytes).unwrap();
    }
    let source = TestGuest::new(&BLOCKS, true);
    let application = Application::fill(&source, &BLOCKS, 7);
    let source_watch = Watch::new();
    let mut leaving =
        source::start(source, Arc::new(UnixAddress(path)), Limits::default(), source_watch.clone()).unwrap();
    assert_eq!(source_watch.until(&[Status::Completed, Status::Failed]), Status::Completed);
    watch.until(&[Status::Completed]);
    leaving.join();
    arriving.join();
    application.verify(&destination);
}
