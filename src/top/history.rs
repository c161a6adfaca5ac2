//! [`History`]: rates between one look and the next.

use std::collections::VecDeque;
use std::time::Duration;

use super::snapshot::Snapshot;

/// Rates kept: more than a screen has columns.
const KEPT: usize = 512;

/// What happened per second between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Megabits moved.
    pub mbps: f64,
    /// Megabits that the guest dirtied.
    pub dirty_mbps: f64,
    /// Pages asked for.
    pub demands: f64,
}

/// The totals at one look.
#[derive(Clone, Copy, Debug)]
struct Totals {
    at: Duration,
    migration_ms: u64,
    transferred: u64,
    requests: u64,
}

/// The rates of a migration so far, the last one last.
#[derive(Clone, Debug, Default)]
pub struct History {
    last: Option<Totals>,
    rates: VecDeque<Rates>,
}

impl History {
    /// The migration stood so at `at`, on any clock that only goes forward.
    pub fn add(&mut self, snapshot: &Snapshot, at: Duration) {
        let progress = snapshot.progress();
        let now = Totals {
            at,
            migration_ms: progress.total_ms,
            transferred: progress.transferred,
            requests: progress.requests,
        };
        let again = |last: &Totals| now.migration_ms < last.migration_ms || now.transferred < last.transferred;
        if self.last.as_ref().is_some_and(again) {
            // Another migration.
            *self = Self::default();
        }
        let dirty_bits = snapshot.dirty_pages_rate().saturating_mul(snapshot.page_size()) as f64 * 8.0;
        let mut rates = Rates { mbps: progress.mbps, dirty_mbps: dirty_bits / 1e6, demands: 0.0 };
        if let Some(last) = self.last {
            let seconds = at.saturating_sub(last.at).as_secs_f64().max(1e-3);
            rates.mbps = (now.transferred - last.transferred) as f64 * 8.0 / 1e6 / seconds;
            rates.demands = now.requests.saturating_sub(last.requests) as f64 / seconds;
        }
        self.last = Some(now);
        if self.rates.len() == KEPT {
            self.rates.pop_front();
        }
        self.rates.push_back(rates);
    }

    /// The latest.
    pub fn now(&self) -> Rates {
        self.rates.back().copied().unwrap_or_default()
    }

    /// One of the rates, rounded: the last `count` of them, the latest last.
    pub fn last(&self, count: usize, which: impl Fn(&Rates) -> f64) -> Vec<u64> {
        self.rates.iter().skip(self.rates.len().saturating_sub(count)).map(|it| which(it).round() as u64).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(total_ms: u64, transferred: u64, requests: u64) -> Snapshot {
        let ram = json!({"transferred": transferred, "postcopy-requests": requests, "mbps": 7.0,
                         "dirty-pages-rate": 250, "page-size": 4096});
        Snapshot::of("bird", "running", json!({"total-time": total_ms, "ram": ram}), Value::Null)
    }

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let mut history = History::default();
        history.add(&at(100, 1_000_000, 0), Duration::from_millis(1000));
        assert_eq!(
            history.now(),
            Rates { mbps: 7.0, dirty_mbps: 8.192, demands: 0.0 },
            "of one look: what the VM says"
        );
        history.add(&at(600, 2_000_000, 50), Duration::from_millis(1500));
        assert_eq!(history.now(), Rates { mbps: 16.0, dirty_mbps: 8.192, demands: 100.0 });
        history.add(&at(1100, 2_000_000, 50), Duration::from_millis(2000));
        assert_eq!(history.now().mbps, 0.0, "nothing moved, whatever was measured last");
        assert_eq!(history.last(2, |it| it.mbps), [16, 0]);
        history.add(&at(5, 1_000, 0), Duration::from_millis(2500));
        assert_eq!(history.last(9, |it| it.mbps), [7], "another migration begins anew");
    }

    #[test]
    fn not_everything_is_kept() {
        let mut history = History::default();
        (0..2000).for_each(|n| history.add(&at(n, n, 0), Duration::from_millis(n)));
        assert_eq!(history.last(usize::MAX, |it| it.mbps).len(), KEPT);
    }
}
