//! [`Attempts`]: when a source whose link broke tries by itself to reach the destination again.

use std::time::Duration;

/// The pause before the first attempt; each one that fails doubles the next. A link that flaps is back after some of these.
const FIRST: Duration = Duration::from_millis(100);
/// But a pause is never longer.
const LONGEST: Duration = Duration::from_secs(5);

/// The attempts since the link broke. Times are counted from any fixed moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempts {
    begun: Duration,
    pause: Duration,
    next: Duration,
}

impl Attempts {
    /// The link broke just now.
    pub fn begin(now: Duration) -> Self {
        Self { begun: now, pause: FIRST, next: now + FIRST }
    }

    /// How long until the next attempt, zero if it is due; `None` if `limit` after the break has passed: then only a user's word helps.
    pub fn next(&self, limit: Duration, now: Duration) -> Option<Duration> {
        (!limit.is_zero() && self.next <= self.begun + limit).then(|| self.next.saturating_sub(now))
    }

    /// An attempt failed.
    pub fn failed(&mut self, now: Duration) {
        self.pause = (self.pause * 2).min(LONGEST);
        self.next = now + self.pause;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_end_with_the_limit() {
        let limit = Duration::from_secs(60);
        let mut now = ms(1000);
        let mut attempts = Attempts::begin(now);
        let mut pauses = Vec::new();
        while let Some(pause) = attempts.next(limit, now) {
            pauses.push(pause.as_millis());
            now += pause;
            assert_eq!(attempts.next(limit, now), Some(Duration::ZERO));
            attempts.failed(now);
        }
        assert_eq!(pauses[..7], [100, 200, 400, 800, 1600, 3200, 5000]);
        assert!(pauses[7..].iter().all(|&pause| pause == 5000));
        assert!(now <= ms(1000) + limit && now > ms(1000) + limit - LONGEST, "{now:?}");
    }

    #[test]
    fn without_a_limit_nothing_happens_by_itself_and_one_set_later_counts_from_the_break() {
        let attempts = Attempts::begin(ms(5));
        assert_eq!(attempts.next(Duration::ZERO, ms(500)), None);
        assert_eq!(attempts.next(Duration::from_secs(1), ms(500)), Some(Duration::ZERO));
    }
}
