//! A bandwidth limit: when the next bytes may go. Reads no clock.

use std::time::Duration;

/// How much time's worth of bytes may go at once after a pause: a busy host makes such pauses, and
/// the rate is to be had all the same.
const BURST: Duration = Duration::from_millis(100);

/// Spreads bytes over time. Times count from any fixed moment.
#[derive(Debug, Default)]
pub struct RateLimit {
    /// When everything sent so far would have been sent at exactly the limit.
    paid: Duration,
}

impl RateLimit {
    /// When the next bytes may go at `rate` bytes per second (0: no limit); `None` for now.
    pub fn wait_until(&self, rate: u64, now: Duration) -> Option<Duration> {
        (rate > 0 && self.paid > now).then_some(self.paid)
    }

    /// `bytes` were sent.
    pub fn sent(&mut self, bytes: usize, rate: u64, now: Duration) {
        if rate == 0 {
            self.paid = now;
            return;
        }
        if self.paid.is_zero() {
            // Nothing was missed before the beginning.
            self.paid = now;
        }
        let cost = Duration::from_nanos((bytes as u128 * 1_000_000_000 / u128::from(rate)) as u64);
        self.paid = self.paid.max(now.saturating_sub(BURST)) + cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends chunks as fast as the pace allows for a second of virtual time.
    fn bytes_in_a_second(rate: u64, chunk: usize) -> u64 {
        let (mut pace, mut now, mut sent) = (RateLimit::default(), Duration::from_secs(5), 0);
        let end = now + Duration::from_secs(1);
        while now < end {
            match pace.wait_until(rate, now) {
                Some(then) => now = then,
                None => {
                    pace.sent(chunk, rate, now);
                    sent += chunk as u64;
                    now += Duration::from_micros(10);
                }
            }
        }
        sent
    }

    #[test]
    fn the_limit_holds_within_five_percent() {
        for (rate, chunk) in [(1 << 20, 4096), (100 << 20, 262_144), (12_500_000, 262_144)] {
            let sent = bytes_in_a_second(rate, chunk) as f64;
            assert!((0.97..1.05).contains(&(sent / rate as f64)), "{rate}: sent {sent}");
        }
    }

    #[test]
    fn what_a_busy_host_missed_is_made_up_for_up_to_a_point() {
        let (mut pace, rate, millisecond) = (RateLimit::default(), 1_000_000, Duration::from_millis(1));
        let mut now = Duration::from_secs(1);
        pace.sent(1000, rate, now);
        now += 60 * millisecond;
        let mut burst = 0;
        while pace.wait_until(rate, now).is_none() {
            pace.sent(1000, rate, now);
            burst += 1;
        }
        assert_eq!(burst, 60);
        now += 10_000 * millisecond;
        let mut burst = 0;
        while pace.wait_until(rate, now).is_none() {
            pace.sent(1000, rate, now);
            burst += 1;
        }
        assert_eq!(burst, 101);
    }

    #[test]
    fn without_a_limit_nothing_waits_and_a_limit_set_later_starts_fresh() {
        let mut pace = RateLimit::default();
        let now = Duration::from_secs(1);
        pace.sent(1 << 30, 0, now);
        assert_eq!(pace.wait_until(0, now), None);
        assert_eq!(pace.wait_until(1000, now), None);
        pace.sent(1000, 1000, now);
        assert!(pace.wait_until(1000, now).is_some());
        assert_eq!(pace.wait_until(0, now), None);
    }
}
