//! [`Migration`]: the one place that starts, steers and reports this VM's migrations.

use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use whimbrel_postcopy::channel::{Connector, Listener, TcpAddress, UnixAddress};
use whimbrel_postcopy::destination::{self, DestinationHandle};
use whimbrel_postcopy::progress::Observer;
use whimbrel_postcopy::source::{self, Limits, Multifd, SourceHandle};
use whimbrel_postcopy::stats::{Report, Status};
use whimbrel_postcopy::wire::Features;

use super::MigrationError;
use super::parameters::{Capabilities, Parameters};
use super::uri::Uri;
use crate::machine::{Machine, RunState};

/// Something that a monitor client wants to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MigrationEvent {
    /// The status changed (event `MIGRATION`).
    Status(Status),
    /// A precopy pass began (event `MIGRATION_PASS`), counted from 1.
    Pass(u64),
}

/// Which end of the migration a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest leaves.
    Source,
    /// The guest arrives.
    Destination,
}

/// A vCPU and the thread that answers its requests.
const SPARE_PROCESSORS: usize = 2;

type Events = Arc<dyn Fn(MigrationEvent) + Send + Sync>;

/// The engine's observer, as the monitor's callback.
struct Tell(Events);

impl Observer for Tell {
    fn status(&self, status: Status) {
        (self.0)(MigrationEvent::Status(status));
    }
    fn pass(&self, pass: u64) {
        (self.0)(MigrationEvent::Pass(pass));
    }
}

/// The last migration, ended or not.
enum Job {
    None,
    Leaving(SourceHandle),
    Arriving(DestinationHandle),
}

impl Job {
    fn report(&self) -> Option<(Side, Report)> {
        match self {
            Self::None => None,
            Self::Leaving(handle) => Some((Side::Source, handle.report())),
            Self::Arriving(handle) => Some((Side::Destination, handle.report())),
        }
    }

    fn is_under_way(&self) -> bool {
        self.report().is_some_and(|(_, report)| !report.status.is_ended())
    }
}

struct Settings {
    capabilities: Capabilities,
    parameters: Parameters,
}

