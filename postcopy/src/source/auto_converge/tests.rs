use super::*;

const MIB: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);

const CONVERGE: AutoConverge = AutoConverge { threshold: 50, initial: 20, increment: 10, tailslow: false, most: 99 };

fn window(dirtied: u64, sent: u64, elapsed: Duration) -> Window {
    Window { dirtied: dirtied * MIB, sent: sent * MIB, elapsed }
}

/// The throttles in percent after each of these windows of a second, in which 100 MiB were sent.
fn percents(converge: AutoConverge, dirtied: &[u64]) -> Vec<u8> {
    let policy = ThrottlePolicy::AutoConverge(converge);
    let mut slowdown = Slowdown::default();
    let after = |dirtied: &u64| {
        slowdown.seen(window(*dirtied, 100, SECOND), &policy);
        slowdown.throttle().as_percent()
    };
    dirtied.iter().map(after).collect()
}

#[test]
fn every_second_window_above_the_threshold_throttles_more() {
    assert_eq!(percents(CONVERGE, &[51; 8]), [0, 20, 20, 30, 30, 40, 40, 50]);
    assert_eq!(percents(CONVERGE, &[50; 8]), [0; 8]);
    assert_eq!(percents(CONVERGE, &[90, 10, 10, 90, 10]), [0, 0, 0, 20, 20], "they need not follow each other");
    assert_eq!(*percents(CONVERGE, &[100; 40]).last().unwrap(), 99);
}

#[test]
fn the_parameters_are_the_users() {
    let others = AutoConverge { threshold: 20, initial: 70, increment: 15, most: 90, ..CONVERGE };
    assert_eq!(percents(others, &[21; 6]), [0, 70, 70, 85, 85, 90]);
    assert_eq!(percents(AutoConverge { initial: 95, ..others }, &[21; 2]), [0, 90]);
}

#[test]
fn the_tail_is_slow_where_wanted() {
    let slow = AutoConverge { tailslow: true, increment: 30, ..CONVERGE };
    // What is left to the vCPUs, 80, times 50 / 60 is 66: 14 less.
    assert_eq!(percents(slow, &[60; 4]), [0, 20, 20, 34]);
    // Far away from the threshold the increment is less.
    assert_eq!(percents(slow, &[1000; 4]), [0, 20, 20, 50]);
}

#[test]
fn short_passes_are_judged_together() {
    let policy = ThrottlePolicy::AutoConverge(CONVERGE);
    let mut slowdown = Slowdown::default();
    for n in 1..=19 {
        slowdown.seen(window(60, 100, SECOND / 10), &policy);
        assert!(slowdown.throttle().is_none(), "{n}");
    }
    slowdown.seen(window(60, 100, SECOND / 10), &policy);
    assert_eq!(slowdown.throttle(), Throttle::percent(20));
    assert_eq!(slowdown.report(&policy), Some(Throttling::AutoConverge(20)));
}

#[test]
fn switched_off_it_lets_go() {
    let policy = ThrottlePolicy::AutoConverge(CONVERGE);
    let mut slowdown = Slowdown::default();
    for _ in 0..2 {
        slowdown.seen(window(60, 100, SECOND), &policy);
    }
    assert!(!slowdown.throttle().is_none());
    slowdown.seen(window(60, 100, SECOND), &ThrottlePolicy::Off);
    assert!(slowdown.throttle().is_none());
}

/// A guest that writes its working set at random. Returns what it dirties, in MiB.
fn dirties(working_set: f64, speed: f64, throttle: Throttle, elapsed: Duration) -> f64 {
    let written = speed * throttle.share() * elapsed.as_secs_f64();
    working_set * (1.0 - (-written / working_set).exp())
}

/// The dirty rates in MiB/s, interval after interval, under a limit that holds from the begin on.
fn regulated(working_set: f64, speed: f64, limit: f64) -> Vec<f64> {
    let mut throttle = Throttle::NONE;
    let step = |_| {
        let dirtied = dirties(working_set, speed, throttle, SECOND);
        throttle = regulate(throttle, (dirtied * MIB as f64) as u64, SECOND, (limit * MIB as f64) as u64);
        dirtied
    };
    (0..40).map(step).collect()
}

#[test]
fn a_limit_is_reached_and_kept() {
    for (working_set, speed, limit) in [(1e6, 500.0, 50.0), (64.0, 500.0, 20.0), (64.0, 900.0, 60.0), (1e6, 30.0, 20.0)]
    {
        let rates = regulated(working_set, speed, limit);
        for rate in &rates[15..] {
            let off = (rate - limit).abs() / limit;
            assert!(off < 0.15, "{working_set} {speed} {limit}: {rates:?}");
        }
    }
}

#[test]
fn who_stays_below_the_limit_is_let_alone() {
    let rates = regulated(1e6, 10.0, 20.0);
    assert!(rates.iter().all(|rate| *rate == rates[0]), "{rates:?}");
}

#[test]
fn a_guest_that_writes_less_later_gets_its_time_back() {
    let mut throttle = Throttle::percent(90);
    for _ in 0..10 {
        throttle = regulate(throttle, 0, SECOND, MIB);
    }
    assert!(throttle.is_none());
    assert_eq!(regulate(Throttle::MOST, u64::MAX, SECOND, 1), Throttle::MOST);
    assert_eq!(regulate(Throttle::MOST, u64::MAX, Duration::ZERO, 1), Throttle::MOST);
}

#[test]
fn the_limit_holds_only_from_when_the_guest_does_not_converge() {
    let policy = ThrottlePolicy::DirtyLimit(DirtyLimit { threshold: 50, rate: 10 * MIB, period: SECOND / 4 });
    let mut slowdown = Slowdown::default();
    for _ in 0..20 {
        slowdown.seen(window(12, 25, SECOND / 4), &policy);
        assert_eq!(slowdown.report(&policy), None);
    }
    for _ in 0..7 {
        slowdown.seen(window(13, 25, SECOND / 4), &policy);
    }
    assert!(slowdown.throttle().is_none());
    slowdown.seen(window(13, 25, SECOND / 4), &policy);
    let first = slowdown.throttle();
    assert!(!first.is_none());
    assert!(matches!(slowdown.report(&policy), Some(Throttling::DirtyLimit(rest)) if !rest.is_zero()));
    // And from there on in every interval, whatever is sent.
    slowdown.seen(window(5, 1000, SECOND / 4), &policy);
    assert!(slowdown.throttle() > first);
}
