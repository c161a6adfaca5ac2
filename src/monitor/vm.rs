//! [`Vm`]: everything the monitor asks of the virtual machine, in one place that tests can replace.

use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;
use whimbrel_postcopy::stats::{PageMap, Report, Status};

use super::event::EventSink;
use crate::block::DiskInfo;
use crate::dirty::{DirtyRate, Plan, VcpuDirtyLimit};
use crate::fds::NamedFds;
use crate::machine::{Machine, MachineError, RunState, VcpuInfo};
use crate::migration::capabilities::Capabilities;
use crate::migration::parameters::Parameters;
use crate::migration::uri::Uri;
use crate::migration::{CommandRefused, Migration, OnFailure, Side};
use crate::net::{InterfaceInfo, Schedule};
use crate::snapshots::{JobInfo, Operation, SnapshotError, SnapshotInfo, Snapshots};

/// What commands act on. No method blocks on a migration.
pub trait Vm {
    /// `--name`.
    fn name(&self) -> Option<String>;
    /// `--uuid`.
    fn uuid(&self) -> Option<Uuid>;
    /// See [`Machine::run_state`].
    fn run_state(&self) -> RunState;
    /// See [`Machine::vcpus`].
    fn vcpus(&self) -> Vec<VcpuInfo>;
    /// See [`Machine::registers`].
    fn registers(&self) -> Result<Vec<String>, MachineError>;
    /// See [`Machine::disks`].
    fn disks(&self) -> Vec<DiskInfo>;
    /// See [`Machine::stop`].
    fn stop(&self) -> Result<(), MachineError>;
    /// See [`Machine::cont`].
    fn cont(&self) -> Result<(), MachineError>;
    /// See [`Machine::reset`].
    fn reset(&self) -> Result<(), MachineError>;
    /// See [`Machine::announce`].
    fn announce(&self, interfaces: &[String], id: &str, schedule: Schedule) -> Result<(), MachineError>;
    /// The network cards.
    fn network(&self) -> Vec<InterfaceInfo>;
    /// See [`Machine::set_balloon`].
    fn set_balloon(&self, bytes: u64) -> Result<(), MachineError>;
    /// See [`Machine::balloon_actual`].
    fn balloon_actual(&self) -> Result<u64, MachineError>;
    /// See [`Machine::see_balloon_change`].
    fn see_balloon_change(&self) -> Result<u64, MachineError>;
    /// See [`Machine::powerdown`].
    fn powerdown(&self) -> Result<(), MachineError>;
    /// See [`Snapshots::begin`].
    fn snapshot(&self, act: &Operation) -> Result<String, SnapshotError>;
    /// See [`Snapshots::list`].
    fn list_snapshots(&self) -> Result<Vec<SnapshotInfo>, SnapshotError>;
    /// All jobs, the internal ones, too.
    fn jobs(&self) -> Vec<JobInfo>;
    /// See [`crate::snapshots::Jobs::dismiss`].
    fn dismiss_job(&self, id: &str) -> Result<(), SnapshotError>;
    /// The descriptors that monitors' clients named.
    fn fds(&self) -> &NamedFds;
    /// Ends the process, after the answers that are on their way.
    fn quit(&self);
    /// See [`Migration::start`].
    fn migrate(&self, uri: &Uri) -> Result<(), CommandRefused>;
    /// See [`Migration::resume`].
    fn migrate_resume(&self, uri: &Uri) -> Result<(), CommandRefused>;
    /// See [`Migration::cancel`].
    fn migrate_cancel(&self) -> Result<(), CommandRefused>;
    /// See [`Migration::start_postcopy`].
    fn start_postcopy(&self) -> Result<(), CommandRefused>;
    /// See [`Migration::go_on`].
    fn migrate_continue(&self) -> Result<(), CommandRefused>;
    /// See [`Migration::pause`].
    fn migrate_pause(&self) -> Result<(), CommandRefused>;
    /// See [`Migration::has_link`].
    fn has_link(&self) -> bool;
    /// See [`Migration::yank`].
    fn yank(&self) -> bool;
    /// See [`Migration::incoming`].
    fn incoming(&self, uri: &Uri, exit_on_error: Option<bool>) -> Result<Uri, CommandRefused>;
    /// The guest that was to arrive did not: whether the process stays, and waits for another.
    fn waits_for_another(&self) -> bool;
    /// See [`Migration::recover`].
    fn recover(&self, uri: &Uri) -> Result<Uri, CommandRefused>;
    /// Where [`Vm::incoming`] or [`Vm::recover`] listens or listened last.
    fn listening(&self) -> Option<Uri>;
    /// See [`Migration::report`].
    fn report(&self) -> Option<(Side, Report)>;
    /// See [`Migration::page_map`].
    fn page_map(&self, buckets: u32) -> Option<(Side, PageMap)>;
    /// See [`Migration::measure_dirty_rate`].
    fn measure_dirty_rate(&self, plan: Plan) -> Result<(), CommandRefused>;
    /// See [`Migration::dirty_rate`].
    fn dirty_rate(&self) -> DirtyRate;
    /// See [`Migration::set_dirty_limit`].
    fn set_dirty_limit(&self, vcpu: Option<i64>, rate: i64) -> Result<(), CommandRefused>;
    /// See [`Migration::cancel_dirty_limit`].
    fn cancel_dirty_limit(&self, vcpu: Option<i64>) -> Result<(), CommandRefused>;
    /// See [`Migration::dirty_limits`].
    fn dirty_limits(&self) -> Vec<VcpuDirtyLimit>;
    /// See [`Migration::capabilities`].
    fn capabilities(&self) -> Capabilities;
    /// See [`Migration::set_capabilities`].
    fn set_capabilities(&self, new: Capabilities) -> Result<(), CommandRefused>;
    /// See [`Migration::parameters`].
    fn parameters(&self) -> Parameters;
    /// See [`Migration::set_parameters`].
    fn set_parameters(&self, new: Parameters) -> Result<(), CommandRefused>;
}

