//! What the vCPUs share: the plan, read-only once published; one word of control; and for each vCPU
//! a block of counters that only it writes. There is no lock, so a vCPU that waits for a page stops
//! nobody else.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::cmdline::Order;
use crate::extents::Extents;
use crate::hist::BUCKETS;
use crate::page::{Damage, Page, Pattern};
use crate::smp::MAX_CPUS;

/// What all vCPUs work on.
pub struct Plan {
    /// vCPUs at work.
    pub cpus: usize,
    /// Pages of the working set.
    pub pages: u64,
    /// Where they are.
    pub ram: Extents,
    /// Their expected generations, a u32 each, outside the working set.
    pub generations: u64,
    /// Their contents.
    pub pattern: Pattern,
    /// The order of visits.
    pub order: Order,
    /// How many visits of a hundred write.
    pub write_percent: u32,
    /// Of the random orders.
    pub seed: u64,
    /// TSC ticks in a millisecond.
    pub tsc_khz: u64,
    /// TSC ticks between two visits of one vCPU; 0 for none.
    pub visit_ticks: u64,
    /// TSC ticks between two signs of life.
    pub beat_ticks: u64,
    /// Bytes of a heartbeat line that are a sign of life.
    pub beat_bytes: usize,
}

impl Plan {
    /// A page of the working set.
    ///
    /// # Safety
    /// `index` is below `pages`, and no other reference to this page lives: it is of this vCPU's
    /// share, or the others are held.
    #[inline(always)]
    pub unsafe fn page(&self, index: u64) -> &'static mut Page {
        unsafe { &mut *(self.ram.address(index) as *mut Page) }
    }

    /// The generation that a page is expected to have.
    ///
    /// # Safety
    /// As for [`Plan::page`].
    #[inline(always)]
    pub unsafe fn generation(&self, index: u64) -> &'static mut u32 {
        unsafe { &mut *(self.generations as *mut u32).add(index as usize) }
    }
}

struct Once(UnsafeCell<MaybeUninit<Plan>>);
// SAFETY: written once, before CPUS is set; read after it is seen set.
unsafe impl Sync for Once {}

static PLAN: Once = Once(UnsafeCell::new(MaybeUninit::uninit()));
static CPUS: AtomicUsize = AtomicUsize::new(0);

/// Publishes the plan. Once only.
pub fn publish(plan: Plan) -> &'static Plan {
    let cpus = plan.cpus;
    let plan = unsafe { (*PLAN.0.get()).write(plan) };
    CPUS.store(cpus, Release);
    plan
}

/// Waits for the plan.
pub fn plan() -> &'static Plan {
    while CPUS.load(Acquire) == 0 {
        core::hint::spin_loop();
    }
    unsafe { (*PLAN.0.get()).assume_init_ref() }
}

/// Hold flags in the low bits, above them a number that goes up when the histograms are to be
/// cleared.
pub static CONTROL: AtomicU32 = AtomicU32::new(HOLD_FILL);
/// The working set is being filled.
pub const HOLD_FILL: u32 = 1;
/// Somebody said `p`.
pub const HOLD_PAUSE: u32 = 2;
/// A full verification is under way.
pub const HOLD_VERIFY: u32 = 4;
/// Any of these: no visits.
pub const HOLD: u32 = HOLD_FILL | HOLD_PAUSE | HOLD_VERIFY;
/// Added to clear the histograms.
pub const NEXT_EPOCH: u32 = 8;

/// One vCPU's counters. Only that vCPU writes them; vCPU 0 reads all.
#[repr(align(128))]
pub struct Counters {
    /// Visits made.
    pub visits: AtomicU64,
    /// Visits that wrote.
    pub writes: AtomicU64,
    /// Integrity errors found.
    pub errors: AtomicU64,
    /// Visits at whose end the TSC was lower than at their start.
    pub tsc_backwards: AtomicU64,
    /// The slowest visit since the histogram was cleared, in ticks.
    pub slowest: AtomicU64,
    /// The control word that this vCPU acts upon.
    pub obeyed: AtomicU32,
    /// Visits by their latency in ticks.
    pub histogram: [AtomicU64; BUCKETS],
}

/// By vCPU.
pub static COUNTERS: [Counters; MAX_CPUS] = [const {
    Counters {
        visits: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        tsc_backwards: AtomicU64::new(0),
        slowest: AtomicU64::new(0),
        obeyed: AtomicU32::new(0),
        histogram: [const { AtomicU64::new(0) }; BUCKETS],
    }
}; MAX_CPUS];

/// Adds one to a counter that only this vCPU writes: no locked instruction.
#[inline(always)]
pub fn count(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

impl Counters {
    /// Forgets all latencies.
    pub fn clear_histogram(&self) {
        self.slowest.store(0, Relaxed);
        for bucket in &self.histogram {
            bucket.store(0, Relaxed);
        }
    }
}

/// A counter's sum over the vCPUs.
pub fn total(cpus: usize, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
    COUNTERS[..cpus].iter().map(|counters| counter(counters).load(Relaxed)).sum()
}

/// An integrity error.
#[derive(Clone, Copy)]
pub struct Finding {
    /// Who found it.
    pub cpu: usize,
    /// Where.
    pub page: u64,
    /// The generation that should have been there.
    pub want: u32,
    /// What was there.
    pub damage: Damage,
}

/// How many findings are reported one by one.
pub const FINDINGS: usize = 16;

struct Slot {
    ready: AtomicBool,
    finding: UnsafeCell<MaybeUninit<Finding>>,
}
// SAFETY: written once by the vCPU that claimed the slot, before `ready`; read after it.
unsafe impl Sync for Slot {}

static CLAIMED: AtomicUsize = AtomicUsize::new(0);
static SLOTS: [Slot; FINDINGS] =
    [const { Slot { ready: AtomicBool::new(false), finding: UnsafeCell::new(MaybeUninit::uninit()) } }; FINDINGS];

/// Counts an error and, if it is among the first, leaves it for vCPU 0 to report.
#[cold]
pub fn note(finding: Finding) {
    count(&COUNTERS[finding.cpu].errors);
    // Claimed with a bound, so that the count cannot wrap around into used slots.
    let claim = CLAIMED.fetch_update(Relaxed, Relaxed, |n| (n < FINDINGS).then_some(n + 1));
    if let Ok(n) = claim {
        unsafe { (*SLOTS[n].finding.get()).write(finding) };
        SLOTS[n].ready.store(true, Release);
    }
}

/// The n-th finding, once it is there.
pub fn finding(n: usize) -> Option<Finding> {
    let slot = SLOTS.get(n)?;
    slot.ready.load(Acquire).then(|| unsafe { (*slot.finding.get()).assume_init() })
}
