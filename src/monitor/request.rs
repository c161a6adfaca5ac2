//! What is asked and what is answered, independent of the language.

use uuid::Uuid;
use whimbrel_postcopy::stats::{PageMap, Report};

use crate::block::DiskInfo;
use crate::dirty::{DirtyRate, Plan, TimeUnit, VcpuDirtyLimit};
use crate::machine::{RunState, VcpuInfo};
use crate::migration::Side;
use crate::migration::capabilities::{Capabilities, Capability};
use crate::migration::parameters::{Parameter, Parameters};
use crate::migration::setting::Setting;
use crate::migration::uri::Uri;
use crate::net::{InterfaceInfo, Schedule};
use crate::snapshots::{JobInfo, Operation, SnapshotInfo};

/// A command, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Starts or resumes a migration.
    Migrate {
        /// Where to.
        uri: Uri,
        /// Joins a broken postcopy migration again.
        resume: bool,
        /// HMP: the prompt comes back when it has ended.
        wait: bool,
    },
    /// Listens for a guest.
    MigrateIncoming {
        /// Where.
        uri: Uri,
        /// Whether the process ends if the guest does not arrive.
        exit_on_error: Option<bool>,
    },
    /// Takes a migration back.
    MigrateCancel,
    /// Switches to postcopy.
    MigrateStartPostcopy,
    /// Goes on with a switchover that is held.
    MigrateContinue,
    /// Listens anew for a broken postcopy migration.
    MigrateRecover(Uri),
    /// Breaks a postcopy migration's link.
    MigratePause,
    /// Breaks the migration's link, if it is among the things named.
    Yank {
        /// Whether it is.
        migration: bool,
    },
    /// What can be yanked.
    QueryYank,
    /// Switches capabilities: all or none.
    SetCapabilities(Vec<(Capability, bool)>),
    /// Sets parameters, each in its own unit: all or none.
    SetParameters(Vec<(&'static Parameter, Setting)>),
    /// How the migration stands.
    QueryMigrate {
        /// HMP: with the rows that fill a screen.
        all: bool,
    },
    /// Which pages have arrived, in so many parts of guest RAM.
    QueryPages(u32),
    /// Begins to measure the dirty rate.
    MeasureDirtyRate(Plan),
    /// How that stands, in this unit of time.
    QueryDirtyRate(TimeUnit),
    /// Limits the dirty rate.
    SetDirtyLimit {
        /// Of one vCPU; `None`: of each.
        vcpu: Option<i64>,
        /// MiB per second; 0: no limit.
        rate: i64,
    },
    /// Takes that back.
    CancelDirtyLimit {
        /// Of one vCPU; `None`: of each.
        vcpu: Option<i64>,
    },
    /// The limits and what they do.
    QueryDirtyLimit,
    /// The migration capabilities.
    QueryCapabilities,
    /// The migration parameters.
    QueryParameters,
    /// How the machine stands.
    QueryStatus,
    /// The vCPUs.
    QueryCpus,
    /// Registers.
    QueryRegisters(Whose),
    /// The disks.
    QueryBlock,
    /// This program's version.
    QueryVersion,
    /// The machine's name.
    QueryName,
    /// The machine's identity.
    QueryUuid,
    /// Whether KVM is used.
    QueryKvm,
    /// The accelerators.
    QueryAccelerators,
    /// QMP's commands.
    QueryCommands,
    /// What QMP's commands take.
    QuerySchema,
    /// Stops the vCPUs.
    Stop,
    /// Starts them.
    Cont,
    /// Resets the machine.
    SystemReset,
    /// Announces the guest to the network.
    AnnounceSelf {
        /// How; `None`: by the migration parameters.
        schedule: Option<Schedule>,
        /// Through which cards; none: through all.
        interfaces: Vec<String>,
        /// A name for it, empty by default: a second of the same name takes the first one's place.
        id: String,
    },
    /// Saves, loads or deletes a snapshot.
    Snapshot(Operation),
    /// The snapshots.
    QuerySnapshots,
    /// The jobs.
    QueryJobs,
    /// Forgets a job that is over.
    DismissJob(String),
    /// The network cards.
    QueryNetwork,
    /// Asks the guest to make do with so many bytes of memory.
    SetBalloon(u64),
    /// How much memory the guest has left.
    QueryBalloon,
    /// Names the descriptor that came with the command.
    GetFd(String),
    /// Closes a descriptor that was named.
    CloseFd(String),
    /// Presses the power button.
    SystemPowerdown,
    /// Ends the process.
    Quit,
    /// HMP's help on one command, or all.
    Help(Option<String>),
    /// An HMP line by way of QMP.
    HumanMonitorCommand {
        /// The line.
        line: String,
        /// The vCPU that it is about, if it is about one and names none.
        vcpu: Option<i64>,
    },
}

/// Which vCPUs' registers are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Of all.
    All,
    /// Of the one that the monitor's commands are about, the first unless said otherwise.
    Current,
    /// Of this one.
    Of(usize),
}

