//! [`Migration`]: the one place that starts, steers and reports this VM's migrations.

use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use whimbrel_postcopy::channel::{Acceptor, Connector};
use whimbrel_postcopy::destination::{self, DestinationHandle, Options};
use whimbrel_postcopy::progress::Observer;
use whimbrel_postcopy::source::{self, Limits, Multifd, Policy, SourceHandle};
use whimbrel_postcopy::stats::{PageMap, Report, Status};
use whimbrel_postcopy::stream::Saving;
use whimbrel_postcopy::wire::Features;

use super::MigrationError;
use super::capabilities::{Capabilities, Capability};
use super::links::{connector, listen, listen_again};
use super::parameters::Parameters;
use super::rules::{self, Route, Subject};
use super::streams::Streams;
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

impl Side {
    /// The name in `x-query-migrate-pages`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
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
pub(super) enum Job {
    None,
    Leaving(SourceHandle, Route),
    Arriving(DestinationHandle),
    /// A guest that stays is written: by `migrate`, or as a snapshot.
    Staying(Saving, Visible),
    /// A snapshot takes the guest's place.
    Returning(DestinationHandle),
}

/// Whether `query-migrate` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visible {
    Yes,
    /// It is the business of a job.
    No,
}

impl Job {
    /// As users see it.
    fn report(&self) -> Option<(Side, Report)> {
        match self {
            Self::None | Self::Staying(_, Visible::No) | Self::Returning(_) => None,
            Self::Leaving(handle, _) => Some((Side::Source, handle.report())),
            Self::Staying(handle, Visible::Yes) => Some((Side::Source, handle.report())),
            Self::Arriving(handle) => Some((Side::Destination, handle.report())),
        }
    }

    /// How it stands, whoever sees it.
    pub fn any_report(&self) -> Option<Report> {
        match self {
            Self::None => None,
            Self::Leaving(handle, _) => Some(handle.report()),
            Self::Staying(handle, _) => Some(handle.report()),
            Self::Arriving(handle) | Self::Returning(handle) => Some(handle.report()),
        }
    }

    fn is_paused(&self) -> bool {
        self.report().is_some_and(|(_, report)| report.status == Status::PostcopyPaused)
    }

    /// A link, or on the source a thread that waits for one.
    fn has_link(&self) -> bool {
        use Status::{Active, Device, PostcopyActive, PostcopyPaused, PostcopyRecover};
        self.report().is_some_and(|(side, report)| match side {
            Side::Source => !report.status.is_ended() && report.status != PostcopyPaused,
            Side::Destination => matches!(report.status, Active | Device | PostcopyActive | PostcopyRecover),
        })
    }

    /// Which way a guest that is leaving goes.
    fn route(&self) -> Option<Route> {
        match self {
            Self::Leaving(_, route) if self.is_under_way() => Some(*route),
            Self::Staying(..) if self.is_under_way() => Some(Route::OneWay),
            _ => None,
        }
    }

    pub fn is_under_way(&self) -> bool {
        self.any_report().is_some_and(|report| !report.status.is_ended())
    }
}

pub(super) struct Settings {
    pub capabilities: Capabilities,
    pub parameters: Parameters,
}

impl Settings {
    /// As the rules see it.
    fn subject(&self, route: Option<Route>) -> Subject<'_> {
        Subject { capabilities: self.capabilities, parameters: &self.parameters, route }
    }
}

