//! [`Migration`]: the one place that starts, steers and reports this VM's migrations.

use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use whimbrel_postcopy::channel::{Acceptor, Connector};
use whimbrel_postcopy::destination::{self, DestinationHandle, Options};
use whimbrel_postcopy::encoding::{Compression, Encoding, PageEncoding, ZeroPages};
use whimbrel_postcopy::progress::Observer;
use whimbrel_postcopy::source::{self, DirtyLimit, Limits, Multifd, Policy, SourceHandle, ThrottlePolicy};
use whimbrel_postcopy::stats::{PageMap, Report, Status};
use whimbrel_postcopy::stream::mapped::Access;
use whimbrel_postcopy::stream::{Listening, Saving};
use whimbrel_postcopy::wire::Features;

use super::CommandRefused;
use super::capabilities::{Capabilities, Capability};
use super::links::{connector, listen, listen_again};
use super::parameters::{Live, MultifdCompression, PARAMETERS, Parameter, Parameters};
use super::rules::{self, Route, Subject};
use super::streams::{Form, Streams};
use super::uri::{Stream, Uri};
use crate::dirty::{DirtyRate, Dirtying, Plan, VcpuDirtyLimit};
use crate::machine::{Machine, RunState};
use crate::sentence::sentence;

/// Something that a monitor client wants to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MigrationEvent {
    /// The status changed (event `MIGRATION`).
    Status(Status),
    /// A precopy pass began (event `MIGRATION_PASS`), counted from 1. Only the source tells of it,
    /// and not of the first.
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

/// What becomes of a destination whose guest did not arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It ends.
    Exit,
    /// It waits for the next `migrate_incoming`.
    Wait,
    /// It listens again at the same place.
    ListenAgain,
}

/// A vCPU and the thread that answers its requests.
const SPARE_PROCESSORS: usize = 2;

type Events = Arc<dyn Fn(MigrationEvent) + Send + Sync>;

/// The engine's observer, as the monitor's callback.
struct Tell(Events, Side);

impl Observer for Tell {
    fn status(&self, status: Status) {
        (self.0)(MigrationEvent::Status(status));
    }
    fn pass(&self, pass: u64) {
        // As in QEMU: that the first one begins is told by the status, and what arrives is the
        // source's business.
        if self.1 == Side::Source && pass > 1 {
            (self.0)(MigrationEvent::Pass(pass));
        }
    }
}

/// The last migration, ended or not.
pub(super) enum Active {
    None,
    Leaving(SourceHandle, Route),
    Arriving(DestinationHandle),
    /// A guest that stays is written: by `migrate`, or as a snapshot.
    Saving(Saving, Visible),
    /// A snapshot takes the guest's place.
    Loading(DestinationHandle),
}

/// Whether `query-migrate` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visible {
    Yes,
    /// It is the business of a job.
    No,
}

impl Active {
    /// As users see it.
    fn report(&self) -> Option<(Side, Report)> {
        match self {
            Self::None | Self::Saving(_, Visible::No) | Self::Loading(_) => None,
            Self::Leaving(handle, _) => Some((Side::Source, handle.report())),
            Self::Saving(handle, Visible::Yes) => Some((Side::Source, handle.report())),
            Self::Arriving(handle) => Some((Side::Destination, handle.report())),
        }
    }

    /// How it stands, whoever sees it.
    pub fn any_report(&self) -> Option<Report> {
        match self {
            Self::None => None,
            Self::Leaving(handle, _) => Some(handle.report()),
            Self::Saving(handle, _) => Some(handle.report()),
            Self::Arriving(handle) | Self::Loading(handle) => Some(handle.report()),
        }
    }

    fn is_paused(&self) -> bool {
        self.report().is_some_and(|(_, report)| report.status == Status::PostcopyPaused)
    }

    /// A link, or on the source a thread that waits for one.
    fn has_link(&self) -> bool {
        use Status::{Active, PostcopyActive, PostcopyDevice, PostcopyPaused, PostcopyRecover};
        self.report().is_some_and(|(side, report)| match side {
            Side::Source => !report.status.is_ended() && report.status != PostcopyPaused,
            Side::Destination => matches!(report.status, Active | PostcopyDevice | PostcopyActive | PostcopyRecover),
        })
    }