/// The real one.
pub struct LiveVm {
    name: Option<String>,
    machine: Arc<Machine>,
    migration: Arc<Migration>,
    snapshots: Snapshots,
    fds: Arc<NamedFds>,
    events: EventSink,
    listening: Mutex<Option<Listening>>,
    /// Whether a guest that does not arrive ends the process, unless it is said otherwise.
    exit_on_error: bool,
}

impl LiveVm {
    /// Puts the parts together; `events` is where `quit` is told.
    pub fn new(
        name: Option<String>,
        machine: Arc<Machine>,
        migration: Arc<Migration>,
        snapshots: Snapshots,
        fds: Arc<NamedFds>,
        events: EventSink,
        exit_on_error: bool,
    ) -> Self {
        Self { name, machine, migration, snapshots, fds, events, listening: Mutex::new(None), exit_on_error }
    }

    /// `--incoming URI`: waits for a guest there, again and again unless the first failure ends the
    /// process.
    pub fn await_guest(&self, uri: &Uri) -> Result<Uri, CommandRefused> {
        let on_failure = if self.exit_on_error { OnFailure::Exit } else { OnFailure::ListenAgain };
        self.migration.incoming(uri, on_failure).map(|at| self.listens(at, Listening::ForGuest))
    }

    fn listens(&self, at: Uri, whom: fn(Uri) -> Listening) -> Uri {
        log::info!("waiting for a guest at {at}");
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        *listening = Some(whom(at.clone()));
        at
    }
}

/// Whom this process listens for, or did.
enum Listening {
    /// A guest. Nobody is awaited there once it is here.
    ForGuest(Uri),
    /// The source of a guest that is here in part, or whose source may not know that it is here
    /// whole.
    ForSource(Uri),
}

