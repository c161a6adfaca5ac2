//! One measurement of the dirty rate.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use whimbrel_postcopy::guest::GuestError;
use whimbrel_postcopy::ram::PAGE_SIZE;
use whimbrel_postcopy::source::DirtyRateMeter;

use super::sample::Sample;
use super::stop::Stop;
use super::{Logging, lock};
use crate::machine::Machine;
use crate::sandbox;

/// In which unit the time of a measurement was given, and is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// The default.
    Second,
    /// For short ones.
    Millisecond,
}

impl TimeUnit {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Second, Self::Millisecond];

    /// QEMU's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Millisecond => "millisecond",
        }
    }

    /// So many of them is this, rounded down.
    pub const fn count(self, time: Duration) -> u64 {
        match self {
            Self::Second => time.as_secs(),
            Self::Millisecond => time.as_millis() as u64,
        }
    }
}

/// How it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Some pages are compared with what they were: costs the guest nothing.
    PageSampling,
    /// KVM logs what is written: exact.
    DirtyBitmap,
}

impl Mode {
    /// Those that there are.
    pub const ALL: [Self; 2] = [Self::PageSampling, Self::DirtyBitmap];

    /// QEMU's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PageSampling => "page-sampling",
            Self::DirtyBitmap => "dirty-bitmap",
        }
    }
}

/// Why nothing can be measured so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Too short or too long.
    #[error("Calculation time is out of range [50ms, 60000ms].")]
    Time,
    /// Too few or too many.
    #[error("sample-pages is out of range[128, 65536].")]
    SamplePages,
    /// Pages are not sampled.
    #[error("sample-pages is used only in page-sampling mode")]
    NotSampled,
    /// QEMU knows it; here vCPUs' writes go to the bitmap.
    #[error("mode dirty-ring is not enabled, use other method instead.")]
    DirtyRing,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// For how long the guest is watched.
    pub time: Duration,
    /// The unit in which that is shown.
    pub unit: TimeUnit,
    /// Pages that are looked at in each GiB.
    pub sample_pages: u64,
    /// How.
    pub mode: Mode,
}

/// QEMU's limits.
const TIME_MS: std::ops::RangeInclusive<u64> = 50..=60_000;
const SAMPLE_PAGES: std::ops::RangeInclusive<i64> = 128..=65_536;
/// QEMU's default.
const DEFAULT_SAMPLE_PAGES: u64 = 512;

impl Plan {
    /// `time` is in `unit`s.
    pub fn new(time: i64, unit: TimeUnit, sample_pages: Option<i64>, mode: Mode) -> Result<Self, PlanError> {
        let ms = match unit {
            TimeUnit::Second => time.checked_mul(1000),
            TimeUnit::Millisecond => Some(time),
        };
        let ms = ms.and_then(|ms| u64::try_from(ms).ok()).filter(|ms| TIME_MS.contains(ms)).ok_or(PlanError::Time)?;
        let sample_pages = match sample_pages {
            Some(_) if mode != Mode::PageSampling => return Err(PlanError::NotSampled),
            Some(pages) if !SAMPLE_PAGES.contains(&pages) => return Err(PlanError::SamplePages),
            Some(pages) => pages as u64,
            None => DEFAULT_SAMPLE_PAGES,
        };
        Ok(Self { time: Duration::from_millis(ms), unit, sample_pages, mode })
    }

    /// The time in its unit.
    pub fn calc_time(&self) -> u64 {
        self.unit.count(self.time)
    }
}

/// How a measurement stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measuring {
    /// There was none, or it came to nothing, which is in the log.
    Unstarted,
    /// It goes on.
    UnderWay,
    /// So many MiB per second.
    Measured(u64),
}

impl Measuring {
    /// QEMU's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unstarted => "unstarted",
            Self::UnderWay => "measuring",
            Self::Measured(_) => "measured",
        }
    }
}

/// What `query-dirty-rate` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyRate {
    /// How it stands.
    pub measuring: Measuring,
    /// When the last one began, in seconds since 1970; 0 before the first.
    pub start: u64,
    /// What was wanted; `None` before the first.
    pub plan: Option<Plan>,
}

/// The last measurement, ended or not.
#[derive(Default)]
pub(super) struct Measurement {
    last: Option<Last>,
}

