//! The live figures of one migration: written by the engine's threads, read by whoever asks for a
//! [`Report`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{OnceLock, PoisonError};
use std::time::Duration;

use crate::host::{Instant, Mutex, MutexGuard};
use crate::ram::PAGE_SIZE;
use crate::stats::{RamReport, Report, Status, Step, Throttling, Whereabouts, XbzrleReport};

/// Hears of changes as they happen, on the engine's threads: must return soon and must not call
/// back.
pub trait Observer: Send + Sync {
    /// The status changed.
    fn status(&self, status: Status);
    /// A precopy pass begins, counted from 1.
    fn pass(&self, pass: u64);
}

/// How often throughput is measured.
const SAMPLE: Duration = Duration::from_millis(100);

/// Where bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The guest runs on the source.
    Precopy,
    /// It runs nowhere.
    Downtime,
    /// It runs on the destination.
    Postcopy,
    /// On multifd channels, wherever it runs.
    Multifd,
}

#[derive(Debug)]
struct Marks {
    status: Status,
    whereabouts: Whereabouts,
    setup: Option<Duration>,
    ended: Option<Duration>,
    stopped: Option<Duration>,
    downtime: Option<Duration>,
    expected_downtime: Option<Duration>,
    dirty_rate: u64,
    syncs: u64,
    throttling: Option<Throttling>,
    error: Option<String>,
    steps: Vec<Step>,
    sampled: (Duration, u64, u64),
    rates: (f64, u64),
    deltas: Option<XbzrleReport>,
}

/// The live figures.
#[derive(Debug)]
pub struct Progress {
    begun: OnceLock<Instant>,
    total: u64,
    bytes: [AtomicU64; 4],
    normal: AtomicU64,
    zero: AtomicU64,
    skipped: AtomicU64,
    requests: AtomicU64,
    migration: OnceLock<String>,
    marks: Mutex<Marks>,
}

impl Progress {
    /// Of a migration of `pages` pages that has not begun.
    pub fn new(pages: u64) -> Self {
        Self {
            begun: OnceLock::new(),
            total: pages * PAGE_SIZE as u64,
            bytes: [const { AtomicU64::new(0) }; 4],
            normal: AtomicU64::new(0),
            zero: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            migration: OnceLock::new(),
            marks: Mutex::new(Marks {
                status: Status::Setup,
                whereabouts: Whereabouts::There,
                setup: None,
                ended: None,
                stopped: None,
                downtime: None,
                expected_downtime: None,
                dirty_rate: 0,
                syncs: 0,
                throttling: None,
                error: None,
                steps: Vec::new(),
                sampled: (Duration::ZERO, 0, 0),
                rates: (0.0, 0),
                deltas: None,
            }),
        }
    }

    /// The clock starts: the source was told to migrate, the destination has its source. Only the
    /// first call counts.
    pub fn begin(&self) {
        self.begun.get_or_init(Instant::now);
    }

    /// Both sides know which migration it is. Only the first call counts.
    pub(crate) fn identify(&self, migration: String) {
        self.migration.get_or_init(|| migration);
    }

    /// The migration's id in log lines.
    pub(crate) fn migration(&self) -> Option<String> {
        self.migration.get().cloned()
    }

