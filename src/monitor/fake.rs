//! A virtual machine for the monitor's tests: remembers what it was told, answers what it is set
//! to.

#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::time::{Duration, UNIX_EPOCH};

use uuid::Uuid;
use whimbrel_postcopy::stats::{
    LatencyReport, PageMap, RamReport, Report, Status, Step, Throttling, Whereabouts, XbzrleReport,
};

use super::vm::Vm;
use crate::block::DiskInfo;
use crate::dirty::{DirtyRate, Measuring, Mode, Plan, TimeUnit, VcpuDirtyLimit};
use crate::fds::NamedFds;
use crate::machine::{MachineError, RunState, VcpuInfo};
use crate::migration::capabilities::Capabilities;
use crate::migration::parameters::Parameters;
use crate::migration::uri::Uri;
use crate::migration::{CommandRefused, Side};
use crate::net::{InterfaceInfo, MacAddr, Schedule, Timing};
use crate::snapshots::{JobInfo, JobStatus, Operation, Owner, SnapshotError, SnapshotInfo};

/// See the module.
pub struct FakeVm {
    /// What it was told, in order.
    pub calls: RefCell<Vec<String>>,
    /// Its report.
    pub report: RefCell<Option<(Side, Report)>>,
    /// Its capabilities.
    pub capabilities: Cell<Capabilities>,
    /// Its parameters.
    pub parameters: RefCell<Parameters>,
    /// The guest's share of its memory in bytes; `None`: it has no balloon.
    pub balloon: Cell<Option<u64>>,
    /// What each of its two vCPUs may dirty, in MiB per second.
    pub dirty_limit: Cell<Option<u64>>,
    /// Whether every migration command is refused, because one is under way.
    pub refuses: Cell<bool>,
    /// Descriptors that were named.
    pub fds: NamedFds,
    /// Jobs that were begun.
    pub jobs: RefCell<Vec<JobInfo>>,
}

impl Default for FakeVm {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeVm {
    /// A running machine that never migrated.
    pub fn new() -> Self {
        Self {
            calls: RefCell::new(Vec::new()),
            report: RefCell::new(None),
            capabilities: Cell::new(Capabilities::default()),
            parameters: RefCell::new(Parameters::default()),
            balloon: Cell::new(Some(300 << 20)),
            dirty_limit: Cell::new(None),
            refuses: Cell::new(false),
            fds: NamedFds::default(),
            jobs: RefCell::default(),
        }
    }

    /// What it was told since the last time, joined by `; `.
    pub fn told(&self) -> String {
        self.calls.take().join("; ")
    }

    /// Sets a report of which only the status is of interest.
    pub fn set_status(&self, side: Side, status: Status, error: Option<&str>) {
        let mut report = report(status);
        report.error = error.map(str::to_owned);
        self.report.replace(Some((side, report)));
    }

    fn call(&self, what: impl Into<String>) {
        self.calls.borrow_mut().push(what.into());
    }

