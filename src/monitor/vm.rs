//! [`Vm`]: what the monitor asks of the virtual machine, and who answers.

use std::sync::Arc;

use uuid::Uuid;
use whimbrel_postcopy::stats::{PageMap, Report};

use super::notice::EventSink;
use crate::block::DiskInfo;
use crate::dirty::{DirtyRate, Plan, VcpuDirtyLimit};
use crate::fds::NamedFds;
use crate::machine::{Machine, MachineError, RunState, VcpuInfo};
use crate::migration::capabilities::Capabilities;
use crate::migration::parameters::Parameters;
use crate::migration::uri::Uri;
use crate::migration::{CommandRefused, Migration, Side};
use crate::net::{InterfaceInfo, Schedule};
use crate::snapshots::{JobInfo, Operation, SnapshotError, SnapshotInfo, Snapshots};

/// Declares [`Vm`], and [`LiveVm`]'s answers: `part { fn name() }` is what `LiveVm.part.name()`
/// does.
macro_rules! vm {
    ($($part:ident: $owner:ident {
        $(fn $name:ident($($arg:ident: $kind:ty),*) $(-> $result:ty)?;)*
    })*) => {
        /// What commands act on, and what tests replace. No method waits for a guest or for a
        /// migration.
        pub trait Vm {
            /// `--name`.
            fn name(&self) -> Option<String>;
            /// The descriptors that monitors' clients named.
            fn fds(&self) -> &NamedFds;
            /// Ends the process, after the answers that are on their way.
            fn quit(&self);
            $($(
                #[doc = concat!("See [`", stringify!($owner), "::", stringify!($name), "`].")]
                fn $name(&self, $($arg: $kind),*) $(-> $result)?;
            )*)*
        }

        impl Vm for LiveVm {
            fn name(&self) -> Option<String> {
                self.name.clone()
            }
            fn fds(&self) -> &NamedFds {
                &self.fds
            }
            fn quit(&self) {
                self.events.quit();
            }
            $($(
                fn $name(&self, $($arg: $kind),*) $(-> $result)? {
                    self.$part.$name($($arg),*)
                }
            )*)*
        }
    };
}

vm! {
    machine: Machine {
        fn uuid() -> Option<Uuid>;
        fn run_state() -> RunState;
        fn vcpus() -> Vec<VcpuInfo>;
        fn registers() -> Result<Vec<String>, MachineError>;
        fn disks() -> Vec<DiskInfo>;
        fn stop() -> Result<(), MachineError>;
        fn cont() -> Result<(), MachineError>;
        fn reset() -> Result<(), MachineError>;
        fn announce(interfaces: &[String], id: &str, schedule: Schedule) -> Result<(), MachineError>;
        fn interfaces() -> Vec<InterfaceInfo>;
        fn set_balloon(bytes: u64) -> Result<(), MachineError>;
        fn balloon_actual() -> Result<u64, MachineError>;
        fn see_balloon_change() -> Result<u64, MachineError>;
        fn powerdown() -> Result<(), MachineError>;
    }
    snapshots: Snapshots {
        fn snapshot(operation: &Operation) -> Result<String, SnapshotError>;
        fn list_snapshots() -> Result<Vec<SnapshotInfo>, SnapshotError>;
        fn jobs() -> Vec<JobInfo>;
        fn dismiss_job(id: &str) -> Result<(), SnapshotError>;
    }
    migration: Migration {
        fn migrate(uri: &Uri) -> Result<(), CommandRefused>;
        fn migrate_resume(uri: &Uri) -> Result<(), CommandRefused>;
        fn migrate_cancel() -> Result<(), CommandRefused>;
        fn start_postcopy() -> Result<(), CommandRefused>;
        fn migrate_continue() -> Result<(), CommandRefused>;
        fn migrate_pause() -> Result<(), CommandRefused>;
        fn has_link() -> bool;
        fn yank() -> bool;
        fn incoming(uri: &Uri, exit_on_error: Option<bool>) -> Result<Uri, CommandRefused>;
        fn waits_for_another() -> bool;
        fn recover(uri: &Uri) -> Result<Uri, CommandRefused>;
        fn listening() -> Option<Uri>;
        fn report() -> Option<(Side, Report)>;
        fn page_map(buckets: u32) -> Option<(Side, PageMap)>;
        fn measure_dirty_rate(plan: Plan) -> Result<(), CommandRefused>;
        fn dirty_rate() -> DirtyRate;
        fn set_dirty_limit(vcpu: Option<i64>, rate: i64) -> Result<(), CommandRefused>;
        fn cancel_dirty_limit(vcpu: Option<i64>) -> Result<(), CommandRefused>;
        fn dirty_limits() -> Vec<VcpuDirtyLimit>;
        fn capabilities() -> Capabilities;
        fn set_capabilities(new: Capabilities) -> Result<(), CommandRefused>;
        fn parameters() -> Parameters;
        fn set_parameters(new: Parameters) -> Result<(), CommandRefused>;
    }
}

/// The real one.
pub struct LiveVm {
    /// `--name`.
    pub name: Option<String>,
    /// See [`Machine`].
    pub machine: Arc<Machine>,
    /// See [`Migration`].
    pub migration: Arc<Migration>,
    /// See [`Snapshots`].
    pub snapshots: Snapshots,
    /// The descriptors that monitors' clients named.
    pub fds: Arc<NamedFds>,
    /// Where `quit` is told.
    pub events: EventSink,
}
