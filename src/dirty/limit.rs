//! The limit of the dirty rate, and the thread that keeps it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use whimbrel_postcopy::guest::{GuestError, SourceGuest};
use whimbrel_postcopy::ram::PAGE_SIZE;
use whimbrel_postcopy::source::{DirtyRateMeter, regulate};
use whimbrel_postcopy::throttle::Throttle;

use super::rate::mib_per_second;
use super::stop::Stop;
use super::{DirtyError, Logging};
use crate::machine::Machine;
use crate::sandbox;

/// The greatest limit, in MiB per second: no vCPU dirties so much.
pub const MAX_DIRTY_LIMIT: u64 = 1 << 20;
/// How often the rate is measured: a page counts once in each.
const PERIOD: Duration = Duration::from_millis(500);
/// Bytes in a MiB.
const MIB: u64 = 1 << 20;

/// What `query-vcpu-dirty-limit` tells of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuDirtyLimit {
    /// Its number.
    pub vcpu: usize,
    /// What it may dirty, in MiB per second.
    pub limit: u64,
    /// Its part of what all together dirtied last, in MiB per second.
    pub current: u64,
}

#[derive(Default)]
struct Shared {
    /// For each vCPU, in MiB per second.
    limit: AtomicU64,
    /// For all together, in MiB per second.
    current: AtomicU64,
    stop: Stop,
}

/// A limit that holds for as long as this lives. Dropped, it gives the guest its time back before
/// it returns.
pub(super) struct Limit {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Limit {
    /// Starts the thread. `rate` is for each vCPU, in MiB per second.
    pub fn begin(machine: Arc<Machine>, rate: u64) -> Result<Self, DirtyError> {
        let shared = Arc::new(Shared { limit: AtomicU64::new(rate), ..Shared::default() });
        let logging = Logging::begin(machine.clone()).map_err(DirtyError::Log)?;
        let keeping = shared.clone();
        let thread = Builder::new().name("dirty-limit".into()).spawn(move || {
            sandbox::enter(sandbox::Thread::DirtyRate);
            let _logging = logging;
            if let Err(error) = keep(&machine, &keeping) {
                log::error!("the guest has no dirty limit any more: {error}");
            }
            machine.throttle(Throttle::NONE);
        });
        Ok(Self { shared, thread: Some(thread.map_err(DirtyError::Thread)?) })
    }

    /// Another limit.
    pub fn set(&self, rate: u64) {
        self.shared.limit.store(rate, Ordering::Relaxed);
    }

    pub fn report(&self, vcpus: usize) -> Vec<VcpuDirtyLimit> {
        let limit = self.shared.limit.load(Ordering::Relaxed);
        let current = self.shared.current.load(Ordering::Relaxed) / vcpus.max(1) as u64;
        (0..vcpus).map(|vcpu| VcpuDirtyLimit { vcpu, limit, current }).collect()
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        self.shared.stop.stop();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Measures and regulates, interval after interval, until it is stopped.
fn keep(machine: &Machine, shared: &Shared) -> Result<(), GuestError> {
    let meter = DirtyRateMeter::default();
    // The first time all of it may count as dirty.
    meter.read(machine, |_, _, _| {})?;
    let (mut throttle, mut begin) = (Throttle::NONE, Instant::now());
    while shared.stop.wait(PERIOD) {
        let bytes = meter.read(machine, |_, _, _| {})? * PAGE_SIZE as u64;
        let elapsed = begin.elapsed();
        begin = Instant::now();
        shared.current.store(mib_per_second(bytes, elapsed), Ordering::Relaxed);
        let limit = shared.limit.load(Ordering::Relaxed) * machine.vcpus().len() as u64 * MIB;
        throttle = regulate(throttle, bytes, elapsed, limit);
        machine.throttle(throttle);
    }
    Ok(())
}
