//! [`Migration`]: the one place that starts, steers and reports this VM's migrations. Its commands
//! are in `outgoing`, `incoming` and `settings`.

use std::sync::{Arc, Mutex};

use whimbrel_postcopy::progress::Observer;
use whimbrel_postcopy::stats::{PageMap, Report, Status};

use super::CommandRefused;
use super::active::{Active, Side};
use super::capabilities::{Capabilities, Capability};
use super::options::Settings;
use super::parameters::Parameters;
use super::streams::Streams;
use super::uri::Uri;
use crate::dirty::{DirtyRate, Dirtying, Plan, VcpuDirtyLimit};
use crate::machine::Machine;
use crate::sync::lock;

/// Something that a monitor client wants to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MigrationEvent {
    /// The status changed (event `MIGRATION`).
    Status(Status),
    /// A precopy pass began (event `MIGRATION_PASS`), counted from 1. Only the source tells of it,
    /// and not of the first.
    Pass(u64),
}

type Events = Arc<dyn Fn(MigrationEvent) + Send + Sync>;

/// The engine's observer, as the monitor's callback.
struct EventObserver {
    events: Events,
    side: Side,
}

impl Observer for EventObserver {
    fn status(&self, status: Status) {
        (self.events)(MigrationEvent::Status(status));
    }
    fn pass(&self, pass: u64) {
        // As in QEMU: that the first one begins is told by the status, and what arrives is the
        // source's business.
        if self.side == Side::Source && pass > 1 {
            (self.events)(MigrationEvent::Pass(pass));
        }
    }
}

/// What becomes of a destination whose guest did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnFailure {
    /// It ends.
    Exit,
    /// It waits for the next `migrate_incoming`.
    Wait,
    /// It listens again at the same place.
    ListenAgain,
}

/// Where this process listens, and for whom.
#[derive(Clone)]
pub(super) enum Listening {
    /// For a guest; nobody is awaited there once it is here.
    ForGuest(Uri),
    /// For the source of a guest that is here in part, or whose source may not know that it is here
    /// whole.
    ForSource(Uri),
}

/// This VM's migrations: one at a time. All methods return at once.
pub struct Migration {
    pub(super) machine: Arc<Machine>,
    events: Events,
    pub(super) settings: Arc<Mutex<Settings>>,
    pub(super) streams: Streams,
    pub(super) dirtying: Dirtying,
    /// Of the guest that is to arrive: where it is waited for, and what happens if it fails to.
    pub(super) awaited: Mutex<Option<(Uri, OnFailure)>>,
    pub(super) active: Mutex<Active>,
    /// Where it listens, or did last.
    pub(super) listening: Mutex<Option<Listening>>,
    /// Whether a guest that does not arrive ends the process, unless `migrate_incoming` says
    /// otherwise.
    pub(super) exit_on_error: bool,
}

impl Migration {
    /// For `machine`, with the first `parameters`; `events` is called from the engine's threads.
    pub fn new(
        machine: Arc<Machine>,
        parameters: Parameters,
        streams: Streams,
        exit_on_error: bool,
        events: Events,
    ) -> Arc<Self> {
        let shared_ram = machine.has_shared_ram();
        let settings = Settings { capabilities: Capabilities::default(), parameters, shared_ram };
        Arc::new(Self {
            dirtying: Dirtying::new(machine.clone()),
            machine,
            events,
            settings: Arc::new(Mutex::new(settings)),
            streams,
            awaited: Mutex::default(),
            active: Mutex::new(Active::None),
            listening: Mutex::default(),
            exit_on_error,
        })
    }

    pub(super) fn vcpus(&self) -> u64 {
        self.machine.vcpus().len() as u64
    }

    pub(super) fn observer(&self, side: Side) -> Arc<dyn Observer> {
        Arc::new(EventObserver { events: self.events.clone(), side })
    }

    /// What `query-migrate` and `info migrate` show; `None` before the first migration.
    pub fn report(&self) -> Option<(Side, Report)> {
        let (side, mut report) = lock(&self.active).report()?;
        if !lock(&self.settings).capabilities.get(Capability::PostcopyBlocktime) {
            report.blocktime = None;
            report.vcpu_blocktime.clear();
        }
        Some((side, report))
    }

    /// What `x-query-migrate-pages` shows; `None` before the first migration.
    pub fn page_map(&self, buckets: u32) -> Option<(Side, PageMap)> {
        lock(&self.active).page_map(buckets)
    }

    /// `calc-dirty-rate`.
    pub fn measure_dirty_rate(&self, plan: Plan) -> Result<(), CommandRefused> {
        // Held meanwhile: no migration begins in between.
        let active = lock(&self.active);
        Ok(self.dirtying.measure(plan, active.is_under_way())?)
    }

    /// `query-dirty-rate`.
    pub fn dirty_rate(&self) -> DirtyRate {
        self.dirtying.rate()
    }

    /// `set-vcpu-dirty-limit`.
    pub fn set_dirty_limit(&self, vcpu: Option<i64>, rate: i64) -> Result<(), CommandRefused> {
        let active = lock(&self.active);
        Ok(self.dirtying.set_limit(vcpu, rate, active.is_under_way())?)
    }

    /// `cancel-vcpu-dirty-limit`.
    pub fn cancel_dirty_limit(&self, vcpu: Option<i64>) -> Result<(), CommandRefused> {
        Ok(self.dirtying.cancel_limit(vcpu)?)
    }

    /// `query-vcpu-dirty-limit`.
    pub fn dirty_limits(&self) -> Vec<VcpuDirtyLimit> {
        self.dirtying.limits()
    }

    /// The process ends: closes links and ends threads.
    pub fn abandon(&self) {
        self.dirtying.abandon();
        lock(&self.active).abandon();
    }
}