    fn migration(&self, what: impl Into<String>) -> Result<(), CommandRefused> {
        match self.refuses.get() {
            true => Err(CommandRefused::InProgress),
            false => {
                self.call(what);
                Ok(())
            }
        }
    }
}

/// A report with a different value in every field.
pub fn report(status: Status) -> Report {
    Report {
        status,
        whereabouts: Whereabouts::There,
        total_time: Duration::from_millis(1283),
        setup_time: Duration::from_micros(4900),
        downtime: Some(Duration::from_millis(9)),
        expected_downtime: Some(Duration::from_millis(310)),
        error: None,
        ram: RamReport {
            skipped: 0,
            transferred: 1_342_177_280,
            remaining: 65_536,
            total: 1_610_612_736,
            duplicate: 11,
            normal: 262_144,
            dirty_pages_rate: 500,
            mbps: 8123.456,
            dirty_sync_count: 3,
            postcopy_requests: 77,
            pages_per_second: 250_000,
            precopy_bytes: 1_073_741_824,
            downtime_bytes: 12_345,
            postcopy_bytes: 268_435_456,
            multifd_bytes: 536_870_912,
        },
        deltas: Some(XbzrleReport {
            cache_size: 64 << 20,
            bytes: 4711,
            pages: 99,
            cache_miss: 13,
            cache_miss_rate: 0.25,
            encoding_rate: 86.078,
            overflow: 2,
        }),
        demand: Some(LatencyReport {
            count: 77,
            mean: Duration::from_nanos(142_500),
            p50: Duration::from_micros(120),
            p99: Duration::from_micros(1313),
            max: Duration::from_micros(7700),
            distribution: [0, 1, 2, 3, 4, 5, 60, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            vcpus: vec![Duration::from_nanos(143_000), Duration::from_nanos(142_000)],
            others: Duration::from_nanos(131_000),
        }),
        blocktime: Some(Duration::from_millis(12)),
        vcpu_blocktime: vec![Duration::from_millis(14), Duration::from_millis(15)],
        throttling: Some(Throttling::AutoConverge(45)),
        steps: vec![
            Step { name: "pause", at: Duration::from_micros(800) },
            Step { name: "load", at: Duration::from_micros(4100) },
        ],
    }
}

impl Vm for FakeVm {
    fn name(&self) -> Option<String> {
        Some("guest".to_owned())
    }
    fn uuid(&self) -> Option<Uuid> {
        Uuid::parse_str("6f0ec1a4-7d53-4a3c-9a56-0d1c1f2b3a4d").ok()
    }
    fn run_state(&self) -> RunState {
        RunState::Running
    }
    fn vcpus(&self) -> Vec<VcpuInfo> {
        let vcpu = |index| VcpuInfo { index, thread_id: 100 + index as i32 };
        vec![vcpu(0), vcpu(1)]
    }
    fn registers(&self) -> Result<Vec<String>, MachineError> {
        Ok(vec!["rip=1\n".to_owned(), "rip=2\n".to_owned()])
    }
    fn disks(&self) -> Vec<DiskInfo> {
        Vec::new()
    }
    fn stop(&self) -> Result<(), MachineError> {
        self.call("stop");
        Ok(())
    }
    fn cont(&self) -> Result<(), MachineError> {
        Err(MachineError::Refused("the guest is elsewhere".to_owned()))
    }
    fn reset(&self) -> Result<(), MachineError> {
        self.call("reset");
        Ok(())
    }
    fn announce(&self, interfaces: &[String], id: &str, schedule: Schedule) -> Result<(), MachineError> {
        let numbers = Timing::ALL.map(|it| schedule.get(it));
        self.call(format!("announce {interfaces:?} {id:?} {numbers:?}"));
        Ok(())
    }
    fn interfaces(&self) -> Vec<InterfaceInfo> {
        let card = |n: u8| InterfaceInfo {
            name: format!("net{n}"),
            tap: format!("tap{}", 7 + n),
            mac: MacAddr::new([0x52, 0x54, 0, 0x12, 0x34, 0x56 + n]).unwrap(),
        };
        vec![card(0), card(1)]
    }
    fn set_balloon(&self, bytes: u64) -> Result<(), MachineError> {
        self.balloon_actual()?;
        self.call(format!("balloon {bytes}"));
        Ok(())
    }
    fn balloon_actual(&self) -> Result<u64, MachineError> {
        self.balloon.get().ok_or(MachineError::NoBalloon)
    }
    fn see_balloon_change(&self) -> Result<u64, MachineError> {
        self.call("see balloon");
        self.balloon_actual()
    }
    fn powerdown(&self) -> Result<(), MachineError> {
        self.call("powerdown");
        Ok(())
    }
    fn snapshot(&self, act: &Operation) -> Result<String, SnapshotError> {
        let words = [Some(act.kind.name()), act.tag.as_deref(), act.job.as_deref()];
        self.call(words.into_iter().flatten().collect::<Vec<_>>().join(" "));
        let id = act.job.clone().unwrap_or_else(|| "#1".to_owned());
        let job = JobInfo { id: id.clone(), kind: act.kind, status: JobStatus::Running, error: None, progress: (0, 1) };
        self.jobs.borrow_mut().push(job);
        Ok(id)
    }
    fn list_snapshots(&self) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        let of = |tag: &str, size, clock| SnapshotInfo {
            tag: tag.parse().unwrap(),
            size,
            date: UNIX_EPOCH,
            clock,
            owner: Owner::Ours,
        };
        Ok(vec![of("before", 6_951_077, Some(3_723_004_000_000)), of("a name that is long", 33 << 20, None)])
    }
    fn jobs(&self) -> Vec<JobInfo> {
        self.jobs.borrow().clone()
    }
    fn dismiss_job(&self, id: &str) -> Result<(), SnapshotError> {
        self.call(format!("dismiss {id}"));
        self.jobs.borrow_mut().retain(|job| job.id != id);
        Ok(())
    }
    fn fds(&self) -> &NamedFds {
        &self.fds
    }
    fn quit(&self) {
        self.call("quit");
    }
    fn migrate(&self, uri: &Uri) -> Result<(), CommandRefused> {
        self.migration(format!("migrate {uri}"))
    }
    fn migrate_resume(&self, uri: &Uri) -> Result<(), CommandRefused> {
        self.migration(format!("resume {uri}"))
    }
    fn migrate_cancel(&self) -> Result<(), CommandRefused> {
        self.migration("cancel")
    }
    fn start_postcopy(&self) -> Result<(), CommandRefused> {
        self.migration("start-postcopy")
    }
    fn migrate_continue(&self) -> Result<(), CommandRefused> {
        self.migration("continue")
    }
    fn migrate_pause(&self) -> Result<(), CommandRefused> {
        self.migration("pause")
    }
    fn has_link(&self) -> bool {
        self.report.borrow().is_some()
    }
    fn yank(&self) -> bool {
        self.call("yank");
        self.has_link()
    }
    fn waits_for_another(&self) -> bool {
        false
    }
    fn incoming(&self, uri: &Uri, exit_on_error: Option<bool>) -> Result<Uri, CommandRefused> {
        let exit = exit_on_error.map(|exit| format!(" exit-on-error={exit}")).unwrap_or_default();
        self.migration(format!("incoming {uri}{exit}"))?;
        Ok(uri.clone())
    }
    fn recover(&self, uri: &Uri) -> Result<Uri, CommandRefused> {
        self.migration(format!("recover {uri}"))?;
        Ok(uri.clone())
    }
    fn listening(&self) -> Option<Uri> {
        None
    }
    fn report(&self) -> Option<(Side, Report)> {
        self.report.borrow().clone()
    }
    /// Of four pages the last has not arrived.
    fn page_map(&self, buckets: u32) -> Option<(Side, PageMap)> {
        let side = self.report.borrow().as_ref()?.0;
        Some((side, PageMap::new(4, buckets, |start, end| end.min(3) - start.min(3))))
    }
    fn measure_dirty_rate(&self, plan: Plan) -> Result<(), CommandRefused> {
        let (time, unit, mode) = (plan.calc_time(), plan.unit.name(), plan.mode.name());
        self.migration(format!("measure {time} {unit} {} {mode}", plan.sample_pages))
    }
    fn dirty_rate(&self) -> DirtyRate {
        let plan = Plan::new(2, TimeUnit::Second, None, Mode::PageSampling).ok();
        DirtyRate { measuring: Measuring::Measured(34), start: 1_700_000_000, plan }
    }
    fn set_dirty_limit(&self, vcpu: Option<i64>, rate: i64) -> Result<(), CommandRefused> {
        self.migration(format!("dirty limit {rate} {vcpu:?}"))?;
        self.dirty_limit.set(u64::try_from(rate).ok());
        Ok(())
    }
    fn cancel_dirty_limit(&self, vcpu: Option<i64>) -> Result<(), CommandRefused> {
        self.migration(format!("no dirty limit {vcpu:?}"))?;
        self.dirty_limit.set(None);
        Ok(())
    }
    fn dirty_limits(&self) -> Vec<VcpuDirtyLimit> {
        let limit = self.dirty_limit.get();
        limit.map_or_else(Vec::new, |limit| [0, 1].map(|vcpu| VcpuDirtyLimit { vcpu, limit, current: 9 }).to_vec())
    }
    fn capabilities(&self) -> Capabilities {
        self.capabilities.get()
    }
    fn set_capabilities(&self, new: Capabilities) -> Result<(), CommandRefused> {
        self.migration("set-capabilities")?;
        self.capabilities.set(new);
        Ok(())
    }
    fn parameters(&self) -> Parameters {
        self.parameters.borrow().clone()
    }
    fn set_parameters(&self, new: Parameters) -> Result<(), CommandRefused> {
        self.migration("set-parameters")?;
        self.parameters.replace(new);
        Ok(())
    }
}
