#![allow(clippy::unwrap_used)]

use super::calendar::{DAY, Moment, Style};
use super::*;
use crate::state::testing::assert_layout;

/// 2026-11-23 07:45:20 UTC, a Monday.
const NOW: Duration = Duration::from_secs(1_795_419_920);
const BCD: [u8; 8] = [0x20, 0x45, 0x07, 0x02, 0x23, 0x11, 0x26, 0x20];
/// The registers of the time: seconds, minutes, hours, weekday, day, month, year, century.
const TIME: [u8; 8] = [0, 2, 4, 6, 7, 8, 9, 0x32];

fn time(clock: &Clock, now: Duration) -> [u8; 8] {
    TIME.map(|index| clock.read(index, now))
}

fn plus(seconds: u64, nanoseconds: u32) -> Duration {
    NOW + Duration::new(seconds, nanoseconds)
}

#[test]
fn the_calendar_goes_there_and_back() {
    for (seconds, year, month, day) in [
        (0, 1970, 1, 1),
        (951_782_400, 2000, 2, 29),
        (951_868_800, 2000, 3, 1),
        (4_107_542_400, 2100, 3, 1),
        (4_107_456_000, 2100, 2, 28),
        (-86_400, 1969, 12, 31),
        (253_402_214_400, 9999, 12, 31),
    ] {
        let moment = Moment { year, month, day, hour: 0, minute: 0, second: 0 };
        assert_eq!(Moment::of(seconds), moment);
        assert_eq!(moment.seconds(), seconds);
    }
    let mut before = Moment::of(-1);
    for day in 0..200_000 {
        let moment = Moment::of(day * DAY);
        assert_eq!(moment.seconds(), day * DAY);
        assert_eq!(moment.weekday(), before.weekday() % 7 + 1);
        before = moment;
    }
}

#[test]
fn numbers_have_two_styles_and_hours_four() {
    for binary in [false, true] {
        for hours_24 in [false, true] {
            let style = Style { binary, hours_24 };
            for hour in 0..24 {
                assert_eq!(style.hour_value(style.hour(hour)), hour);
            }
            for number in 0..100 {
                assert_eq!(style.value(style.number(number)), number);
            }
        }
    }
    let american = Style { binary: false, hours_24: false };
    assert_eq!([0, 1, 12, 13, 23].map(|hour| american.hour(hour)), [0x12, 0x01, 0x92, 0x81, 0x91]);
}

#[test]
fn it_shows_the_wall_clock() {
    let mut clock = Clock::default();
    assert_eq!(time(&clock, NOW), BCD);
    assert_eq!(time(&clock, plus(0, 999_999_999)), BCD);
    assert_eq!(clock.read(0, plus(1, 0)), 0x21);
    assert_eq!(clock.read(0x0d, NOW), 0x80);
    assert_eq!(clock.read(0x0c, NOW), 0);
    clock.write(0x0b, 0x06, NOW);
    assert_eq!(time(&clock, plus(0, 1)), [20, 45, 7, 2, 23, 11, 26, 20]);
    clock.write(0x0b, 0x00, NOW);
    assert_eq!(clock.read(4, plus(5 * 3600, 0)), 0x92);
}

#[test]
fn a_change_is_announced() {
    let clock = Clock::default();
    let announced = |now| clock.read(0x0a, now) == 0xa6;
    assert!(!announced(NOW));
    assert!(!announced(plus(0, 999_755_000)));
    assert!(announced(plus(0, 999_757_000)));
    assert!(announced(plus(0, 999_999_999)));
}

#[test]
fn one_register_changes_nothing_but_itself() {
    let mut clock = Clock::default();
    clock.write(4, 0x09, plus(0, 300_000_000));
    let mut expected = BCD;
    expected[2] = 0x09;
    assert_eq!(time(&clock, plus(0, 999_999_999)), expected);
    expected[0] = 0x21;
    assert_eq!(time(&clock, plus(1, 0)), expected);
}

