//! The right to resume the guest, where something panics on the source: before the hand-over the
//! guest runs on if and only if it ran before; after it, it never runs there again.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Fault, TestGuest, Watch};
use whimbrel_postcopy::channel::{Listener, UnixAddress};
use whimbrel_postcopy::progress::Observer;
use whimbrel_postcopy::source::{Limits, Policy};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::uffd::Uffd;
use whimbrel_postcopy::{destination, source};

const BLOCKS: [u64; 2] = [300, 64];

/// Where something panics, once.
#[derive(Clone, Copy, Debug)]
enum Panic {
    /// In this method of the guest.
    Guest(&'static str),
    /// In the first look at RAM once this status was told.
    Send(Status),
    /// In the observer, when it hears of this status: outside of every action.
    Observer(Status),
}

/// Panics when it is its turn.
struct Planted {
    watch: Arc<Watch>,
    guest: Arc<TestGuest>,
    at: Panic,
    done: AtomicBool,
}

fn fault(method: &'static str) -> Fault {
    Fault { thread: "migration", method, call: 1 }
}

impl Observer for Planted {
    fn status(&self, status: Status) {
        self.watch.status(status);
        match self.at {
            Panic::Send(at) if at == status && !self.done.swap(true, Ordering::SeqCst) => {
                *self.guest.fault.lock().unwrap() = Some(fault("ram"));
            }
            Panic::Observer(at) if at == status && !self.done.swap(true, Ordering::SeqCst) => {
                panic!("the observer fails at {}", status.name());
            }
            _ => {}
        }
    }
    fn pass(&self, _pass: u64) {}
}

/// Migrates a guest with a panic in it: how the source ended, and both guests.
fn migrate(at: Panic, running: bool, policy: Policy, hold: bool) -> (Status, Arc<TestGuest>, Arc<TestGuest>) {
    let guest = TestGuest::new(&BLOCKS, running);
    let arrived = TestGuest::new(&BLOCKS, false);
    for page in 0..BLOCKS[0] {
        guest.write(0, page, page + 1);
    }
    let folder = tempfile::tempdir().unwrap();
    let address = UnixAddress(folder.path().join("migration"));
    let listener = Box::new(Listener::unix(&address).unwrap());
    let mut arriving = destination::start(arrived.clone(), listener, Watch::new()).unwrap();
    if let Panic::Guest(method) = at {
        *guest.fault.lock().unwrap() = Some(fault(method));
    }
    let watch = Watch::new();
    let observer = Planted { watch: watch.clone(), guest: guest.clone(), at, done: AtomicBool::new(false) };
    let limits = Limits { policy, hold, ..Limits::default() };
    let mut leaving = source::start(guest.clone(), Arc::new(address), limits, Arc::new(observer)).unwrap();
    let end = watch.until_last(&[Status::Completed, Status::Failed, Status::PostcopyPaused]);
    leaving.abandon();
    arriving.abandon();
    assert!(guest.fault.lock().unwrap().is_none(), "{at:?}: nothing panicked");
    (end, guest, arrived)
}

#[test]
fn before_the_hand_over_a_panic_leaves_the_guest_running_if_and_only_if_it_ran() {
    let calls = ["start_dirty_log", "clear_dirty", "sync_dirty", "pause", "save"].map(Panic::Guest);
    let sends = [Status::Active, Status::Device].map(Panic::Send);
    let told = [Status::Active, Status::Device].map(Panic::Observer);
    let cases = calls.into_iter().chain(sends).chain(told).map(|at| (at, false));
    let cases: Vec<_> = cases.chain([(Panic::Observer(Status::PreSwitchover), true)]).collect();
    // Each waits up to a second for a last word of the destination: together they wait once.
    std::thread::scope(|scope| {
        for &(at, hold) in &cases {
            for running in [true, false] {
                scope.spawn(move || {
                    let (end, guest, arrived) = migrate(at, running, Policy::Manual, hold);
                    assert_eq!(end, Status::Failed, "{at:?}");
                    assert_eq!(guest.is_running(), running, "{at:?}: it runs on here if it ran");
                    assert!(!arrived.is_running(), "{at:?}: and not there");
                    assert!(!guest.handed_over.load(Ordering::SeqCst));
                });
            }
        }
    });
}

#[test]
fn after_the_hand_over_a_panic_resumes_nothing() {
    for method in ["handed_over", "stop_dirty_log"] {
        let (end, guest, arrived) = migrate(Panic::Guest(method), true, Policy::Manual, false);
        assert_eq!(end, Status::Completed, "{method}");
        assert!(!guest.is_running() && arrived.is_running(), "{method}");
        assert_eq!(guest.resumed.load(Ordering::SeqCst), 0, "{method}");
    }
    if Uffd::open().is_err() {
        return println!("skipped: postcopy is not possible here");
    }
    let at = Panic::Observer(Status::PostcopyActive);
    let (end, guest, _) = migrate(at, true, Policy::AfterPasses(0), false);
    assert_eq!(end, Status::PostcopyPaused);
    assert!(!guest.is_running());
    assert_eq!(guest.resumed.load(Ordering::SeqCst), 0);
}