/// This VM's migrations: one at a time. All methods return at once.
pub struct Migration {
    pub(super) machine: Arc<Machine>,
    events: Events,
    pub(super) settings: Arc<Mutex<Settings>>,
    pub(super) streams: Streams,
    pub(super) job: Mutex<Job>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Migration {
    /// For `machine`, with the first `parameters`; `events` is called from the engine's threads.
    pub fn new(machine: Arc<Machine>, parameters: Parameters, streams: Streams, events: Events) -> Arc<Self> {
        let settings = Arc::new(Mutex::new(Settings { capabilities: Capabilities::default(), parameters }));
        Arc::new(Self { machine, events, settings, streams, job: Mutex::new(Job::None) })
    }

    pub(super) fn observer(&self) -> Arc<dyn Observer> {
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
        let route = uri.route();
        rules::check(&settings.subject(Some(route)))?;
        if settings.capabilities.get(Capability::BackgroundSnapshot)
            && let Uri::Stream(stream) = uri
        {
            drop(settings);
            return self.stay(&mut job, stream);
        }
        let limits = limits(&settings);
        // A stream is one channel, however many are wished for.
        let (connector, multifd) = match uri {
            Uri::Stream(stream) => (Arc::new(self.streams.record(stream)?) as Arc<dyn Connector>, Multifd::default()),
            _ => (connector(uri, &settings.parameters)?, multifd(&settings)),
        };
        if let Job::Arriving(handle) = &mut *job {
            // The guest leaves again: whoever it came from has no claim on it any more, told of that or not.
            handle.abandon();
        }
        let handle = source::start_with(self.machine.clone(), connector, limits, self.observer(), multifd)
            .map_err(MigrationError::Resource)?;
        *job = Job::Leaving(handle, route);
        Ok(())
    }

    /// `migrate -r URI`: joins a paused postcopy again.
    pub fn resume(&self, uri: &Uri) -> Result<(), MigrationError> {
        match &*lock(&self.job) {
            Job::Leaving(handle, _) if handle.report().status == Status::PostcopyPaused => {
                handle.rejoin(connector(uri, &lock(&self.settings).parameters)?);
                Ok(())
            }
            _ => Err(MigrationError::NotPaused("leaves")),
        }
    }

    /// `migrate_cancel`. Without a migration it does nothing, as in QEMU.
    pub fn cancel(&self) -> Result<(), MigrationError> {
        match &*lock(&self.job) {
            Job::Leaving(handle, _) if !handle.report().status.is_ended() => Ok(handle.cancel()?),
            Job::Staying(handle, Visible::Yes) if !handle.report().status.is_ended() => {
                handle.cancel();
                Ok(())
            }
            Job::Arriving(handle) if !handle.report().status.is_ended() => Err(MigrationError::CancelHere),
            _ => Ok(()),
        }
    }

    /// `migrate_start_postcopy`.
    pub fn start_postcopy(&self) -> Result<(), MigrationError> {
        if !lock(&self.settings).capabilities.get(Capability::PostcopyRam) {
            return Err(MigrationError::PostcopyOff);
        }
        match &*lock(&self.job) {
            Job::Leaving(handle, Route::OneWay) if !handle.report().status.is_ended() => {
                Err(MigrationError::NoWayBack("postcopy"))
            }
            Job::Staying(handle, Visible::Yes) if !handle.report().status.is_ended() => {
                Err(MigrationError::NoWayBack("postcopy"))
            }
            Job::Leaving(handle, _) if !handle.report().status.is_ended() => {
                handle.start_postcopy().map_err(|_| MigrationError::NoPostcopyThere)
            }
            Job::Arriving(handle) if !handle.report().status.is_ended() => Err(MigrationError::NotTheSource),
            _ => Err(MigrationError::NotMigrating),
        }
    }

    /// `migrate_continue`: goes on with a switchover that `pause-before-switchover` holds.
    pub fn go_on(&self) -> Result<(), MigrationError> {
        match &*lock(&self.job) {
            Job::Leaving(handle, _) if handle.go_on() => Ok(()),
            job => Err(MigrationError::NotHeld(job.report().map_or(Status::None, |(_, report)| report.status))),
        }
    }

    /// `migrate_pause`: breaks the link on purpose where that leaves two halves: from the hand-over on, also while they are being joined.
    pub fn pause(&self) -> Result<(), MigrationError> {
        use Status::{Device, PostcopyActive, PostcopyRecover, PostcopyRecoverSetup};
        match &*lock(&self.job) {
            Job::Leaving(handle, _) => match handle.report().status {
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

    /// Whether there is a link that [`Migration::yank`] can break.
    pub fn has_link(&self) -> bool {
        lock(&self.job).has_link()
    }

    /// `yank`: breaks the link whatever it is at. Before the hand-over the migration fails and the guest stays, from then on it pauses. `false`
    /// without a link.
    pub fn yank(&self) -> bool {
        let job = lock(&self.job);
        if !job.has_link() {
            return false;
        }
        match &*job {
            Job::None | Job::Staying(..) | Job::Returning(_) => {}
            Job::Leaving(handle, _) => handle.break_link(),
            Job::Arriving(handle) => handle.break_link(),
        }
        true
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
        let settings = lock(&self.settings);
        rules::check(&settings.subject(Some(uri.route())))?;
        let (acceptor, at, options): (Box<dyn Acceptor>, _, _) = match uri {
            Uri::Stream(stream) => {
                // Whether pages are demanded is a matter of the file; the capability is about peers.
                let options = Options { features: Features::POSTCOPY, listen_again: None };
                (self.streams.play(stream)?, uri.clone(), options)
            }
            _ => {
                let (listener, at) = listen(uri, &settings.parameters)?;
                let postcopy = settings.capabilities.get(Capability::PostcopyRam);
                let features = Features::MULTIFD.and(if postcopy { Features::POSTCOPY } else { Features::default() });
                let again = listen_again(at.clone(), self.settings.clone());
                (Box::new(listener), at, Options { features, listen_again: Some(again) })
            }
        };
        let handle = destination::start_with(self.machine.clone(), acceptor, self.observer(), options)
            .map_err(MigrationError::Resource)?;
        handle.set_reconnects(!settings.parameters.reconnect.is_zero());
        *job = Job::Arriving(handle);
        Ok(at)
    }

    /// `migrate_recover URI` on the destination: listens anew for the source of a paused postcopy.
    pub fn recover(&self, uri: &Uri) -> Result<Uri, MigrationError> {
        match &*lock(&self.job) {
            Job::Arriving(handle) if handle.can_rejoin() => {
                let (listener, at) = listen(uri, &lock(&self.settings).parameters)?;
                handle.rejoin(Box::new(listener));
                Ok(at)
            }
            _ => Err(MigrationError::NotPaused("arrives at")),
        }
    }

    /// What `query-migrate` and `info migrate` show; `None` before the first migration.
    pub fn report(&self) -> Option<(Side, Report)> {
        let (side, mut report) = lock(&self.job).report()?;
        if !lock(&self.settings).capabilities.get(Capability::PostcopyBlocktime) {
            report.blocktime = None;
            report.vcpu_blocktime.clear();
        }
        Some((side, report))
    }

    /// What `x-query-migrate-pages` shows; `None` before the first migration.
    pub fn page_map(&self, buckets: u32) -> Option<(Side, PageMap)> {
        match &*lock(&self.job) {
            Job::None | Job::Staying(_, Visible::No) | Job::Returning(_) => None,
            Job::Leaving(handle, _) => Some((Side::Source, handle.page_map(buckets))),
            Job::Staying(handle, Visible::Yes) => Some((Side::Source, handle.page_map(buckets))),
            Job::Arriving(handle) => Some((Side::Destination, handle.page_map(buckets))),
        }
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
        if job.is_under_way() && new != old.with(Capability::Events, new) {
            return Err(MigrationError::InProgress);
        }
        rules::check(&Subject { capabilities: new, ..settings.subject(job.route()) })?;
        if new.get(Capability::BackgroundSnapshot) && !old.get(Capability::BackgroundSnapshot) {
            self.can_watch_writes()?;
        }
        settings.capabilities = new;
        Ok(())
    }

    /// The parameters as they stand.
    pub fn parameters(&self) -> Parameters {
        lock(&self.settings).parameters.clone()
    }

    /// Replaces them; takes effect at once, also in a running migration. How many channels that has cannot be changed meanwhile, nor who is let in;
    /// the latter can while it is paused, for the new link.
    pub fn set_parameters(&self, new: Parameters) -> Result<(), MigrationError> {
        let job = lock(&self.job);
        let mut settings = lock(&self.settings);
        rules::check(&Subject { parameters: &new, ..settings.subject(job.route()) })?;
        let old = &settings.parameters;
        let other_tls = (&new.tls_creds, &new.tls_hostname) != (&old.tls_creds, &old.tls_hostname);
        let other_channels = new.multifd_channels != old.multifd_channels;
        if job.is_under_way() && (other_channels || other_tls && !job.is_paused()) {
            return Err(MigrationError::InProgress);
        }
        if let Job::Leaving(handle, _) = &*job
            && job.is_under_way()
            && new.postcopy_policy != Policy::Manual
            && new.postcopy_policy != old.postcopy_policy
            && handle.has_no_postcopy()
        {
            return Err(MigrationError::NoPostcopyThere);
        }
        self.machine.network().set_schedule(new.announce);
        match &*job {
            Job::Arriving(handle) => handle.set_reconnects(!new.reconnect.is_zero()),
            Job::Leaving(..) | Job::Staying(..) | Job::Returning(_) | Job::None => {}
        }
        settings.parameters = new;
        if let Job::Leaving(handle, _) = &*job {
            handle.set_limits(limits(&settings));
        }
        Ok(())
    }

    /// The process ends: gives up links and threads. A guest that has only half arrived keeps waiting for its missing pages
    /// until its vCPUs have ended, too.
    pub fn abandon(&self) {
        match &mut *lock(&self.job) {
            Job::None => {}
            Job::Leaving(handle, _) => handle.abandon(),
            Job::Staying(handle, _) => handle.abandon(),
            Job::Arriving(handle) | Job::Returning(handle) => handle.abandon(),
        }
    }
}

fn limits(settings: &Settings) -> Limits {
    let parameters = &settings.parameters;
    Limits {
        downtime: parameters.downtime_limit,
        bandwidth: parameters.max_bandwidth,
        postcopy_bandwidth: parameters.max_postcopy_bandwidth,
        switchover_bandwidth: parameters.avail_switchover_bandwidth,
        policy: parameters.postcopy_policy,
        hold: settings.capabilities.get(Capability::PauseBeforeSwitchover),
        reconnect: parameters.reconnect,
    }
}

fn multifd(settings: &Settings) -> Multifd {
    if !settings.capabilities.get(Capability::Multifd) {
        return Multifd::default();
    }
    let channels = settings.parameters.multifd_channels;
    // In a postcopy demanded pages need processors more than the background does: it is spread where some are left.
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    Multifd { channels, postcopy: processors >= usize::from(channels) + SPARE_PROCESSORS }
}
