//! Many attempts that fail, one after the other, of one guest: nothing is left of them, and the
//! next one works.

use serde_json::json;
use whimbrel_postcopy::wire::tag;

use super::case::Mode;
use super::chance::Chance;
use super::journey::{Journey, Stand};
use crate::support::faulty_link::{At, Channel, Direction, Fault, Place, Plan};
use crate::support::{Machine, Transport, Vm, host};

/// Attempts after which everything that is made once has been made.
const WARM: usize = 10;
/// What allocators may keep.
const SLACK_KIB: u64 = 4096;

const MACHINE: &str = "32M";

/// One attempt that comes to nothing; `runs`: the guest runs, else it is paused.
fn fail(source: Vm, chance: &mut Chance, runs: bool) -> (Vm, &'static str) {
    let kind = ["refused", "nobody", "differs", "cancelled", "killed", "cut"][chance.below(6)];
    let (mut source, wanted) = match kind {
        "refused" | "nobody" => {
            let mut source = source;
            let uri = if kind == "refused" { "tcp:127.0.0.1:1" } else { "unix:/nonexistent/whimbrel" };
            source.migrate(uri);
            (source, "failed")
        }
        "differs" => {
            let mut source = source;
            let mut destination = Machine::new("64M").receive(Transport::Tcp);
            let uri = destination.address();
            source.migrate(&uri);
            assert_eq!(destination.wait(), 1);
            (source, "failed")
        }
        "cut" => {
            let tags = [tag::CONFIGURATION, tag::PASS_BEGIN, tag::PAGES, tag::BARRIER, tag::STATE];
            let tag = tags[chance.below(tags.len())];
            let at = [At::Begin, At::Inside][chance.below(2)];
            let place = Place::Message { tag, nth: 1, at };
            let fault = [Fault::Cut, Fault::Reset][chance.below(2)];
            let plan = Plan { channel: Channel::Control, direction: Direction::Forth, place, fault };
            let mut journey = Journey::prepare(Machine::new(MACHINE), source, Some(plan));
            journey.begin([Mode::Precopy, Mode::Hybrid][chance.below(2)], false);
            assert_eq!(journey.settle(true), Stand::Source);
            journey.link.cut();
            assert_eq!(journey.destination.wait(), 1);
            (journey.source, "failed")
        }
        _ => {
            let mut journey = Journey::prepare(Machine::new(MACHINE), source, None);
            journey.source.set(json!({"max-bandwidth": 16 << 20}));
            journey.begin(Mode::Precopy, chance.below(2) == 0);
            // What was said of the attempt before may not have been heard yet.
            while journey.source.qmp.await_event("MIGRATION")["status"] != "setup" {}
            journey.source.qmp.await_migration("active");
            for _ in 0..chance.below(30) {
                if runs {
                    journey.source.guest.next_record();
                }
            }
            let killed = kind == "killed";
            if killed {
                journey.destination.kill();
                journey.link.cut();
            } else {
                journey.source.qmp.query("migrate_cancel");
            }
            assert_eq!(journey.settle(true), Stand::Source);
            journey.source.set(json!({"max-bandwidth": 0}));
            if !killed {
                journey.link.cut();
                assert_eq!(journey.destination.wait(), 1);
            }
            (journey.source, if killed { "failed" } else { "cancelled" })
        }
    };
    // The attempts without a link of ours are not over yet.
    loop {
        let report = source.qmp.query("query-migrate");
        match report["status"].as_str() {
            Some("failed" | "cancelled") => {
                assert_eq!(report["status"], wanted);
                break;
            }
            _ => _ = source.qmp.await_event("MIGRATION"),
        }
    }
    source.qmp.forget_events();
    assert_eq!(source.qmp.status(), if runs { "running" } else { "paused" });
    (source, kind)
}

/// The good one at last.
fn succeed(mut source: Vm, runs: bool) {
    let mut destination = Machine::new(MACHINE).receive(Transport::Tcp);
    let uri = destination.address();
    source.set(json!({"x-postcopy-after": 1}));
    source.migrate(&uri);
    source.qmp.await_migration("completed");
    destination.qmp.await_migration("completed");
    if !runs {
        assert_eq!(destination.qmp.status(), "paused");
        destination.qmp.query("cont");
    }
    destination.guest.assert_whole();
    destination.guest.await_visits(3);
    assert_eq!(source.quit(), 0);
    assert_eq!(destination.end_guest(), 0);
}

#[test]
fn fifty_attempts_fail_and_then_one_works() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let mut chance = Chance::new("fifty attempts");
    let mut source = Machine::new(MACHINE).boot_and_begin("ws=16M order=rand write=50 zero=20");
    let (mut warm, mut kinds) = (None, Vec::new());
    for attempt in 0..50 {
        let kind;
        (source, kind) = fail(source, &mut chance, true);
        kinds.push(kind);
        if attempt + 1 == WARM {
            source.guest.assert_whole();
            warm = Some(source.footprint());
        }
    }
    source.guest.assert_whole();
    let (warm, end) = (warm.unwrap(), source.footprint());
    println!("after {WARM} attempts {warm:?}, after {} {end:?}", kinds.len());
    assert_eq!((end.files, end.threads), (warm.files, warm.threads), "after {kinds:?}");
    assert!(end.rss_kib < warm.rss_kib + SLACK_KIB, "{warm:?} became {end:?} after {kinds:?}");
    succeed(source, true);
}

#[test]
fn a_paused_guest_stays_paused_through_failures() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let mut chance = Chance::new("paused");
    let mut source = Machine::new(MACHINE).boot_and_begin("ws=16M order=rand write=50");
    source.qmp.query("stop");
    for _ in 0..10 {
        (source, _) = fail(source, &mut chance, false);
    }
    succeed(source, false);
}
