//! [`Throttle`]: for which part of the time a guest's vCPUs are kept from running.

use std::fmt;
use std::time::Duration;

/// A part of the time, in thousandths. At most 99 percent: a guest that does not run at all is
/// paused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Throttle(u16);

/// Thousandths of all the time.
const WHOLE: u16 = 1000;
/// For so long vCPUs run before they rest, as with QEMU: shorter, and what it costs to take them
/// out of the guest counts.
const RUN: Duration = Duration::from_millis(10);
/// For so long they run and rest at most. With a fixed time to run a guest that is throttled by 99
/// percent would rest for a second at a time, which its peers and its watchdogs take for death.
const ROUND: Duration = Duration::from_millis(100);

impl Throttle {
    /// vCPUs run as they can.
    pub const NONE: Self = Self(0);
    /// The most there is.
    pub const MOST: Self = Self(990);

    /// Of so many percent, at most 99.
    pub const fn percent(percent: u8) -> Self {
        Self::thousandths(percent as u16 * 10)
    }

    /// Of so many thousandths, at most 990.
    pub const fn thousandths(thousandths: u16) -> Self {
        if thousandths < Self::MOST.0 { Self(thousandths) } else { Self::MOST }
    }

    /// In percent, rounded: what users are told.
    pub const fn as_percent(self) -> u8 {
        ((self.0 + 5) / 10) as u8
    }

    /// The part of the time in which vCPUs run, above 0 and at most 1.
    pub fn share(self) -> f64 {
        f64::from(WHOLE - self.0) / f64::from(WHOLE)
    }

    /// The throttle that leaves this part of the time to the vCPUs.
    pub fn leaving(share: f64) -> Self {
        // A float becomes the nearest number there is, and not a number becomes 0.
        Self::thousandths(WHOLE - (share.clamp(0.0, 1.0) * f64::from(WHOLE)).round() as u16)
    }

    /// Whether vCPUs run as they can.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// For how long vCPUs run before they rest.
    pub fn run(self) -> Duration {
        RUN.min(ROUND * u32::from(WHOLE - self.0) / u32::from(WHOLE))
    }

    /// For how long they rest after they ran for so long.
    pub fn rest(self, ran: Duration) -> Duration {
        ran * u32::from(self.0) / u32::from(WHOLE - self.0)
    }
}

impl fmt::Display for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} %", self.0 / 10, self.0 % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_has_its_share_of_rest_and_is_never_long() {
        for percent in 1..=99 {
            let throttle = Throttle::percent(percent);
            let (run, rest) = (throttle.run(), throttle.rest(throttle.run()));
            let part = rest.as_secs_f64() / (run + rest).as_secs_f64();
            assert!((part * 100.0 - f64::from(percent)).abs() < 0.01, "{percent}: {run:?} {rest:?}");
            assert!(run >= Duration::from_millis(1) && run + rest <= ROUND + Duration::from_micros(1), "{percent}");
            assert_eq!(throttle.as_percent(), percent);
            assert_eq!(Throttle::leaving(throttle.share()), throttle);
        }
        assert_eq!(Throttle::NONE.rest(Duration::from_secs(1)), Duration::ZERO);
    }

    #[test]
    fn no_guest_stands_still_altogether() {
        assert_eq!(Throttle::percent(255), Throttle::MOST);
        assert_eq!(Throttle::leaving(0.0), Throttle::MOST);
        assert_eq!(Throttle::leaving(f64::NAN), Throttle::MOST);
        assert_eq!(Throttle::leaving(7.0), Throttle::NONE);
    }
}