struct Last {
    plan: Plan,
    start: u64,
    state: Arc<Mutex<Measuring>>,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Measurement {
    pub fn is_under_way(&self) -> bool {
        self.last.as_ref().is_some_and(|last| *lock(&last.state) == Measuring::UnderWay)
    }

    pub fn has_log(&self) -> bool {
        self.is_under_way() && self.last.as_ref().is_some_and(|last| last.plan.mode == Mode::DirtyBitmap)
    }

    /// Starts the thread.
    pub fn begin(&mut self, machine: Arc<Machine>, plan: Plan) -> io::Result<()> {
        let start = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let state = Arc::new(Mutex::new(Measuring::UnderWay));
        let stop = Arc::new(Stop::default());
        let (result, ending) = (state.clone(), stop.clone());
        let thread = Builder::new().name("dirty-rate".into()).spawn(move || {
            sandbox::enter(sandbox::Thread::DirtyRate);
            let measured = measure(&machine, &plan, &ending).unwrap_or_else(|error| {
                log::error!("the dirty rate cannot be measured: {error}");
                None
            });
            *lock(&result) = measured.map_or(Measuring::Unstarted, Measuring::Measured);
        })?;
        self.last = Some(Last { plan, start, state, stop, thread: Some(thread) });
        Ok(())
    }

    pub fn report(&self) -> DirtyRate {
        match &self.last {
            None => DirtyRate { measuring: Measuring::Unstarted, start: 0, plan: None },
            Some(last) => DirtyRate { measuring: *lock(&last.state), start: last.start, plan: Some(last.plan) },
        }
    }

    /// Ends the thread.
    pub fn abandon(&mut self) {
        if let Some(last) = &mut self.last {
            last.stop.stop();
            let _ = last.thread.take().map(JoinHandle::join);
        }
    }
}

/// In MiB per second; `None` if it was stopped.
fn measure(machine: &Arc<Machine>, plan: &Plan, stop: &Stop) -> Result<Option<u64>, GuestError> {
    match plan.mode {
        Mode::PageSampling => {
            let ram = machine.guest_ram();
            let begin = Instant::now();
            let sample = Sample::take(ram, plan.sample_pages);
            let taking = begin.elapsed();
            if !stop.wait(plan.time) {
                return Ok(None);
            }
            let comparing = Instant::now();
            let changed = sample.changed_bytes(ram);
            // Both take their time: a page was watched from somewhere within the first to somewhere
            // within the second.
            let elapsed = (comparing - begin + comparing.elapsed() / 2).saturating_sub(taking / 2);
            Ok(Some(mib_per_second(changed, elapsed)))
        }
        Mode::DirtyBitmap => {
            let _logging = Logging::begin(machine.clone())?;
            let meter = DirtyRateMeter::default();
            // The first time all of it may count as dirty.
            meter.read(&**machine, |_, _, _| {})?;
            let begin = Instant::now();
            if !stop.wait(plan.time) {
                return Ok(None);
            }
            let pages = meter.read(&**machine, |_, _, _| {})?;
            Ok(Some(mib_per_second(pages * PAGE_SIZE as u64, begin.elapsed())))
        }
    }
}

/// Rounded.
pub(super) fn mib_per_second(bytes: u64, elapsed: Duration) -> u64 {
    const MIB: u128 = 1 << 20;
    let per = MIB * elapsed.as_nanos().max(1);
    ((u128::from(bytes) * 1_000_000_000 + per / 2) / per) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_within_qemus_limits() {
        let plan = |time, unit, pages, mode| Plan::new(time, unit, pages, mode);
        use Mode::{DirtyBitmap, PageSampling};
        use TimeUnit::{Millisecond, Second};
        assert_eq!(plan(60, Second, None, DirtyBitmap).unwrap().time, Duration::from_secs(60));
        assert_eq!(plan(50, Millisecond, Some(128), PageSampling).unwrap().calc_time(), 50);
        for (time, unit) in [(0, Second), (61, Second), (-1, Second), (i64::MAX, Second), (49, Millisecond)] {
            assert_eq!(plan(time, unit, None, PageSampling), Err(PlanError::Time));
        }
        assert_eq!(plan(1, Second, Some(127), PageSampling), Err(PlanError::SamplePages));
        assert_eq!(plan(1, Second, Some(512), DirtyBitmap), Err(PlanError::NotSampled));
    }

    #[test]
    fn rates_are_rounded() {
        let second = Duration::from_secs(1);
        assert_eq!(mib_per_second(0, second), 0);
        assert_eq!(mib_per_second((3 << 20) / 2, second), 2);
        assert_eq!(mib_per_second(100 << 20, second / 4), 400);
        assert_eq!(mib_per_second(u64::MAX, second), (u64::MAX >> 20) + 1);
    }
}
