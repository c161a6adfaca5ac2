//! Schedules by hand.

use std::time::Duration;

use whimbrel_postcopy::host::Line;
use whimbrel_postcopy::source::{Limits, Policy};
use whimbrel_postcopy::stats::Status;

use crate::plan::{Event, Plan, Planned};
use crate::world::{End, play};

#[test]
fn a_precopy_ends_where_nothing_goes_wrong() {
    assert_eq!(play(1, Plan::calm(Policy::Manual)).end, End::MovedByPrecopy);
}

#[test]
fn a_postcopy_serves_the_pages_that_are_touched() {
    assert_eq!(play(1, Plan::calm(Policy::AfterPasses(0))).end, End::MovedByPostcopy);
}

#[test]
fn a_schedule_is_the_same_each_time() {
    let turns = [0; 2].map(|_| play(7, Plan::calm(Policy::AfterPasses(1))).turns);
    assert_eq!(turns[0], turns[1]);
}

/// A guest of some huge pages that is touched everywhere while its pages come slowly.
fn touched_everywhere() -> Plan {
    let limits = Limits { postcopy_bandwidth: 30_000_000, ..Limits::default() };
    Plan {
        blocks: vec![2600],
        lines: vec![Line { latency: Duration::from_micros(300), bytes_per_second: 5_000_000_000 }],
        scale: 64,
        limits: Limits { policy: Policy::AfterPasses(0), ..limits },
        pace: Duration::from_micros(5),
        writes: 95,
        touches: 150,
        ..Plan::calm(Policy::Manual)
    }
}

/// The page had come in the background, was touched, written, and taken back into the shadow, and
/// the answer to an earlier request for it came then.
#[test]
fn a_late_answer_does_not_overwrite_what_was_taken_back() {
    (1..60).for_each(|seed| assert_eq!(play(seed, touched_everywhere()).end, End::MovedByPostcopy));
}

/// Where the host runs out of memory in the middle of moving pages in, those that are in already
/// are known to be.
#[test]
fn pages_that_went_in_before_memory_ran_out_are_kept() {
    let short = |after| Planned {
        event: Event::OutOfMemory(Duration::from_millis(40)),
        status: Status::PostcopyActive,
        after: Duration::from_micros(after),
    };
    for seed in 1..40 {
        let plan = Plan { events: vec![short(seed * 300)], calm: Duration::from_millis(60), ..touched_everywhere() };
        assert_eq!(play(seed, plan).end, End::MovedByPostcopy);
    }
}

/// A cancel that was accepted while the migration ended of itself was shown as under way for ever.
#[test]
fn nothing_is_told_of_a_migration_after_its_end() {
    for seed in 1..300 {
        let cancel = Planned { event: Event::Cancel, status: Status::Device, after: Duration::from_micros(seed % 60) };
        let plan = Plan { events: vec![cancel], ..Plan::calm(Policy::Manual) };
        assert!(matches!(play(seed, plan).end, End::Cancelled | End::MovedByPrecopy));
    }
}
