//! How long touched pages took to come, and how long each vCPU waited.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::host::{Instant, Mutex, MutexGuard};
use crate::ram::{BlockId, PageIndex, PageRun};
use crate::stats::{BUCKETS, LatencyReport};

/// The longest latency told apart, in nanoseconds: a page that waits longer waits for a recovery.
const LONGEST: u64 = 3_600_000_000_000;

/// Somebody waits for a page.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    block: BlockId,
    page: PageIndex,
    since: Instant,
    vcpu: Option<usize>,
}

/// What a vCPU, or whoever is none, has waited so far.
#[derive(Clone, Copy, Debug, Default)]
struct Waited {
    time: Duration,
    pages: u32,
}

impl Waited {
    fn add(&mut self, time: Duration) {
        self.time += time;
        self.pages = self.pages.saturating_add(1);
    }

    fn mean(self) -> Duration {
        self.time.checked_div(self.pages).unwrap_or_default()
    }
}

#[derive(Debug)]
struct Figures {
    waiting: Vec<Waiting>,
    histogram: Histogram<u64>,
    distribution: [u64; BUCKETS],
    vcpus: Vec<Waited>,
    others: Waited,
    blocked: usize,
    all_blocked_since: Option<Instant>,
    all_blocked: Duration,
}

/// The measured latencies. One lock, taken by the thread that serves faults, by the other one only
/// for pages somebody waits for.
#[derive(Debug)]
pub struct Latency {
    begun: AtomicBool,
    figures: Mutex<Figures>,
}

impl Latency {
    /// For a guest of so many vCPUs.
    pub fn new(vcpus: usize) -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are constants and in order");
        Self {
            begun: AtomicBool::new(false),
            figures: Mutex::new(Figures {
                waiting: Vec::with_capacity(vcpus + 16),
                histogram,
                distribution: [0; BUCKETS],
                vcpus: vec![Waited::default(); vcpus],
                others: Waited::default(),
                blocked: 0,
                all_blocked_since: None,
                all_blocked: Duration::ZERO,
            }),
        }
    }

    /// RAM is watched from now on: there is something to measure.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Release);
    }

    /// Whether it ever was.
    pub fn is_measured(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread (which runs `vcpu`, if any) waits for the page since `now`.
    pub fn waits(&self, block: BlockId, page: PageIndex, vcpu: Option<usize>, now: Instant) {
        let mut figures = self.figures();
        figures.waiting.push(Waiting { block, page, since: now, vcpu });
        if vcpu.is_some() {
            figures.blocked += 1;
            if figures.blocked == figures.vcpus.len() {
                figures.all_blocked_since = Some(now);
            }
        }
    }

    /// The run is in place at `now`.
    pub fn placed(&self, run: PageRun, now: Instant) {
        let mut figures = self.figures();
        let figures = &mut *figures;
        let mut at = 0;
        while let Some(waiting) = figures.waiting.get(at).copied() {
            let inside = waiting.block == run.block && (run.start..run.end()).contains(&waiting.page);
            if !inside {
                at += 1;
                continue;
            }
            figures.waiting.swap_remove(at);
            let latency = now.saturating_duration_since(waiting.since);
            let nanos = (latency.as_nanos() as u64).clamp(1, LONGEST);
            figures.histogram.saturating_record(nanos);
            figures.distribution[((nanos / 1000).max(1).ilog2() as usize).min(BUCKETS - 1)] += 1;
            let waited = waiting.vcpu.map_or(Some(&mut figures.others), |vcpu| figures.vcpus.get_mut(vcpu));
            if let Some(waited) = waited {
                waited.add(latency);
            }
            if waiting.vcpu.is_some() {
                figures.blocked = figures.blocked.saturating_sub(1);
                if let Some(since) = figures.all_blocked_since.take() {
                    figures.all_blocked += now.saturating_duration_since(since);
                }
            }
        }
    }

    /// The latencies so far.
    pub fn report(&self) -> LatencyReport {
        let figures = self.figures();
        let histogram = &figures.histogram;
        LatencyReport {
            count: histogram.len(),
            mean: Duration::from_nanos(histogram.mean() as u64),
            p50: Duration::from_nanos(histogram.value_at_quantile(0.5)),
            p99: Duration::from_nanos(histogram.value_at_quantile(0.99)),
            max: Duration::from_nanos(histogram.max()),
            distribution: figures.distribution,
            vcpus: figures.vcpus.iter().map(|waited| waited.mean()).collect(),
            others: figures.others.mean(),
        }
    }

    /// Time in which every vCPU waited, and the time each of them did.
    pub fn blocktime(&self) -> (Duration, Vec<Duration>) {
        let figures = self.figures();
        (figures.all_blocked, figures.vcpus.iter().map(|waited| waited.time).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM: BlockId = BlockId(0);

    fn run(start: u64, count: u32) -> PageRun {
        PageRun { block: RAM, start: PageIndex(start), count }
    }

    #[test]
    fn blocktime_counts_all_vcpus_only_while_all_wait() {
        let latency = Latency::new(2);
        let at = |ms| Instant::now() + Duration::from_millis(ms);
        let t: Vec<Instant> = (0..5).map(|n| at(n * 10)).collect();
        latency.waits(RAM, PageIndex(1), Some(0), t[0]);
        latency.waits(RAM, PageIndex(7), Some(1), t[1]);
        latency.waits(RAM, PageIndex(7), None, t[1]);
        latency.placed(run(7, 1), t[2]);
        latency.placed(run(0, 4), t[4]);
        latency.placed(run(0, 100), t[4]);
        let (all, each) = latency.blocktime();
        let about = |time: Duration, ms: u64| time.as_millis().abs_diff(u128::from(ms)) <= 1;
        assert!(about(all, 10) && about(each[0], 40) && about(each[1], 10), "{all:?} {each:?}");
        let report = latency.report();
        assert_eq!(report.count, 3);
        assert!(about(report.max, 40) && about(report.p50, 10), "{report:?}");
        assert_eq!(report.distribution.iter().sum::<u64>(), 3);
        assert!(about(report.vcpus[0], 40) && about(report.vcpus[1], 10) && about(report.others, 10), "{report:?}");
    }
}