impl Vm for LiveVm {
    fn name(&self) -> Option<String> {
        self.name.clone()
    }
    fn uuid(&self) -> Option<Uuid> {
        self.machine.uuid()
    }
    fn run_state(&self) -> RunState {
        self.machine.run_state()
    }
    fn vcpus(&self) -> Vec<VcpuInfo> {
        self.machine.vcpus()
    }
    fn registers(&self) -> Result<Vec<String>, MachineError> {
        self.machine.registers()
    }
    fn disks(&self) -> Vec<DiskInfo> {
        self.machine.disks()
    }
    fn stop(&self) -> Result<(), MachineError> {
        self.machine.stop()
    }
    fn cont(&self) -> Result<(), MachineError> {
        self.machine.cont()
    }
    fn reset(&self) -> Result<(), MachineError> {
        self.machine.reset()
    }
    fn announce(&self, interfaces: &[String], id: &str, schedule: Schedule) -> Result<(), MachineError> {
        self.machine.announce(interfaces, id, schedule)
    }
    fn network(&self) -> Vec<InterfaceInfo> {
        self.machine.network().info()
    }
    fn set_balloon(&self, bytes: u64) -> Result<(), MachineError> {
        self.machine.set_balloon(bytes)
    }
    fn balloon_actual(&self) -> Result<u64, MachineError> {
        self.machine.balloon_actual()
    }
    fn see_balloon_change(&self) -> Result<u64, MachineError> {
        self.machine.see_balloon_change()
    }
    fn powerdown(&self) -> Result<(), MachineError> {
        self.machine.powerdown()
    }
    fn snapshot(&self, act: &Operation) -> Result<String, SnapshotError> {
        self.snapshots.begin(act)
    }
    fn list_snapshots(&self) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        self.snapshots.list()
    }
    fn jobs(&self) -> Vec<JobInfo> {
        self.snapshots.jobs().all()
    }
    fn dismiss_job(&self, id: &str) -> Result<(), SnapshotError> {
        self.snapshots.jobs().dismiss(id)
    }
    fn fds(&self) -> &NamedFds {
        &self.fds
    }
    fn quit(&self) {
        self.events.quit();
    }
    fn migrate(&self, uri: &Uri) -> Result<(), CommandRefused> {
        self.migration.start(uri)
    }
    fn migrate_resume(&self, uri: &Uri) -> Result<(), CommandRefused> {
        self.migration.resume(uri)
    }
    fn migrate_cancel(&self) -> Result<(), CommandRefused> {
        self.migration.cancel()
    }
    fn start_postcopy(&self) -> Result<(), CommandRefused> {
        self.migration.start_postcopy()
    }
    fn migrate_continue(&self) -> Result<(), CommandRefused> {
        self.migration.go_on()
    }
    fn migrate_pause(&self) -> Result<(), CommandRefused> {
        self.migration.pause()
    }
    fn has_link(&self) -> bool {
        self.migration.has_link()
    }
    fn yank(&self) -> bool {
        self.migration.yank()
    }
    fn incoming(&self, uri: &Uri, exit_on_error: Option<bool>) -> Result<Uri, CommandRefused> {
        let on_failure = match exit_on_error.unwrap_or(self.exit_on_error) {
            true => OnFailure::Exit,
            false => OnFailure::Wait,
        };
        self.migration.incoming(uri, on_failure).map(|at| self.listens(at, Listening::ForGuest))
    }
    fn waits_for_another(&self) -> bool {
        match self.migration.waits_for_another() {
            None => return false,
            Some(Some(at)) => drop(self.listens(at, Listening::ForGuest)),
            Some(None) => {
                *self.listening.lock().unwrap_or_else(PoisonError::into_inner) = None;
                log::info!("waiting for 'migrate_incoming'");
            }
        }
        true
    }
    fn recover(&self, uri: &Uri) -> Result<Uri, CommandRefused> {
        self.migration.recover(uri).map(|at| self.listens(at, Listening::ForSource))
    }
    fn listening(&self) -> Option<Uri> {
        let completed = self.report().is_some_and(|(_, report)| report.status == Status::Completed);
        match &*self.listening.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Listening::ForGuest(at)) if !completed => Some(at.clone()),
            Some(Listening::ForSource(at)) => Some(at.clone()),
            _ => None,
        }
    }
    fn report(&self) -> Option<(Side, Report)> {
        self.migration.report()
    }
    fn page_map(&self, buckets: u32) -> Option<(Side, PageMap)> {
        self.migration.page_map(buckets)
    }
    fn measure_dirty_rate(&self, plan: Plan) -> Result<(), CommandRefused> {
        self.migration.measure_dirty_rate(plan)
    }
    fn dirty_rate(&self) -> DirtyRate {
        self.migration.dirty_rate()
    }
    fn set_dirty_limit(&self, vcpu: Option<i64>, rate: i64) -> Result<(), CommandRefused> {
        self.migration.set_dirty_limit(vcpu, rate)
    }
    fn cancel_dirty_limit(&self, vcpu: Option<i64>) -> Result<(), CommandRefused> {
        self.migration.cancel_dirty_limit(vcpu)
    }
    fn dirty_limits(&self) -> Vec<VcpuDirtyLimit> {
        self.migration.dirty_limits()
    }
    fn capabilities(&self) -> Capabilities {
        self.migration.capabilities()
    }
    fn set_capabilities(&self, new: Capabilities) -> Result<(), CommandRefused> {
        self.migration.set_capabilities(new)
    }
    fn parameters(&self) -> Parameters {
        self.migration.parameters()
    }
    fn set_parameters(&self, new: Parameters) -> Result<(), CommandRefused> {
        self.migration.set_parameters(new)
    }
}