/// This VM's migrations: one at a time. All methods return at once.
pub struct Migration {
    machine: Arc<Machine>,
    events: Events,
    settings: Mutex<Settings>,
    job: Mutex<Job>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Migration {
    /// For `machine`; `events` is called from the engine's threads.
    pub fn new(machine: Arc<Machine>, postcopy_after: Option<u32>, events: Events) -> Arc<Self> {
        let parameters = Parameters { postcopy_after, ..Parameters::default() };
        let settings = Mutex::new(Settings { capabilities: Capabilities::default(), parameters });
        Arc::new(Self { machine, events, settings, job: Mutex::new(Job::None) })
    }

    fn observer(&self) -> Arc<dyn Observer> {
        Arc::new(Tell(self.events.clone()))
    }

    /// `migrate -d URI`: begins; the rest is told by events and [`Migration::report`].
    pub fn start(&self, uri: &Uri) -> Result<(), MigrationError> {
        let mut job = lock(&self.job);
        match self.machine.run_state() {
            RunState::Inmigrate => return Err(MigrationError::Incoming),
            _ if job.is_under_way() => return Err(MigrationError::InProgress),
            RunState::Running | RunState::Paused | RunState::Prelaunch => {}
            state => return Err(MigrationError::NoGuest(state)),
        }
        let settings = lock(&self.settings);
        if settings.parameters.postcopy_after.is_some() && !settings.capabilities.postcopy_ram {
            return Err(MigrationError::PostcopyOff);
        }
        let limits = limits(&settings.parameters);
        let multifd = multifd(&settings);
        let handle = source::start_with(self.machine.clone(), connector(uri), limits, self.observer(), multifd)
            .map_err(MigrationError::Resource)?;
        *job = Job::Leaving(handle);
        Ok(())
    }

    /// `migrate -r URI`: joins a paused postcopy again.
    pub fn resume(&self, uri: &Uri) -> Result<(), MigrationError> {
        match &*lock(&self.job) {
            Job::Leaving(handle) if handle.report().status == Status::PostcopyPaused => {
                handle.rejoin(connector(uri));
                Ok(())
            }
            _ => Err(MigrationError::NotPaused("leaves")),
        }
    }

    /// `migrate_cancel`. Without a migration it does nothing, as in QEMU.
    pub fn cancel(&self) -> Result<(), MigrationError> {
        match &*lock(&self.job) {
            Job::Leaving(handle) if !handle.report().status.is_ended() => Ok(handle.cancel()?),
            Job::Arriving(handle) if !handle.report().status.is_ended() => Err(MigrationError::CancelHere),
            _ => Ok(()),
        }
    }

    /// `migrate_start_postcopy`.
    pub fn start_postcopy(&self) -> Result<(), MigrationError> {
        if !lock(&self.settings).capabilities.postcopy_ram {
            return Err(MigrationError::PostcopyOff);
        }
        match &*lock(&self.job) {
            Job::Leaving(handle) if !handle.report().status.is_ended() => {
                handle.start_postcopy().map_err(|_| MigrationError::NoPostcopyThere)
            }
            Job::Arriving(handle) if !handle.report().status.is_ended() => Err(MigrationError::NotTheSource),
            _ => Err(MigrationError::NotMigrating),
        }
    }

    /// `migrate_pause`: breaks the link on purpose where that leaves two halves: from the hand-over on, also while they are being joined.
    pub fn pause(&self) -> Result<(), MigrationError> {
        use Status::{Device, PostcopyActive, PostcopyRecover, PostcopyRecoverSetup};
        match &*lock(&self.job) {
            Job::Leaving(handle) => match handle.report().status {
                PostcopyActive | PostcopyRecover | PostcopyRecoverSetup => handle.break_link(),
                // All pages are there and its word is missing: nobody else can end that wait.
                Device if handle.is_handed_over() => handle.break_link(),
                _ => return Err(MigrationError::NotPostcopy),
            },
            Job::Arriving(handle) if matches!(handle.report().status, PostcopyActive | PostcopyRecover) => {
                handle.break_link();
            }
            _ => return Err(MigrationError::NotPostcopy),
        }
        Ok(())
    }

    /// `migrate_incoming URI`, or `--incoming URI`. Listens before it returns; `Ok` is the address listened on (a tcp port 0 is resolved).
    pub fn incoming(&self, uri: &Uri) -> Result<Uri, MigrationError> {
        let mut job = lock(&self.job);
        if self.machine.run_state() != RunState::Inmigrate {
            return Err(MigrationError::NotIncoming);
        }
        if job.is_under_way() {
            return Err(MigrationError::AlreadyListening);
        }
        let (listener, at) = listen(uri)?;
        let postcopy = lock(&self.settings).capabilities.postcopy_ram;
        let features = Features::MULTIFD.and(if postcopy { Features::POSTCOPY } else { Features::default() });
        let handle = destination::start_with(self.machine.clone(), Box::new(listener), self.observer(), features)
            .map_err(MigrationError::Resource)?;
        *job = Job::Arriving(handle);
        Ok(at)
    }

    /// `migrate_recover URI` on the destination: listens anew for the source of a paused postcopy.
    pub fn recover(&self, uri: &Uri) -> Result<Uri, MigrationError> {
        match &*lock(&self.job) {
            Job::Arriving(handle) if handle.report().status == Status::PostcopyPaused => {
                let (listener, at) = listen(uri)?;
                handle.rejoin(Box::new(listener));
                Ok(at)
            }
            _ => Err(MigrationError::NotPaused("arrives at")),
        }
    }

    /// What `query-migrate` and `info migrate` show; `None` before the first migration.
    pub fn report(&self) -> Option<(Side, Report)> {
        let (side, mut report) = lock(&self.job).report()?;
        if !lock(&self.settings).capabilities.postcopy_blocktime {
            report.blocktime = None;
            report.vcpu_blocktime.clear();
        }
        Some((side, report))
    }

    /// The capabilities as they stand.
    pub fn capabilities(&self) -> Capabilities {
        lock(&self.settings).capabilities
    }

    /// Replaces them. While a migration runs, also while one is waited for, only `events` may change: the rest has been
    /// agreed with the peer or is in use.
    pub fn set_capabilities(&self, new: Capabilities) -> Result<(), MigrationError> {
        let job = lock(&self.job);
        let mut settings = lock(&self.settings);
        let old = settings.capabilities;
        if job.is_under_way() && new != (Capabilities { events: new.events, ..old }) {
            return Err(MigrationError::InProgress);
        }
        settings.capabilities = new;
        Ok(())
    }

    /// The parameters as they stand.
    pub fn parameters(&self) -> Parameters {
        lock(&self.settings).parameters
    }

    /// Replaces them; takes effect at once, also in a running migration. How many channels that has cannot be changed meanwhile.
    pub fn set_parameters(&self, new: Parameters) -> Result<(), MigrationError> {
        let job = lock(&self.job);
        let mut settings = lock(&self.settings);
        if job.is_under_way() && new.multifd_channels != settings.parameters.multifd_channels {
            return Err(MigrationError::InProgress);
        }
        settings.parameters = new;
        self.machine.network().set_schedule(new.announce);
        if let Job::Leaving(handle) = &*job {
            handle.set_limits(limits(&new));
        }
        Ok(())
    }

    /// The process ends: gives up links and threads. A guest that has only half arrived keeps waiting for its missing pages
    /// until its vCPUs have ended, too.
    pub fn abandon(&self) {
        match &mut *lock(&self.job) {
            Job::None => {}
            Job::Leaving(handle) => handle.abandon(),
            Job::Arriving(handle) => handle.abandon(),
        }
    }
}

fn limits(parameters: &Parameters) -> Limits {
    Limits {
        downtime: parameters.downtime_limit,
        bandwidth: parameters.max_bandwidth,
        postcopy_bandwidth: parameters.max_postcopy_bandwidth,
        switchover_bandwidth: parameters.avail_switchover_bandwidth,
        postcopy_after: parameters.postcopy_after,
    }
}

fn multifd(settings: &Settings) -> Multifd {
    if !settings.capabilities.multifd {
        return Multifd::default();
    }
    let channels = settings.parameters.multifd_channels;
    // In a postcopy demanded pages need processors more than the background does: it is spread where some are left.
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    Multifd { channels, postcopy: processors >= usize::from(channels) + SPARE_PROCESSORS }
}

fn connector(uri: &Uri) -> Arc<dyn Connector> {
    match uri {
        Uri::Tcp { host, port } => Arc::new(TcpAddress { host: host.clone(), port: *port }),
        Uri::Unix(path) => Arc::new(UnixAddress(path.clone())),
    }
}

fn listen(uri: &Uri) -> Result<(Listener, Uri), MigrationError> {
    let raise = |source| MigrationError::Listen { uri: uri.clone(), source };
    match uri {
        Uri::Tcp { host, port } => {
            let listener = Listener::tcp(&TcpAddress { host: host.clone(), port: *port }).map_err(raise)?;
            let at = Uri::Tcp { host: host.clone(), port: listener.port().unwrap_or(*port) };
            Ok((listener, at))
        }
        Uri::Unix(path) => Ok((Listener::unix(&UnixAddress(path.clone())).map_err(raise)?, uri.clone())),
    }
}
