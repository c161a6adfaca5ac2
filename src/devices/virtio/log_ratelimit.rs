//! Telling of what a guest can bring about as often as it likes, without filling the host's log.

use std::time::{Duration, Instant};

/// How much time lies between two lines at least.
const PAUSE: Duration = Duration::from_secs(10);

/// Complaints of one kind.
#[derive(Debug, Default)]
pub(super) struct LogRateLimit {
    last: Option<Instant>,
    /// How many were not said since.
    unsaid: u64,
}

impl LogRateLimit {
    /// Whether there is to be a line at `now`, and how many were left out before it.
    pub fn say(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now < last + PAUSE) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_failures_one_is_told_and_the_rest_counted() {
        let mut complaints = LogRateLimit::default();
        let start = Instant::now();
        assert_eq!(complaints.say(start), Some(0));
        assert_eq!(complaints.say(start), None);
        assert_eq!(complaints.say(start + PAUSE / 2), None);
        assert_eq!(complaints.say(start + PAUSE), Some(2));
        assert_eq!(complaints.say(start + PAUSE * 2), Some(0));
    }
}