/// As Linux does it: held by status B, then the divider in reset; the other way round at the end.
#[test]
fn setting_it_leaves_an_offset() {
    let mut clock = Clock::default();
    clock.write(0x0b, 0x82, NOW);
    clock.write(0x0a, 0x76, NOW);
    for (index, value) in TIME.into_iter().zip([0x30, 0x59, 0x23, 0x01, 0x31, 0x12, 0x99, 0x19]) {
        clock.write(index, value, NOW);
    }
    // Held, for however long.
    assert_eq!(clock.read(0, plus(60, 999_900_000)), 0x30);
    assert_eq!(clock.read(0x0a, plus(60, 999_900_000)), 0x76);
    clock.write(0x0b, 0x02, plus(60, 0));
    assert_eq!(clock.read(0, plus(61, 0)), 0x30);
    clock.write(0x0a, 0x26, plus(60, 200_000_000));
    // The first change comes half a second after the divider is released.
    assert_eq!(clock.read(0, plus(60, 699_999_999)), 0x30);
    assert_eq!(clock.read(0, plus(60, 700_000_000)), 0x31);
    // And the century turns, on a Saturday.
    let eve = time(&clock, plus(60 + 28, 700_000_000));
    assert_eq!(eve, [0x59, 0x59, 0x23, 0x06, 0x31, 0x12, 0x99, 0x19]);
    let turn = time(&clock, plus(60 + 29, 700_000_000));
    assert_eq!(turn, [0x00, 0x00, 0x00, 0x07, 0x01, 0x01, 0x00, 0x20]);
}

#[test]
fn a_clock_held_without_its_divider_keeps_its_phase() {
    let mut clock = Clock::default();
    clock.write(0x0b, 0x82, NOW);
    clock.write(0, 0x50, NOW);
    clock.write(0x0b, 0x02, plus(0, 900_000_000));
    assert_eq!(clock.read(0, plus(0, 999_999_999)), 0x50);
    assert_eq!(clock.read(0, plus(1, 0)), 0x51);
}

#[test]
fn what_is_not_a_date_becomes_one() {
    let mut clock = Clock::default();
    for index in TIME {
        for value in [0, 0x0f, 0x31, 0x7f, 0xff] {
            clock.write(index, value, NOW);
            clock.write(0x0b, 0x04, NOW);
            let _ = time(&clock, plus(u64::from(u32::MAX), 1));
            clock.write(0x0b, 0x02, NOW);
        }
    }
    clock = Clock::default();
    clock.write(8, 0x02, NOW);
    clock.write(7, 0x31, NOW);
    assert_eq!(time(&clock, NOW)[4..6], [0x03, 0x03]);
}

#[test]
fn interrupts_cannot_be_enabled_and_memory_remembers() {
    let mut clock = Clock::default();
    clock.write(0x0b, 0x7f, NOW);
    assert_eq!(clock.read(0x0b, NOW), 0x06);
    for index in [1, 3, 5, 0x0e, 0x0f, 0x31, 0x33, 0x7f] {
        clock.write(index, index ^ 0x55, NOW);
        assert_eq!(clock.read(index, NOW), index ^ 0x55);
    }
    clock.write(0x0b, 0x86, NOW);
    clock.write(0x0a, 0x66, NOW);
    clock.reset(plus(7, 0));
    assert_eq!([0x0a, 0x0b, 0x0f, 0x7f].map(|index| clock.read(index, plus(7, 0))), [0x26, 0x02, 0, 0x7f ^ 0x55]);
    assert_eq!(time(&clock, plus(7, 0)), BCD);
}

#[test]
fn it_moves_with_its_offset_and_not_with_its_time() {
    let source = Rtc::default();
    source.write(0, &[0x09]);
    source.write(1, &[0x15]);
    source.write(0, &[0x0b]);
    source.write(1, &[0x06]);
    source.write(0, &[0x09]);
    let destination = Rtc::default();
    destination.load(1, &source.save()).unwrap();
    assert_eq!(destination.lock().clock, source.lock().clock);
    let mut year = [0];
    destination.read(1, &mut year);
    assert_eq!(year, [15]);
    // What is not there reads as all ones.
    let mut other = [0; 2];
    destination.read(0, &mut other[..1]);
    destination.read(1, &mut other);
    assert_eq!(other, [0xff; 2]);
}

#[test]
fn its_layout_is_what_is_read() {
    let rtc = Rtc::default();
    let bytes = rtc.save();
    assert_layout(&rtc.layout(), &bytes, || rtc.load(1, &bytes).unwrap());
}

#[test]
fn bad_states_are_refused_and_change_nothing() {
    let rtc = Rtc::default();
    let good = rtc.save();
    assert!(rtc.load(2, &good).is_err());
    for length in 0..good.len() {
        assert!(rtc.load(1, &good[..length]).is_err());
    }
    // Index, offset, phase, status A, status B.
    for at in [0, 7, 12, 13 + 0x0a, 13 + 0x0b] {
        let mut bad = good.clone();
        bad[at] = 0x7f | (bad[at] ^ 0xff);
        assert!(matches!(rtc.load(1, &bad), Err(StateError::Value { .. })), "{at}");
    }
    assert_eq!(rtc.save(), good);
}
