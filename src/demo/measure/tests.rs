use super::*;
use crate::demo::trace::Side;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn near(a: Duration, b: Duration, by: Duration) -> bool {
    a.abs_diff(b) <= by
}

/// A guest whose speed in visits per millisecond at each millisecond is `speed`, with a heartbeat
/// every 10 ms.
fn trace(speed: impl Fn(u64) -> u32, blackout: (u64, u64), until: u64) -> Trace {
    let mut trace = Trace::default();
    let mut visits = 0;
    for ms in 0..until {
        let side = if ms <= blackout.0 { Side::Source } else { Side::Destination };
        if ms > blackout.0 && ms < blackout.1 {
            continue;
        }
        visits += speed(ms);
        if ms % 10 == 0 || ms == blackout.0 || ms == blackout.1 {
            trace.hear(side, MS(ms), format!("H {visits:08x} 00\n").as_bytes());
        }
    }
    trace
}

const MARKS: Marks =
    Marks { calm: MS_0, start: Duration::from_secs(1), end: Duration::from_secs(3), until: Duration::from_secs(5) };
const MS_0: Duration = Duration::ZERO;

#[test]
fn a_short_blackout_is_all_there_is() {
    let trace = trace(|_| 1000, (2000, 2040), 5100);
    let measured = Measured::of(&trace, &MARKS).unwrap();
    assert!((measured.speed - 1e6).abs() < 2e3, "{}", measured.speed);
    assert_eq!(measured.blackout, Span { from: MS(2000), to: MS(2040) });
    assert!(near(measured.lost, MS(40), MS(4)), "{:?}", measured.lost);
    assert_eq!((measured.brownouts.len(), measured.recovered), (0, true), "one slow bin is noise");
    assert_eq!(measured.slow_time(), MS_0);
}

#[test]
fn a_brownout_has_a_beginning_and_an_end() {
    let speed = |ms| if (1500..2500).contains(&ms) { 100 } else { 1000 };
    let measured = Measured::of(&trace(speed, (1500, 1510), 5100), &MARKS).unwrap();
    let [brownout] = measured.brownouts[..] else { panic!("{:?}", measured.brownouts) };
    assert!(near(brownout.from, MS(1500), BIN) && near(brownout.to, MS(2500), BIN), "{brownout:?}");
    assert!(measured.recovered);
    assert!(near(measured.slow_time(), brownout.length() - MS(10), MS(1)));
    // 10 ms of nothing, 990 ms at a tenth.
    assert!(near(measured.lost, MS(901), MS(10)), "{:?}", measured.lost);
}

#[test]
fn a_guest_that_stays_slow_has_not_recovered() {
    let speed = |ms| if ms < 1500 { 1000 } else { 700 };
    let measured = Measured::of(&trace(speed, (1500, 1510), 5100), &MARKS).unwrap();
    assert_eq!((measured.recovered, measured.brownouts[0].to), (false, MS(5000)));
}

#[test]
fn a_faster_guest_lost_nothing() {
    let speed = |ms| if ms < 1500 { 1000 } else { 1500 };
    assert_eq!(Measured::of(&trace(speed, (1500, 1501), 5100), &MARKS).unwrap().lost, MS_0);
}

#[test]
fn a_guest_that_says_too_little_cannot_be_measured() {
    assert!(Measured::of(&Trace::default(), &MARKS).is_none());
    let never_arrived = trace(|_| 1000, (2000, 9000), 5100);
    assert!(Measured::of(&never_arrived, &MARKS).is_none());
    let never_worked = trace(|_| 0, (2000, 2040), 5100);
    assert!(Measured::of(&never_worked, &MARKS).is_none());
}

#[test]
fn stretches_until_the_guest_has_recovered() {
    let bins = |text: &str| text.bytes().map(|byte| byte == b'#').collect::<Vec<_>>();
    assert_eq!(slow_stretches(&bins("##...."), 2, 4), [], "before the migration");
    assert_eq!(slow_stretches(&bins("..#...#..."), 0, 9), [], "noise");
    assert_eq!(slow_stretches(&bins("..##..##.."), 0, 5), [(2, 3), (6, 7)]);
    let later = bins("..##............##..............##");
    assert_eq!(slow_stretches(&later, 0, 3), [(2, 3)], "recovered in between");
    assert_eq!(slow_stretches(&later, 0, 12), [(2, 3), (16, 17)], "the migration goes on");
}

#[test]
fn no_work_is_done_in_the_blackout() {
    let beats = [Beat { at: MS(0), visits: 0 }, Beat { at: MS(100), visits: 30 }];
    let work = Work::new(&beats, Span { from: MS(20), to: MS(80) }, 1000.0);
    assert_eq!((work.at(MS(20)), work.at(MS(50)), work.at(MS(80))), (20.0, 20.0, 20.0));
    assert_eq!((work.at(MS(90)).round(), work.at(MS(500))), (25.0, 30.0));
}

#[test]
fn a_guest_that_others_disturb_is_not_steady() {
    let steady = |speed: fn(u64) -> u32| Measured::of(&trace(speed, (2000, 2010), 5100), &MARKS).unwrap().steady;
    assert!(steady(|_| 1000));
    assert!(steady(|ms| if ms < 100 { 100 } else { 1000 }), "a hiccup");
    assert!(!steady(|ms| if ms < 500 { 300 } else { 1000 }));
}