    /// Which way a guest that is leaving goes.
    fn route(&self) -> Option<Route> {
        match self {
            Self::Leaving(_, route) if self.is_under_way() => Some(*route),
            Self::Saving(..) if self.is_under_way() => Some(Route::Stream),
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
    /// Of the machine, for life.
    shared_ram: bool,
}

impl Settings {
    /// As the rules see it.
    fn subject(&self, route: Option<Route>) -> Subject<'_> {
        Subject { capabilities: self.capabilities, parameters: &self.parameters, route, shared_ram: self.shared_ram }
    }
}

/// This VM's migrations: one at a time. All methods return at once.
pub struct Migration {
    pub(super) machine: Arc<Machine>,
    events: Events,
    pub(super) settings: Arc<Mutex<Settings>>,
    pub(super) streams: Streams,
    dirtying: Dirtying,
    /// Of the guest that is to arrive: where it is waited for, and what happens if it fails to.
    awaited: Mutex<Option<(Uri, OnFailure)>>,
    pub(super) active: Mutex<Active>,
    /// Where a guest, or the source of a paused one, was last listened for.
    place: Mutex<Option<Uri>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Migration {
    /// For `machine`, with the first `parameters`; `events` is called from the engine's threads.
    pub fn new(machine: Arc<Machine>, parameters: Parameters, streams: Streams, events: Events) -> Arc<Self> {
        let shared_ram = machine.has_shared_ram();
        let settings = Settings { capabilities: Capabilities::default(), parameters, shared_ram };
        let settings = Arc::new(Mutex::new(settings));
        let dirtying = Dirtying::new(machine.clone());
        let (active, awaited, place) = (Mutex::new(Active::None), Mutex::default(), Mutex::default());
        Arc::new(Self { machine, events, settings, streams, dirtying, awaited, active, place })
    }

    fn vcpus(&self) -> u64 {
        self.machine.vcpus().len() as u64
    }

    pub(super) fn observer(&self, side: Side) -> Arc<dyn Observer> {
        Arc::new(Tell(self.events.clone(), side))
    }

    /// `migrate -d URI`: begins; the rest is told by events and [`Migration::report`].
    pub fn start(&self, uri: &Uri) -> Result<(), CommandRefused> {
        let mut active = lock(&self.active);
        match self.machine.run_state() {
            RunState::Inmigrate => return Err(CommandRefused::Incoming),
            _ if active.is_under_way() => return Err(CommandRefused::InProgress),
            RunState::Running | RunState::Paused | RunState::Prelaunch => {}
            state => return Err(CommandRefused::NoGuest(state)),
        }
        let settings = lock(&self.settings);
        let route = uri.route();
        rules::check(&settings.subject(Some(route)))?;
        self.machine.tell_uuid(settings.capabilities.get(Capability::ValidateUuid));
        if settings.capabilities.get(Capability::BackgroundSnapshot)
            && let Uri::Stream(stream) = uri
        {
            drop(settings);
            return self.stay(&mut active, stream);
        }
        self.dirtying.has_log()?;
        let limits = limits(&settings, self.vcpus());
        // A stream is one channel, however many are wished for.
        let (connector, multifd) = match uri {
            Uri::Stream(stream) => (self.record(stream, &settings)?, Multifd::default()),
            _ => (connector(uri, &settings.parameters)?, multifd(&settings)),
        };
        if let Active::Arriving(handle) = &mut *active {
            // The guest leaves again: whoever it came from has no claim on it any more, told of
            // that or not.
            handle.abandon();
        }
        let handle = source::start_with(self.machine.clone(), connector, limits, self.observer(Side::Source), multifd)
            .map_err(CommandRefused::Resource)?;
        *active = Active::Leaving(handle, route);
        Ok(())
    }

    /// Where a guest that leaves on `stream` goes. What only a destination that answers can take
    /// begins with its answer.
    fn record(&self, stream: &Stream, settings: &Settings) -> Result<Arc<dyn Connector>, CommandRefused> {
        let by_postcopy = settings.parameters.postcopy_policy != Policy::Manual;
        let listening = if by_postcopy || encoding(settings).contents != PageEncoding::Whole {
            Listening::Needed
        } else if settings.capabilities.get(Capability::PostcopyRam) {
            Listening::Wished
        } else {
            Listening::Aside
        };
        Ok(self.streams.record(stream, form(settings), listening)?)
    }

    /// `migrate -r URI`: joins a paused postcopy again.
    pub fn resume(&self, uri: &Uri) -> Result<(), CommandRefused> {
        match &*lock(&self.active) {
            Active::Leaving(handle, _) if handle.report().status == Status::PostcopyPaused => {
                let settings = lock(&self.settings);
                handle.recover(match uri {
                    Uri::Stream(Stream::File { .. }) => return Err(NO_WAY_TO_JOIN),
                    Uri::Stream(stream) => self.record(stream, &settings)?,
                    _ => connector(uri, &settings.parameters)?,
                });
                Ok(())
            }
            _ => Err(CommandRefused::NotPaused("leaves")),
        }
    }

    /// `migrate_cancel`. Without a migration it does nothing, as in QEMU.
    pub fn cancel(&self) -> Result<(), CommandRefused> {
        match &*lock(&self.active) {
            Active::Leaving(handle, _) if !handle.report().status.is_ended() => Ok(handle.cancel()?),
            Active::Saving(handle, Visible::Yes) if !handle.report().status.is_ended() => {
                handle.cancel();
                Ok(())
            }
            Active::Arriving(handle) if !handle.report().status.is_ended() => Err(CommandRefused::CancelHere),
            _ => Ok(()),
        }
    }

    /// `migrate_start_postcopy`.
    pub fn start_postcopy(&self) -> Result<(), CommandRefused> {
        if !lock(&self.settings).capabilities.get(Capability::PostcopyRam) {
            return Err(CommandRefused::PostcopyOff);
        }
        let whole = lock(&self.settings).capabilities.get(Capability::IgnoreShared);
        match &*lock(&self.active) {
            Active::Leaving(handle, _) if whole && !handle.report().status.is_ended() => {
                Err(CommandRefused::NothingToFetch)
            }
            Active::Leaving(handle, route) if !handle.report().status.is_ended() => {
                handle.start_postcopy().map_err(|_| match route {
                    Route::Unix | Route::Tcp => CommandRefused::NoPostcopyThere,
                    Route::Stream | Route::File => CommandRefused::NoWayBack("postcopy"),
                })
            }
            Active::Saving(handle, Visible::Yes) if !handle.report().status.is_ended() => {
                Err(CommandRefused::NoWayBack("postcopy"))
            }
            Active::Arriving(handle) if !handle.report().status.is_ended() => Err(CommandRefused::NotTheSource),
            _ => Err(CommandRefused::NotMigrating),
        }
    }

    /// `migrate_continue`: goes on with a switchover that `pause-before-switchover` holds.
    pub fn go_on(&self) -> Result<(), CommandRefused> {
        match &*lock(&self.active) {
            Active::Leaving(handle, _) if handle.go_on() => Ok(()),
            active => Err(CommandRefused::NotHeld(active.report().map_or(Status::None, |(_, report)| report.status))),
        }
    }

    /// `migrate_pause`: breaks the link on purpose where that leaves two halves: from the hand-over
    /// on, also while they are being joined.
    pub fn pause(&self) -> Result<(), CommandRefused> {
        use Status::{Device, PostcopyActive, PostcopyRecover, PostcopyRecoverSetup};
        match &*lock(&self.active) {
            Active::Leaving(handle, _) => match handle.report().status {
                PostcopyActive | PostcopyRecover | PostcopyRecoverSetup => handle.break_link(),
                // All pages are there and its word is missing: nobody else can end that wait.
                Device if handle.is_handed_over() => handle.break_link(),
                _ => return Err(CommandRefused::NotPostcopy),
            },
            Active::Arriving(handle) if matches!(handle.report().status, PostcopyActive | PostcopyRecover) => {
                handle.break_link();
            }
            _ => return Err(CommandRefused::NotPostcopy),
        }
        Ok(())
    }

    /// Whether there is a link that [`Migration::yank`] can break.
    pub fn has_link(&self) -> bool {
        lock(&self.active).has_link()
    }

    /// `yank`: breaks the link whatever it is at. Before the hand-over the migration fails and the
    /// guest stays, from then on it pauses. `false` without a link.
    pub fn yank(&self) -> bool {
        let active = lock(&self.active);
        if !active.has_link() {
            return false;
        }
        match &*active {
            Active::None | Active::Saving(..) | Active::Loading(_) => {}
            Active::Leaving(handle, _) => handle.break_link(),
            Active::Arriving(handle) => handle.break_link(),
        }
        true
    }

    /// `migrate_incoming URI`, or `--incoming URI`. Listens before it returns; `Ok` is the address
    /// listened on (a tcp port 0 is resolved).
    pub fn incoming(&self, uri: &Uri, on_failure: OnFailure) -> Result<Uri, CommandRefused> {
        let mut active = lock(&self.active);
        if self.machine.run_state() != RunState::Inmigrate {
            return Err(CommandRefused::NotIncoming);
        }
        if active.is_under_way() {
            return Err(CommandRefused::AlreadyListening);
        }
        let settings = lock(&self.settings);
        rules::check(&settings.subject(Some(uri.route())))?;
        let always = Features::COMPRESSED.and(Features::XBZRLE).and(Features::RELEASE);
        let (acceptor, at, options): (Box<dyn Acceptor>, _, _) = match uri {
            Uri::Stream(stream) => {
                let postcopy = match uri.route() {
                    Route::Unix | Route::Tcp | Route::Stream => settings.capabilities.get(Capability::PostcopyRam),
                    // Whether pages are demanded is a matter of the file; the capability is about
                    // peers.
                    Route::File => true,
                };
                let features = always.and(if postcopy { Features::POSTCOPY } else { Features::default() });
                let options = Options { features, listen_again: None };
                (self.streams.play(stream, access(&settings))?, uri.clone(), options)
            }
            _ => {
                let (listener, at) = listen(uri, &settings.parameters)?;
                let postcopy = settings.capabilities.get(Capability::PostcopyRam);
                let features = always.and(Features::MULTIFD);
                let features = if postcopy { features.and(Features::POSTCOPY) } else { features };
                // Which of the two ways RAM comes is the source's choice.
                let local = matches!(uri, Uri::Unix(_)) && settings.parameters.tls_creds.is_none();
                let shared = local && settings.shared_ram;
                let features = if shared { features.and(Features::SHARED_RAM) } else { features };
                let again = listen_again(at.clone(), self.settings.clone());
                (Box::new(listener), at, Options { features, listen_again: Some(again) })
            }
        };
        let handle = destination::start_with(self.machine.clone(), acceptor, self.observer(Side::Destination), options)
            .map_err(CommandRefused::Resource)?;
        handle.set_reconnects(!settings.parameters.reconnect.is_zero());
        *active = Active::Arriving(handle);
        *lock(&self.place) = Some(at.clone());
        *lock(&self.awaited) = Some((at.clone(), on_failure));
        Ok(at)
    }

    /// The guest that was to arrive did not, which was told. Whether this destination goes on
    /// waiting for one, and where.
    pub fn waits_for_another(&self) -> Option<Option<Uri>> {
        let (uri, on_failure) = lock(&self.awaited).clone()?;
        let error = {
            let mut active = lock(&self.active);
            let Active::Arriving(handle) = &mut *active else { return None };
            let report = handle.report();
            if on_failure == OnFailure::Exit || report.status != Status::Failed {
                return None;
            }
            let error = report.error.unwrap_or_default();
            log::error!("the incoming migration failed: {error}");
            handle.clear_away();
            if let Err(error) = self.machine.await_another() {
                log::error!("no other guest can be waited for: {}", sentence(&error));
                return None;
            }
            error
        };
        // A command or a file would only say the same again.
        if on_failure == OnFailure::Wait || matches!(uri, Uri::Stream(_)) {
            return Some(None);
        }
        match self.incoming(&uri, on_failure) {
            Ok(at) => {
                if let Active::Arriving(handle) = &*lock(&self.active) {
                    handle.recall(error);
                }
                Some(Some(at))
            }
            Err(error) => {
                log::error!("'migrate_incoming' says where to wait next: {}", sentence(&error));
                Some(None)
            }
        }
    }

    /// `migrate_recover URI` on the destination: listens anew for the source of a paused postcopy.
    pub fn recover(&self, uri: &Uri) -> Result<Uri, CommandRefused> {
        match &*lock(&self.active) {
            Active::Arriving(handle) if handle.can_recover() => match uri {
                Uri::Stream(Stream::File { .. }) => Err(NO_WAY_TO_JOIN),
                Uri::Stream(stream) => {
                    handle.recover(self.streams.play(stream, Access::Cached)?);
                    Ok(uri.clone())
                }
                // As in QEMU it may be said again.
                _ if handle.awaits_recovery() && lock(&self.place).as_ref() == Some(uri) => Ok(uri.clone()),
                _ => {
                    let (listener, at) = listen(uri, &lock(&self.settings).parameters)?;
                    handle.recover(Box::new(listener));
                    *lock(&self.place) = Some(at.clone());
                    Ok(at)
                }
            },
            _ => Err(CommandRefused::NotPaused("arrives at")),
        }
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
        match &*lock(&self.active) {
            Active::None | Active::Saving(_, Visible::No) | Active::Loading(_) => None,
            Active::Leaving(handle, _) => Some((Side::Source, handle.page_map(buckets))),
            Active::Saving(handle, Visible::Yes) => Some((Side::Source, handle.page_map(buckets))),
            Active::Arriving(handle) => Some((Side::Destination, handle.page_map(buckets))),
        }
    }

    /// The capabilities as they stand.
    pub fn capabilities(&self) -> Capabilities {
        lock(&self.settings).capabilities
    }

    /// Replaces them. While a migration runs, also while one is waited for, only those that are
    /// live may change: the rest has been agreed with the peer or is in use.
    pub fn set_capabilities(&self, new: Capabilities) -> Result<(), CommandRefused> {
        let active = lock(&self.active);
        let mut settings = lock(&self.settings);
        let old = settings.capabilities;
        if active.is_under_way() && !old.differs_live_only(new) {
            return Err(CommandRefused::InProgress);
        }
        rules::check(&Subject { capabilities: new, ..settings.subject(active.route()) })?;
        let looks = new.get(Capability::ZeroBlocks);
        if looks != old.get(Capability::ZeroBlocks) {
            settings.parameters.zero_pages = if looks { ZeroPages::default() } else { ZeroPages::Unseen };
        }
        if new.get(Capability::BackgroundSnapshot) && !old.get(Capability::BackgroundSnapshot) {
            self.can_watch_writes()?;
        }
        self.machine.take_late(new.get(Capability::LateBlockActivate));
        settings.capabilities = new;
        Ok(())
    }

    /// The parameters as they stand.
    pub fn parameters(&self) -> Parameters {
        lock(&self.settings).parameters.clone()
    }

    /// Replaces them; takes effect at once, also in a running migration, as far as each one's
    /// [`Live`] allows.
    pub fn set_parameters(&self, new: Parameters) -> Result<(), CommandRefused> {
        let active = lock(&self.active);
        let mut settings = lock(&self.settings);
        rules::check(&Subject { parameters: &new, ..settings.subject(active.route()) })?;
        let old = &settings.parameters;
        let fixed = |it: &Parameter| match it.live {
            Live::Always => false,
            Live::WhilePaused => !active.is_paused(),
            Live::Never => true,
        };
        if active.is_under_way() && PARAMETERS.iter().any(|it| fixed(it) && old.get(it) != new.get(it)) {
            return Err(CommandRefused::InProgress);
        }
        if let Active::Leaving(handle, _) = &*active
            && active.is_under_way()
            && new.postcopy_policy != Policy::Manual
            && new.postcopy_policy != old.postcopy_policy
            && handle.has_no_postcopy()
        {
            return Err(CommandRefused::NoPostcopyThere);
        }
        self.machine.network().set_schedule(new.announce);
        match &*active {
            Active::Arriving(handle) => handle.set_reconnects(!new.reconnect.is_zero()),
            Active::Leaving(..) | Active::Saving(..) | Active::Loading(_) | Active::None => {}
        }
        settings.capabilities =
            settings.capabilities.with_it(Capability::ZeroBlocks, new.zero_pages != ZeroPages::Unseen);
        settings.parameters = new;
        if let Active::Leaving(handle, _) = &*active {
            handle.set_limits(limits(&settings, self.vcpus()));
        }
        Ok(())
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

    /// The process ends: gives up links and threads. A guest that has only half arrived keeps
    /// waiting for its missing pages until its vCPUs have ended, too.
    pub fn abandon(&self) {
        self.dirtying.abandon();
        match &mut *lock(&self.active) {
            Active::None => {}
            Active::Leaving(handle, _) => handle.abandon(),
            Active::Saving(handle, _) => handle.abandon(),
            Active::Arriving(handle) | Active::Loading(handle) => handle.abandon(),
        }
    }
}

/// Bytes in a MiB.
const MIB: u64 = 1 << 20;

/// What is done about a guest of so many vCPUs that writes too fast. Who writes what cannot be told
/// apart, so a limit for each is one for all.
fn slowing(settings: &Settings, vcpus: u64) -> ThrottlePolicy {
    let parameters = &settings.parameters;
    let on = |capability| settings.capabilities.get(capability);
    if on(Capability::AutoConverge) {
        ThrottlePolicy::AutoConverge(parameters.auto_converge)
    } else if on(Capability::DirtyLimit) {
        ThrottlePolicy::DirtyLimit(DirtyLimit {
            threshold: parameters.auto_converge.threshold,
            rate: parameters.vcpu_dirty_limit * vcpus * MIB,
            period: parameters.dirty_limit_period,
        })
    } else {
        ThrottlePolicy::Off
    }
}

/// A stream that is opened where only what answers will do.
pub(super) const NO_WAY_TO_JOIN: CommandRefused = CommandRefused::NoWayBack("joining a postcopy again");

fn limits(settings: &Settings, vcpus: u64) -> Limits {
    let parameters = &settings.parameters;
    Limits {
        downtime: parameters.downtime_limit,
        bandwidth: parameters.max_bandwidth,
        postcopy_bandwidth: parameters.max_postcopy_bandwidth,
        switchover_bandwidth: parameters.avail_switchover_bandwidth,
        policy: parameters.postcopy_policy,
        throttling: slowing(settings, vcpus),
        hold: settings.capabilities.get(Capability::PauseBeforeSwitchover),
        ignore_shared: settings.capabilities.get(Capability::IgnoreShared),
        release: settings.capabilities.get(Capability::ReleaseRam),
        reconnect: parameters.reconnect,
        encoding: encoding(settings),
    }
}

/// How a guest is written to a file.
fn form(settings: &Settings) -> Form {
    match settings.capabilities.get(Capability::MappedRam) {
        true => Form::Mapped(access(settings)),
        false => Form::Stream,
    }
}

fn access(settings: &Settings) -> Access {
    if settings.parameters.direct_io { Access::Direct } else { Access::Cached }
}

fn encoding(settings: &Settings) -> Encoding {
    let parameters = &settings.parameters;
    let contents = match parameters.compression {
        // The rules let only one of them be.
        _ if settings.capabilities.get(Capability::Xbzrle) => PageEncoding::Xbzrle { cache: parameters.xbzrle_cache },
        MultifdCompression::None => PageEncoding::Whole,
        MultifdCompression::Zlib => PageEncoding::Compressed(Compression::Zlib(parameters.zlib_level)),
        MultifdCompression::Zstd => PageEncoding::Compressed(Compression::Zstd(parameters.zstd_level)),
    };
    Encoding { zero_pages: parameters.zero_pages, contents }
}

fn multifd(settings: &Settings) -> Multifd {
    // For RAM that is not sent they would be opened for nothing.
    if !settings.capabilities.get(Capability::Multifd) || settings.capabilities.get(Capability::IgnoreShared) {
        return Multifd::default();
    }
    let channels = settings.parameters.multifd_channels;
    // In a postcopy demanded pages need processors more than the background does: it is spread
    // where some are left.
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let spare = processors >= usize::from(channels) + SPARE_PROCESSORS;
    // What the destination has, it tells of one channel at a time.
    Multifd { channels, postcopy: spare && !settings.capabilities.get(Capability::ReleaseRam) }
}
