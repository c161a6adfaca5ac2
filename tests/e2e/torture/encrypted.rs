//! Faults of a link with TLS: nobody on it can read the messages, and whatever is done to a record
//! is noticed.
//!
//! Records 1 and 2 of each direction of a channel are TLS's own in the clear, 3 is the certificate,
//! 4 the greeting; the messages begin at 5.

use std::collections::HashSet;
use std::time::Duration;

use super::case::{Case, Door, Mode, When};
use super::links::{MEMORY, half, run_all};
use crate::support::faulty_link::{At, Channel, Direction, Fault, Place, Plan};
use crate::support::{Machine, host};
use crate::tls::certificates::{Authority, Directory};

/// All that can be done to a record. One that lies across the end of a channel is a truncation.
const FAULTS: [(Fault, At); 13] = [
    (Fault::CorruptContents, At::Begin),
    (Fault::Cut, At::Begin),
    (Fault::Drop, At::Begin),
    (Fault::Stall, At::Inside),
    (Fault::Duplicate, At::Begin),
    (Fault::Cut, At::Inside),
    (Fault::CorruptNumber, At::Begin),
    (Fault::HalfClose, At::Inside),
    (Fault::CorruptLength, At::Begin),
    (Fault::Delay(Duration::from_millis(3)), At::Begin),
    (Fault::DropBytes, At::Begin),
    (Fault::Reset, At::Inside),
    (Fault::CorruptFlags, At::Begin),
];

/// How many of them come to a place that is like others. No divisor of their number, so that all
/// get their turn.
const SOME: usize = 2;

/// A place in the life of a channel.
struct Spot {
    channel: Channel,
    direction: Direction,
    /// Which record, or the first one after that the source has this status.
    at: Result<u32, &'static str>,
    rejoining: bool,
    door: Door,
    /// Whether everything is done to it.
    all: bool,
}

fn spots(mode: Mode, multifd: bool) -> Vec<Spot> {
    use Direction::{Back, Forth};
    let (control, demand) = (Channel::Control, Channel::Demand);
    let mut spots = Vec::new();
    let mut add = |channel, direction, at, door, all| {
        spots.push(Spot { channel, direction, at, rejoining: false, door, all });
    };
    if multifd {
        for (channel, direction) in [(Channel::Multifd(0), Forth), (Channel::Multifd(1), Back)] {
            [1, 3, 4].into_iter().for_each(|nth| add(channel, direction, Ok(nth), Door::Closed, false));
        }
        if mode != Mode::AtOnce {
            add(Channel::Multifd(1), Forth, Err("active"), Door::Closed, true);
        }
        return spots;
    }
    for direction in [Forth, Back] {
        for nth in [1, 3, 4, 5] {
            add(control, direction, Ok(nth), Door::Closed, false);
        }
        for nth in [1, 3, 4] {
            add(demand, direction, Ok(nth), Door::Closed, false);
        }
    }
    match mode {
        Mode::AtOnce => {
            // The command to stand ready, the state, the hand-over; then how that went.
            [(6, Door::Closed), (7, Door::Closed), (8, Door::Between)]
                .into_iter()
                .for_each(|(nth, door)| add(control, Forth, Ok(nth), door, nth == 8));
            [(6, Door::Closed), (7, Door::Between), (8, Door::Broken)]
                .into_iter()
                .for_each(|(nth, door)| add(control, Back, Ok(nth), door, nth == 7));
        }
        Mode::Precopy | Mode::Hybrid => {
            // Page contents, and how far they have come.
            add(control, Forth, Err("active"), Door::Closed, true);
            add(control, Back, Ok(6), Door::Closed, false);
        }
    }
    if mode != Mode::Precopy {
        for (channel, direction) in [(control, Forth), (control, Back), (demand, Forth), (demand, Back)] {
            add(channel, direction, Err("postcopy-active"), Door::Broken, mode == Mode::AtOnce);
        }
        for (channel, direction) in [(control, Forth), (control, Back), (demand, Forth), (demand, Back)] {
            for nth in [1, 3, 4] {
                let door = Door::Broken;
                spots.push(Spot { channel, direction, at: Ok(nth), rejoining: true, door, all: false });
            }
        }
        // What has come, and what is missing.
        for direction in [Forth, Back] {
            let door = Door::Broken;
            spots.push(Spot { channel: control, direction, at: Ok(5), rejoining: true, door, all: false });
        }
    }
    spots
}

/// How strict a case can be.
fn door(spot: &Spot, fault: Fault) -> Door {
    match spot.door {
        _ if matches!(fault, Fault::Delay(_)) => Door::Harmless,
        // What is asked for in vain comes unasked in the end.
        Door::Broken if fault == Fault::Stall && spot.channel == Channel::Demand && !spot.rejoining => Door::After,
        other => other,
    }
}

fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (mode, multifd) in Mode::ALL.into_iter().flat_map(|mode| [(mode, false), (mode, true)]) {
        for spot in spots(mode, multifd) {
            let count = if spot.all { FAULTS.len() } else { SOME };
            for _ in 0..count {
                let number = cases.len();
                let (fault, at) = FAULTS[number % FAULTS.len()];
                let place = match spot.at {
                    Ok(nth) => Place::Record { nth, at },
                    Err(_) => Place::Next(at),
                };
                let plan = Plan { channel: spot.channel, direction: spot.direction, place, fault };
                let when = match spot.at {
                    Err(status) => When::From(status, plan),
                    Ok(_) if spot.rejoining => When::Recovering(plan),
                    Ok(_) => When::There(plan),
                };
                cases.push(Case { number, mode, multifd, tls: true, when, door: door(&spot, fault) });
            }
        }
    }
    cases
}

/// Each once, somewhere.
fn short() -> Vec<Case> {
    let mut cases = all();
    cases.sort_by_key(|case| case.number.wrapping_mul(0x9E37_79B9) % 4096);
    let mut seen = HashSet::new();
    cases.retain(|case| seen.insert(case.number % FAULTS.len()));
    cases
}

fn run(cases: impl Iterator<Item = Case>) {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let directory = Directory::complete(&Authority::new());
    let machine = Machine::new(MEMORY).with(&["--tls-dir", directory.path().to_str().unwrap()]);
    run_all(&machine, cases);
}

#[test]
fn every_fault_of_records_even() {
    run(half(short(), 0));
}

#[test]
fn every_fault_of_records_odd() {
    run(half(short(), 1));
}

#[test]
#[ignore = "the long form: scripts/torture cases"]
fn all_even() {
    run(half(all(), 0));
}

#[test]
#[ignore = "the long form: scripts/torture cases"]
fn all_odd() {
    run(half(all(), 1));
}

/// The table is what it claims to be.
#[test]
fn there_are_many_cases_and_no_two_alike() {
    let names: HashSet<String> = all().iter().map(|case| case.to_string()[4..].to_owned()).collect();
    assert_eq!(names.len(), all().len());
    assert!(names.len() > 150, "{} cases", names.len());
    assert_eq!(short().len(), FAULTS.len());
    println!("{} cases, {} in the short form", names.len(), short().len());
}