    /// Time since the begin.
    pub fn now(&self) -> Duration {
        self.begun.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the status over; returns whether it is another than before.
    pub fn enter(&self, status: Status) -> bool {
        let now = self.now();
        let mut marks = self.marks();
        if marks.status == status {
            return false;
        }
        marks.status = status;
        if status != Status::Setup && marks.setup.is_none() {
            marks.setup = Some(now);
        }
        if status.is_ended() {
            marks.ended = Some(now);
            let seconds = now.as_secs_f64().max(1e-6);
            let pages = self.pages(&marks);
            marks.rates = (self.transferred() as f64 * 8.0 / seconds / 1e6, (pages as f64 / seconds) as u64);
        }
        true
    }

    /// The status.
    pub fn status(&self) -> Status {
        self.marks().status
    }

    /// Why it failed or paused.
    pub fn fail(&self, error: String) {
        self.marks().error = Some(error);
    }

    /// It goes on after all.
    pub fn clear_error(&self) {
        self.marks().error = None;
    }

    /// RAM was sent (or received): `bytes` on the wire for so many pages.
    pub fn moved(&self, phase: Phase, bytes: u64, normal: u64, zero: u64) {
        self.bytes[phase as usize].fetch_add(bytes, Ordering::Relaxed);
        self.normal.fetch_add(normal, Ordering::Relaxed);
        self.zero.fetch_add(zero, Ordering::Relaxed);
    }

    /// So many pages were not sent and are there all the same.
    pub fn skipped(&self, pages: u64) {
        self.skipped.store(pages, Ordering::Relaxed);
    }

    /// How it stands with pages of which only the changes go.
    pub fn changed(&self, deltas: XbzrleReport) {
        self.marks().deltas = Some(deltas);
    }

    /// Pages were asked for.
    pub fn requested(&self, pages: u64) {
        self.requests.fetch_add(pages, Ordering::Relaxed);
    }

    fn transferred(&self) -> u64 {
        self.bytes.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum()
    }

    /// Pages sent, however they went.
    fn pages(&self, marks: &Marks) -> u64 {
        let changed = marks.deltas.map_or(0, |deltas| deltas.pages);
        self.normal.load(Ordering::Relaxed) + self.zero.load(Ordering::Relaxed) + changed
    }

    /// Measures the throughput if it is time to.
    pub fn sample(&self) {
        let now = self.now();
        let mut marks = self.marks();
        let (then, bytes, pages) = marks.sampled;
        let elapsed = now.saturating_sub(then);
        if elapsed < SAMPLE {
            return;
        }
        let bytes_now = self.transferred();
        let pages_now = self.pages(&marks);
        let seconds = elapsed.as_secs_f64();
        marks.rates = ((bytes_now - bytes) as f64 * 8.0 / seconds / 1e6, ((pages_now - pages) as f64 / seconds) as u64);
        marks.sampled = (now, bytes_now, pages_now);
    }

    /// The passes' estimates.
    pub fn estimated(&self, syncs: u64, dirty_rate: u64, expected_downtime: Option<Duration>) {
        let mut marks = self.marks();
        (marks.syncs, marks.dirty_rate, marks.expected_downtime) = (syncs, dirty_rate, expected_downtime);
    }

    /// How the guest is slowed down.
    pub fn slowed(&self, throttling: Option<Throttling>) {
        self.marks().throttling = throttling;
    }

    /// The vCPUs are about to be stopped: the switchover begins.
    pub fn stopping(&self) {
        let now = self.now();
        let mut marks = self.marks();
        marks.stopped = Some(now);
        marks.steps.clear();
    }

    /// A step of the switchover ended.
    pub fn step(&self, name: &'static str) {
        let now = self.now();
        let mut marks = self.marks();
        let at = now.saturating_sub(*marks.stopped.get_or_insert(now));
        marks.steps.push(Step { name, at });
    }

    /// Where the guest is once this has completed, if not at the destination.
    pub fn stays(&self, whereabouts: Whereabouts) {
        self.marks().whereabouts = whereabouts;
    }

    /// The vCPUs run again, here or there.
    pub fn running(&self) {
        let now = self.now();
        let mut marks = self.marks();
        marks.downtime = marks.stopped.map(|then| now.saturating_sub(then));
    }

    /// Everything, as it stands; `remaining` pages are still to come, or all of them if nothing
    /// came of it.
    pub fn report(&self, remaining: u64) -> Report {
        let now = self.now();
        let bytes = |phase: Phase| self.bytes[phase as usize].load(Ordering::Relaxed);
        let marks = self.marks();
        Report {
            status: marks.status,
            whereabouts: marks.whereabouts,
            total_time: marks.ended.unwrap_or(now),
            setup_time: marks.setup.unwrap_or(now),
            downtime: marks.downtime,
            expected_downtime: marks.expected_downtime,
            error: marks.error.clone(),
            ram: RamReport {
                transferred: self.transferred(),
                remaining: if marks.status.came_to_nothing() { self.total } else { remaining * PAGE_SIZE as u64 },
                total: self.total,
                duplicate: self.zero.load(Ordering::Relaxed),
                skipped: self.skipped.load(Ordering::Relaxed),
                normal: self.normal.load(Ordering::Relaxed),
                dirty_pages_rate: marks.dirty_rate,
                mbps: marks.rates.0,
                dirty_sync_count: marks.syncs,
                postcopy_requests: self.requests.load(Ordering::Relaxed),
                pages_per_second: marks.rates.1,
                precopy_bytes: bytes(Phase::Precopy),
                downtime_bytes: bytes(Phase::Downtime),
                postcopy_bytes: bytes(Phase::Postcopy),
                multifd_bytes: bytes(Phase::Multifd),
            },
            deltas: marks.deltas,
            demand: None,
            blocktime: None,
            vcpu_blocktime: Vec::new(),
            throttling: marks.throttling,
            steps: marks.steps.clone(),
        }
    }
}
