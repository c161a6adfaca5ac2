//! Faults of the link.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::json;

use super::case::{self, Case, Door, Mode, When};
use super::journey::{Journey, Stand};
use super::{finish, report};
use crate::support::faulty_link::{Channel, Direction, Fault, GREETING, Place, Plan};
use crate::support::{Machine, host};

/// Only cases whose names contain this.
const ONLY: &str = "WHIMBREL_CASE";

/// What the machines have.
pub const MEMORY: &str = "32M";

const WORKLOAD: &str = "ws=16M order=rand write=50 zero=20";

/// Bytes per second: in a pass this long the guest writes enough to leave something to the
/// postcopy, also on a busy host.
const PASS: u64 = 40 << 20;

/// For a link so slow that a precopy of the other would go on for ever.
const CALM: &str = "ws=16M rate=2000 zero=20";

/// The hosts hear of these; of the others nobody can know.
fn is_noticed(case: &Case) -> bool {
    use Fault::{Drop, DropBytes, Duplicate, DuplicateBytes, HalfClose, Stall};
    match case.fault() {
        // TLS counts its records.
        Duplicate => case.tls && matches!(case.door, Door::Closed | Door::Broken),
        fault => !matches!(fault, Drop | DropBytes | DuplicateBytes | HalfClose | Stall),
    }
}

/// Whether the side that reads it must say so: contents of an encrypted channel that are not what
/// was sent.
fn is_damage(case: &Case) -> bool {
    let strict = matches!(case.door, Door::Closed | Door::Broken);
    let speaks = match case.when {
        When::There(plan) | When::Recovering(plan) => matches!(plan.place, Place::Record { nth: 4.., .. }),
        When::From(..) => true,
        When::Status(..) => false,
    };
    case.tls && strict && speaks && case.fault() == Fault::CorruptContents
}

/// Whether the fault comes at a page that is asked for.
fn waits_for_touches(plan: &Plan) -> bool {
    let greets = matches!(plan.place, Place::Message { tag: GREETING, .. } | Place::Record { .. });
    plan.channel == Channel::Demand && !greets
}

/// How the guest came to stand after the fault, where it is in the end, and how often its halves
/// were joined.
fn run(case: &Case, machine: &Machine) -> (Stand, Stand, u32) {
    let machine = machine.clone().cpus(case.cpus());
    let is_slow = matches!(case.fault(), Fault::Delay(_)) && case.mode == Mode::Precopy;
    let source = machine.boot_and_begin(if is_slow { CALM } else { WORKLOAD });
    let plan = if let When::There(plan) = case.when { Some(plan) } else { None };
    let mut journey = match case.tls {
        true => Journey::encrypted(machine, source, plan, case.multifd),
        false => Journey::prepare(machine, source, plan),
    };
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
            come_to(&mut journey, case, status);
            journey.link.strike(channel, fault);
            journey.source.set(json!({"max-bandwidth": 0, "max-postcopy-bandwidth": 0}));
        }
        When::From(status, plan) => {
            come_to(&mut journey, case, status);
            journey.link.arm(plan);
            if plan.direction == Direction::Back && plan.channel == Channel::Control {
                // Nothing more is said there until all has come.
                journey.source.set(json!({"max-bandwidth": 0, "max-postcopy-bandwidth": 0}));
            }
            journey.await_strike();
            journey.source.set(json!({"max-bandwidth": 0, "max-postcopy-bandwidth": 0}));
        }
        When::Recovering(plan) => {
            journey.source.set(json!({"max-bandwidth": PASS, "max-postcopy-bandwidth": 2 << 20}));
            journey.begin(case.mode, case.multifd);
            journey.await_postcopy();
            journey.link.cut();
            assert_eq!(journey.settle(true), Stand::Halves);
            journey.source.set(json!({"max-postcopy-bandwidth": 0}));
            assert!(journey.join(Some(plan)));
        }
    }
    let stand = journey.settle(is_noticed(case));
    assert!(journey.link.has_struck(), "the migration never came to the place");
    assert!(case.door.allows(stand), "{stand:?}, which {:?} does not allow: {:?}", case.door, journey.look());
    if is_damage(case) {
        let told = format!("{}{}{:?}", journey.source.log(), journey.destination.log(), journey.look());
        assert!(told.contains("was damaged on its way"), "nobody says that it was damaged:\n{told}");
    }
    let joined = journey.joined;
    let end = journey.end(stand);
    (stand, end, joined)
}

/// Both sides are there, slowly enough to be met there.
fn come_to(journey: &mut Journey, case: &Case, status: &str) {
    journey.source.set(json!({"max-bandwidth": 8 << 20, "max-postcopy-bandwidth": 2 << 20}));
    if status == "postcopy-active" {
        journey.source.set(json!({"max-bandwidth": PASS}));
    }
    journey.begin(case.mode, case.multifd);
    journey.source.qmp.await_migration(status);
    // The source says so from the hand-over on, the destination once the guest runs there.
    journey.destination.qmp.await_migration(status);
}

/// Runs every case to its end with machines like this one, also after one that failed.
pub fn run_all(machine: &Machine, cases: impl Iterator<Item = Case>) {
    let only = std::env::var(ONLY).unwrap_or_default();
    let mut failed = Vec::new();
    for case in cases {
        let name = case.to_string();
        if !name.contains(&only) {
            continue;
        }
        let begun = std::time::Instant::now();
        match catch_unwind(AssertUnwindSafe(|| run(&case, machine))) {
            Ok((stand, end, _)) => {
                let outcome = match (stand, end) {
                    (Stand::Halves | Stand::LastWordLost, Stand::Destination) => "recovered".to_owned(),
                    (Stand::Halves, Stand::Source) => "taken back".to_owned(),
                    (stand, end) if stand == end => format!("{end:?}"),
                    (stand, end) => format!("{stand:?}, then {end:?}"),
                };
                report(kind(&case), &outcome, &format!("{name} ({} ms)", begun.elapsed().as_millis()));
            }
            Err(_) => {
                report(kind(&case), "FAILED", &name);
                failed.push(name);
            }
        }
    }
    finish(&failed);
}

fn kind(case: &Case) -> &'static str {
    if case.tls { "tls" } else { "link" }
}

fn in_the_clear(cases: impl Iterator<Item = Case>) {
    if host::has_kvm_and_uffd() {
        run_all(&Machine::new(MEMORY), cases);
    }
}

pub fn half(cases: Vec<Case>, which: usize) -> impl Iterator<Item = Case> {
    cases.into_iter().enumerate().filter(move |(at, _)| at % 2 == which).map(|(_, case)| case)
}

#[test]
fn every_fault_on_every_channel_in_every_mode_even() {
    in_the_clear(half(case::short(), 0));
}

#[test]
fn every_fault_on_every_channel_in_every_mode_odd() {
    in_the_clear(half(case::short(), 1));
}

#[test]
#[ignore = "the long form: scripts/torture cases"]
fn all_even() {
    in_the_clear(half(case::all(), 0));
}

#[test]
#[ignore = "the long form: scripts/torture cases"]
fn all_odd() {
    in_the_clear(half(case::all(), 1));
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
