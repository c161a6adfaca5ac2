//! Telling of a host's disk that fails, without filling its log as well.

use std::error::Error;
use std::time::{Duration, Instant};

use crate::block::BlockError;

/// How much time lies between two lines at least.
const PAUSE: Duration = Duration::from_secs(10);

/// One disk's complaints.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    last: Option<Instant>,
    /// How many were not said since.
    unsaid: u64,
}

impl Complaints {
    /// A request failed.
    pub fn about(&mut self, error: &BlockError) {
        // What the driver should not have asked for is the driver's to know.
        if let BlockError::Range { .. } | BlockError::ReadOnly(_) = error {
            log::debug!("a guest's disk request is refused: {error}");
        } else if let Some(unsaid) = self.say(Instant::now()) {
            let reason = error.source().map(ToString::to_string).unwrap_or_default();
            log::error!("{error}: {reason} (the guest is told; {unsaid} such errors before this one were not logged)");
        }
    }

    /// Whether there is to be a line at `now`, and how many were left out before it.
    fn say(&mut self, now: Instant) -> Option<u64> {
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
        let mut complaints = Complaints::default();
        let start = Instant::now();
        assert_eq!(complaints.say(start), Some(0));
        assert_eq!(complaints.say(start), None);
        assert_eq!(complaints.say(start + PAUSE / 2), None);
        assert_eq!(complaints.say(start + PAUSE), Some(2));
        assert_eq!(complaints.say(start + PAUSE * 2), Some(0));
    }
}