/// What QEMU calls a vCPU that has what the host has.
pub const CPU_MODEL: &str = "host";

/// An answer, not yet rendered.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Nothing to say but that it is done.
    Done,
    /// Listening for a guest at this address.
    Listening(Uri),
    /// To [`Request::QueryMigrate`].
    Migration {
        /// The report; `None` before the first migration.
        report: Option<Box<(Side, Report)>>,
        /// Where this process waits or waited for a guest.
        listening: Option<Uri>,
        /// With all rows.
        all: bool,
    },
    /// To [`Request::QueryPages`]; `None` before the first migration.
    Pages(Option<(Side, PageMap)>),
    /// To [`Request::MeasureDirtyRate`]: what was begun.
    Measuring(Plan),
    /// To [`Request::QueryDirtyRate`].
    DirtyRate(DirtyRate, TimeUnit),
    /// To [`Request::SetDirtyLimit`] and [`Request::CancelDirtyLimit`].
    DirtyLimitChanged,
    /// To [`Request::QueryDirtyLimit`]; none where there is no limit.
    DirtyLimits(Vec<VcpuDirtyLimit>),
    /// To [`Request::QueryCapabilities`].
    Capabilities(Capabilities),
    /// To [`Request::QueryParameters`].
    Parameters(Parameters),
    /// To [`Request::QueryStatus`].
    Status(RunState),
    /// To [`Request::QueryCpus`].
    Cpus(Vec<VcpuInfo>),
    /// To [`Request::QueryRegisters`]: each vCPU's index and its registers as text.
    Registers(Vec<(usize, String)>),
    /// To [`Request::Snapshot`]: the job that does it.
    Job(String),
    /// To [`Request::QuerySnapshots`].
    Snapshots(Vec<SnapshotInfo>),
    /// To [`Request::QueryJobs`].
    Jobs(Vec<JobInfo>),
    /// To [`Request::QueryNetwork`].
    Network(Vec<InterfaceInfo>),
    /// To [`Request::QueryBlock`].
    Block(Vec<DiskInfo>),
    /// To [`Request::QueryBalloon`]: in bytes.
    Balloon(u64),
    /// To [`Request::QueryVersion`].
    Version,
    /// To [`Request::QueryName`].
    Name(Option<String>),
    /// To [`Request::QueryUuid`].
    Uuid(Option<Uuid>),
    /// To [`Request::QueryYank`]: whether there is a migration's link.
    Yank(bool),
    /// To [`Request::QueryKvm`]: there is no other accelerator.
    Kvm,
    /// To [`Request::QueryAccelerators`]: there is one.
    Accelerators,
    /// To [`Request::QueryCommands`].
    Commands,
    /// To [`Request::QuerySchema`].
    Schema,
    /// To [`Request::Help`].
    Help(Option<String>),
    /// Text as an HMP client would see it.
    Text(String),
}
