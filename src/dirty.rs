//! How fast the guest writes to its memory, outside a migration: measured once (`calc-dirty-rate`),
//! or measured all the time and kept below a limit (`set-vcpu-dirty-limit`).
//!
//! | file | what is in it |
//! |---|---|
//! | `rate` | one measurement: what is wanted, how it stands, its thread |
//! | `sample` | the way without the dirty log: some pages, compared |
//! | `limit` | the limit and its thread |
//! | `stop` | how these threads wait, and are told to end |
//!
//! There is one dirty log, which a migration, a measurement by `dirty-bitmap` and a limit each need
//! for themselves: what is there excludes what comes.

mod limit;
mod rate;
mod sample;
mod stop;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use limit::{MAX_DIRTY_LIMIT, VcpuDirtyLimit};
pub use rate::{DirtyRate, Measuring, Mode, Plan, PlanError, TimeUnit};

use limit::Limit;
use rate::Measurement;
use whimbrel_postcopy::guest::{DirtyLog, GuestError};

use crate::machine::{Machine, RunState};

/// Why a measurement or a limit was refused.
#[derive(Debug, thiserror::Error)]
pub enum DirtyError {
    /// One at a time.
    #[error("the dirty rate is already being measured.")]
    Measuring,
    /// The log is the migration's.
    #[error(
        "a migration is in progress, and it has the log of what the guest writes for itself: cancel it first, or measure by mode page-sampling; a \
         guest that leaves is limited by capability dirty-limit"
    )]
    Migrating,
    /// Its pages are missing.
    #[error("the guest has not arrived yet: its memory cannot be looked at")]
    Arriving,
    /// The log is the limit's.
    #[error(
        "the guest has a dirty limit, which needs the log of what it writes: 'cancel_vcpu_dirty_limit' first, or measure by mode page-sampling"
    )]
    Limited,
    /// The log is the measurement's.
    #[error(
        "the dirty rate is being measured by mode dirty-bitmap, which needs the log of what the guest writes: wait for its end"
    )]
    MeasuringByLog,
    /// A vCPU that is not there.
    #[error("incorrect cpu index specified")]
    NoSuchVcpu,
    /// One of several vCPUs.
    #[error(
        "a dirty limit for one vCPU alone is not supported: the log of what the guest writes does not say which vCPU did; leave 'cpu-index' out, \
         and the limit holds for all together"
    )]
    OneVcpu,
    /// A limit out of range.
    #[error("Parameter 'dirty-rate' expects an integer in the range of 0 to 1048576 MB/s")]
    Rate,
    /// A thread.
    #[error("the host refused a thread")]
    Thread(#[source] std::io::Error),
    /// KVM.
    #[error("the guest's writes cannot be logged")]
    Log(#[source] GuestError),
}

/// The machine's measurement and its limit. No method waits for either.
pub struct Dirtying {
    machine: Arc<Machine>,
    measurement: Mutex<Measurement>,
    limit: Mutex<Option<Limit>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Dirtying {
    /// Of this machine.
    pub fn new(machine: Arc<Machine>) -> Self {
        Self { machine, measurement: Mutex::default(), limit: Mutex::default() }
    }

    /// What has the dirty log to itself, so that no migration can begin; in words that say what to
    /// do.
    pub fn has_log(&self) -> Result<(), DirtyError> {
        match () {
            () if lock(&self.limit).is_some() => Err(DirtyError::Limited),
            () if lock(&self.measurement).has_log() => Err(DirtyError::MeasuringByLog),
            () => Ok(()),
        }
    }

    /// `calc-dirty-rate`; `migrating`: a migration has the log.
    pub fn measure(&self, plan: Plan, migrating: bool) -> Result<(), DirtyError> {
        self.check_arrived()?;
        let mut measurement = lock(&self.measurement);
        if measurement.is_under_way() {
            return Err(DirtyError::Measuring);
        }
        match plan.mode {
            Mode::DirtyBitmap if migrating => return Err(DirtyError::Migrating),
            Mode::DirtyBitmap if lock(&self.limit).is_some() => return Err(DirtyError::Limited),
            _ => {}
        }
        measurement.begin(self.machine.clone(), plan).map_err(DirtyError::Thread)
    }

    /// `query-dirty-rate`.
    pub fn rate(&self) -> DirtyRate {
        lock(&self.measurement).report()
    }

    /// `set-vcpu-dirty-limit`: so many MiB per second for each vCPU; 0 takes the limit back.
    /// `migrating`: a migration has the log.
    pub fn set_limit(&self, vcpu: Option<i64>, rate: i64, migrating: bool) -> Result<(), DirtyError> {
        self.check_vcpu(vcpu)?;
        let rate = u64::try_from(rate).ok().filter(|rate| *rate <= MAX_DIRTY_LIMIT).ok_or(DirtyError::Rate)?;
        if rate == 0 {
            return self.cancel_limit(vcpu);
        }
        self.check_arrived()?;
        if migrating {
            return Err(DirtyError::Migrating);
        }
        if lock(&self.measurement).has_log() {
            return Err(DirtyError::MeasuringByLog);
        }
        let mut limit = lock(&self.limit);
        match &*limit {
            Some(limit) => limit.set(rate),
            None => *limit = Some(Limit::begin(self.machine.clone(), rate)?),
        }
        Ok(())
    }

    /// `cancel-vcpu-dirty-limit`. Without one it does nothing, as in QEMU.
    pub fn cancel_limit(&self, vcpu: Option<i64>) -> Result<(), DirtyError> {
        self.check_vcpu(vcpu)?;
        drop(lock(&self.limit).take());
        Ok(())
    }

    /// `query-vcpu-dirty-limit`; none where there is no limit.
    pub fn limits(&self) -> Vec<VcpuDirtyLimit> {
        lock(&self.limit).as_ref().map_or_else(Vec::new, |limit| limit.report(self.machine.vcpus().len()))
    }

    /// The process ends.
    pub fn abandon(&self) {
        drop(lock(&self.limit).take());
        lock(&self.measurement).abandon();
    }

    fn check_vcpu(&self, vcpu: Option<i64>) -> Result<(), DirtyError> {
        let vcpus = self.machine.vcpus().len();
        match vcpu.map(usize::try_from) {
            None => Ok(()),
            Some(Ok(0)) if vcpus == 1 => Ok(()),
            Some(Ok(index)) if index < vcpus => Err(DirtyError::OneVcpu),
            Some(_) => Err(DirtyError::NoSuchVcpu),
        }
    }

    fn check_arrived(&self) -> Result<(), DirtyError> {
        match self.machine.run_state() == RunState::Inmigrate || self.machine.is_arriving() {
            true => Err(DirtyError::Arriving),
            false => Ok(()),
        }
    }
}

/// The guest's writes are logged for as long as this lives.
struct Logging(Arc<Machine>);

impl Logging {
    fn begin(machine: Arc<Machine>) -> Result<Self, GuestError> {
        machine.start_dirty_log()?;
        Ok(Self(machine))
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        if let Err(error) = self.0.stop_dirty_log() {
            log::warn!("the guest's writes are still logged, which slows it down: {error}");
        }
    }
}
