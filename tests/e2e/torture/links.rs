//! Faults of the link.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::json;

use super::case::{self, Case, Mode, When};
use super::journey::{Journey, Stand};
use super::{finish, report};
use crate::support::faulty_link::{Channel, Fault, GREETING, Place, Plan};
use crate::support::{Machine, host};

/// Only cases whose names contain this.
const ONLY: &str = "WHIMBREL_CASE";

const WORKLOAD: &str = "ws=16M order=rand write=50 zero=20";

/// Bytes per second: in a pass this long the guest writes enough to leave something to the postcopy, also on a busy host.
const PASS: u64 = 40 << 20;

/// For a link so slow that a precopy of the other would go on for ever.
const CALM: &str = "ws=16M rate=2000 zero=20";

/// The hosts hear of these; of the others nobody can know.
fn is_noticed(fault: Fault) -> bool {
    use Fault::{Drop, DropBytes, Duplicate, DuplicateBytes, HalfClose, Stall};
    !matches!(fault, Drop | DropBytes | Duplicate | DuplicateBytes | HalfClose | Stall)
}

/// Whether the fault comes at a page that is asked for.
fn waits_for_touches(plan: &Plan) -> bool {
    let greets = matches!(plan.place, Place::Message { tag: GREETING, .. });
    plan.channel == Channel::Demand && !greets
}

/// How the guest came to stand after the fault, where it is in the end, and how often its halves were joined.
fn run(case: &Case) -> (Stand, Stand, u32) {
    let machine = Machine::new("32M").cpus(case.cpus());
    let is_slow = matches!(case.fault(), Fault::Delay(_)) && case.mode == Mode::Precopy;
    let source = machine.boot_and_begin(if is_slow { CALM } else { WORKLOAD });
    let plan = if let When::There(plan) = case.when { Some(plan) } else { None };
    let mut journey = Journey::prepare(machine, source, plan);
    match case.when {
        When::There(plan) if waits_for_touches(&plan) && case.mode != Mode::Precopy => {
            // The background must not bring what the guest would ask for.
            journey.source.set(json!({"max-bandwidth": PASS, "max-postcopy-bandwidth": 1 << 20}));
            journey.begin(case.mode, case.multifd);
            journey.await_strike();
            journey.source.set(json!({"max-bandwidth": 0, "max-postcopy-bandwidth": 0}));
        }
        When::There(_) => journey.begin(case.mode, case.multifd),
        When::Status(status, channel, fault) => {
            journey.source.set(json!({"max-bandwidth": 8 << 20, "max-postcopy-bandwidth": 2 << 20}));
            if status == "postcopy-active" {
                journey.source.set(json!({"max-bandwidth": PASS}));
            }
            journey.begin(case.mode, case.multifd);
            journey.source.qmp.await_migration(status);
            // The source says so from the hand-over on, the destination once the guest runs there.
            journey.destination.qmp.await_migration(status);
            journey.link.strike(channel, fault);
            journey.source.set(json!({"max-bandwidth": 0, "max-postcopy-bandwidth": 0}));
        }
        When::Rejoining(plan) => {
            journey.source.set(json!({"max-bandwidth": PASS, "max-postcopy-bandwidth": 2 << 20}));
            journey.begin(case.mode, case.multifd);
            journey.await_postcopy();
            journey.link.cut();
            assert_eq!(journey.settle(true), Stand::Halves);
            journey.source.set(json!({"max-postcopy-bandwidth": 0}));
            assert!(journey.join(Some(plan)));
        }
    }
    let stand = journey.settle(is_noticed(case.fault()));
    assert!(journey.link.has_struck(), "the migration never came to the place");
    assert!(case.door.allows(stand), "{stand:?}, which {:?} does not allow: {:?}", case.door, journey.look());
    let joined = journey.joined;
    let end = journey.end(stand);
    (stand, end, joined)
}

/// Runs every case to its end, also after one that failed.
fn run_all(cases: impl Iterator<Item = Case>) {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let only = std::env::var(ONLY).unwrap_or_default();
    let mut failed = Vec::new();
    for case in cases {
        let name = case.to_string();
        if !name.contains(&only) {
            continue;
        }
        let begun = std::time::Instant::now();
        match catch_unwind(AssertUnwindSafe(|| run(&case))) {
            Ok((stand, end, _)) => {
                let outcome = match (stand, end) {
                    (Stand::Halves | Stand::LastWordLost, Stand::Destination) => "recovered".to_owned(),
                    (Stand::Halves, Stand::Source) => "taken back".to_owned(),
                    (stand, end) if stand == end => format!("{end:?}"),
                    (stand, end) => format!("{stand:?}, then {end:?}"),
                };
                report("link", &outcome, &format!("{name} ({} ms)", begun.elapsed().as_millis()));
            }
            Err(_) => {
                report("link", "FAILED", &name);
                failed.push(name);
            }
        }
    }
    finish(&failed);
}

fn half(cases: Vec<Case>, which: usize) -> impl Iterator<Item = Case> {
    cases.into_iter().enumerate().filter(move |(at, _)| at % 2 == which).map(|(_, case)| case)
}

#[test]
fn every_fault_on_every_channel_in_every_mode_even() {
    run_all(half(case::short(), 0));
}

#[test]
fn every_fault_on_every_channel_in_every_mode_odd() {
    run_all(half(case::short(), 1));
}

#[test]
#[ignore = "the long form: scripts/torture cases"]
fn all_even() {
    run_all(half(case::all(), 0));
}

#[test]
#[ignore = "the long form: scripts/torture cases"]
fn all_odd() {
    run_all(half(case::all(), 1));
}

/// The table is what it claims to be.
#[test]
fn there_are_hundreds_of_cases_and_no_two_alike() {
    let names: Vec<String> = case::all().iter().map(|case| case.to_string()[4..].to_owned()).collect();
    let distinct: std::collections::HashSet<&String> = names.iter().collect();
    assert!(names.len() > 400, "{} cases", names.len());
    assert_eq!(distinct.len(), names.len());
    println!("{} cases, {} in the short form", names.len(), case::short().len());
}
