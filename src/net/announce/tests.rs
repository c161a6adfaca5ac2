use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// When the rounds are made, in milliseconds from the start, by somebody who is always `late` by so
/// much.
fn rounds(schedule: Schedule, late: u64) -> Vec<u128> {
    let start = Instant::now();
    let mut announcement = Announcement::begin(schedule, start);
    let mut made = Vec::new();
    while let Some(at) = announcement.next() {
        assert!(at == start || !announcement.take(at - ms(1)), "a round before its time");
        let now = at + ms(late);
        assert!(announcement.take(now));
        assert!(!announcement.take(now) || announcement.next() == Some(now));
        made.push((now - start).as_millis());
    }
    assert!(!announcement.take(start + ms(1_000_000)), "a round after the last");
    made
}

#[test]
fn qemus_defaults() {
    assert_eq!(rounds(Schedule::default(), 0), [0, 50, 200, 450, 800]);
}

#[test]
fn no_delay_is_longer_than_the_longest() {
    let schedule = Schedule { initial: ms(100), max: ms(250), rounds: 6, step: ms(100) };
    assert_eq!(rounds(schedule, 0), [0, 100, 300, 550, 800, 1050]);
    // Also when the first delay is.
    let schedule = Schedule { initial: ms(900), max: ms(10), rounds: 3, step: ms(1) };
    assert_eq!(rounds(schedule, 0), [0, 10, 20]);
}

#[test]
fn late_rounds_keep_their_distance() {
    assert_eq!(rounds(Schedule { rounds: 3, ..Schedule::default() }, 20), [20, 90, 260]);
}

#[test]
fn one_round_or_none() {
    assert_eq!(rounds(Schedule { rounds: 1, ..Schedule::default() }, 0), [0]);
    assert!(rounds(Schedule { rounds: 0, ..Schedule::default() }, 0).is_empty());
}

#[test]
fn the_largest_values_do_not_overflow() {
    let mut schedule = Schedule::default();
    for (timing, value) in
        [(Timing::Initial, 100_000), (Timing::Max, 100_000), (Timing::Rounds, 1000), (Timing::Step, 10_000)]
    {
        schedule.set(timing, value).unwrap();
        assert_eq!(schedule.get(timing), value);
    }
    assert_eq!(schedule.delay_after(999), Some(ms(100_000)));
    assert_eq!(schedule.delay_after(1000), None);
    assert_eq!(Schedule { rounds: u32::MAX, ..schedule }.delay_after(u32::MAX - 1), Some(ms(100_000)));
}

#[test]
fn values_outside_their_range_change_nothing() {
    let mut schedule = Schedule::default();
    for (timing, value) in [
        (Timing::Initial, -1),
        (Timing::Initial, 100_001),
        (Timing::Max, 100_001),
        (Timing::Rounds, 1001),
        (Timing::Rounds, 1 << 32),
        (Timing::Step, 0),
        (Timing::Step, 10_001),
    ] {
        assert_eq!(schedule.set(timing, value), Err(OutOfRange), "{timing:?} {value}");
    }
    assert_eq!(schedule, Schedule::default());
}

#[test]
fn announcements_with_names_go_side_by_side() {
    let start = Instant::now();
    let every = |step| Schedule { initial: ms(step), max: ms(step), rounds: 3, step: ms(1) };
    let mut all = Announcements::default();
    assert_eq!((all.next(), all.take(start)), (None, false));
    all.start("a", every(10), start).unwrap();
    all.start("b", every(15), start).unwrap();
    let mut made = Vec::new();
    while let Some(at) = all.next() {
        assert!(all.take(at));
        made.push((at - start).as_millis());
    }
    // a: 0, 10, 20; b: 0, 15, 30; what is due at the same moment is one round.
    assert_eq!(made, [0, 10, 15, 20, 30]);
}

#[test]
fn the_same_name_begins_anew_and_no_rounds_end_it() {
    let start = Instant::now();
    let mut all = Announcements::default();
    all.start("a", Schedule::default(), start).unwrap();
    assert!(all.take(start));
    all.start("a", Schedule { rounds: 1, ..Schedule::default() }, start + ms(5)).unwrap();
    assert_eq!(all.next(), Some(start + ms(5)));
    assert!(all.take(start + ms(5)));
    assert_eq!(all.next(), None);
    all.start("a", Schedule::default(), start).unwrap();
    all.start("a", Schedule { rounds: 0, ..Schedule::default() }, start).unwrap();
    assert_eq!(all.next(), None);
}

#[test]
fn names_without_end_are_refused() {
    let now = Instant::now();
    let mut all = Announcements::default();
    for n in 0..MAX_NAMED {
        all.start(&n.to_string(), Schedule::default(), now).unwrap();
    }
    assert_eq!(all.start("one more", Schedule::default(), now), Err(TooManyAnnouncements));
    all.start("7", Schedule::default(), now).unwrap();
    all.clear();
    all.start("one more", Schedule::default(), now).unwrap();
}
