//! [`EventRateLimit`]: tells of something that may happen often, but not more often than clients
//! want to hear of it.

use std::time::{Duration, Instant};

/// The least time from one to the next, as in QEMU.
const PERIOD: Duration = Duration::from_secs(1);

/// At most one a second, and always the last one.
#[derive(Debug, Default)]
pub struct EventRateLimit {
    /// Something happened that was not told.
    waits: bool,
    /// When the next may be told.
    next: Option<Instant>,
}

impl EventRateLimit {
    /// It happened.
    pub fn happened(&mut self) {
        self.waits = true;
    }

    /// Whether it is to be told now; then it counts as told.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let due = self.waits && self.next.is_none_or(|next| next <= now);
        if due {
            self.waits = false;
            self.next = Some(now + PERIOD);
        }
        due
    }

    /// When what waits is to be told.
    pub fn deadline(&self) -> Option<Instant> {
        self.next.filter(|_| self.waits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_last_after_a_while() {
        let mut throttle = EventRateLimit::default();
        let start = Instant::now();
        assert!(!throttle.is_due(start));
        throttle.happened();
        assert!(throttle.is_due(start));
        assert_eq!(throttle.deadline(), None);
        for ms in [1, 500, 999] {
            throttle.happened();
            assert!(!throttle.is_due(start + Duration::from_millis(ms)));
            assert_eq!(throttle.deadline(), Some(start + PERIOD));
        }
        assert!(throttle.is_due(start + PERIOD));
        assert!(!throttle.is_due(start + 3 * PERIOD));
        throttle.happened();
        assert!(throttle.is_due(start + 3 * PERIOD));
    }
}
