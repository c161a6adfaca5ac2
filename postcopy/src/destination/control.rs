//! Starting, steering and watching an incoming migration from other threads.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use super::driver::Driver;
use super::place::Place;
use super::tracker::Tracker;
use crate::channel::{Acceptor, Channel, Wake};
use crate::commands::{Command, CommandQueue};
use crate::error::MigrationError;
use crate::guest::DestinationGuest;
use crate::host::Mutex;
use crate::host::thread::{Builder, JoinHandle};
use crate::progress::{Observer, Progress};
use crate::stats::{PageMap, Report, Status};
use crate::wire::Features;

/// What the migration's thread is to do besides what it does. Taken while the link is lost, but for
/// the first.
pub(super) enum DestinationCommand {
    /// Break the link of a postcopy on purpose.
    BreakLink,
    /// Listen anew for the source, and no more where this side listened before.
    Recover(Box<dyn Acceptor>),
    /// Whether a link that breaks is waited for without a user's word.
    SetReconnects(bool),
}

impl Command for DestinationCommand {
    fn ends_link(&self) -> bool {
        matches!(self, Self::BreakLink)
    }
}

/// What the migration's threads and the handle share.
pub(super) struct Shared {
    pub wake: Arc<Wake>,
    pub commands: CommandQueue<DestinationCommand>,
    /// Listens where the source has found this side before.
    pub listen_again: Option<ListenAgain>,
    /// Both sides know how it ended.
    pub over: AtomicBool,
    /// Somebody may join again: a place is listened on.
    pub listens: AtomicBool,
    /// The link's channels, to be ended under a thread that waits inside a message.
    pub channels: Mutex<Vec<Arc<Channel>>>,
    pub tracker: Arc<Tracker>,
    pub progress: Arc<Progress>,
    /// There once userfaultfd was opened.
    pub place: Mutex<Option<Arc<Place>>>,
}

impl Shared {
    /// Whether a thread that waits for the network should stop waiting.
    pub fn interrupted(&self) -> bool {
        self.commands.is_abandoned()
    }

    /// Whether somebody has said where else to listen.
    pub fn has_recovery(&self) -> bool {
        self.commands.any(|command| matches!(command, DestinationCommand::Recover(_)))
    }

    /// Why this side itself wants the link to end, if it does. Breaking a link is asked for once.
    pub fn ended_here(&self) -> Option<MigrationError> {
        if self.interrupted() {
            return Some(MigrationError::Abandoned);
        }
        self.commands.take_end().then_some(MigrationError::PausedByUser)
    }

    /// The link's channels from now on.
    pub fn join_channels(&self, channels: Vec<Arc<Channel>>) {
        *self.channels.lock().unwrap_or_else(PoisonError::into_inner) = channels;
        if self.interrupted() {
            self.end_link();
        }
    }

    /// Ends the link, whatever its threads are waiting for.
    fn end_link(&self) {
        self.channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .for_each(|channel| channel.stop_receiving());
        self.wake.ring();
    }
}

/// Listens once more at the place where the source found this side.
pub type ListenAgain = Box<dyn Fn() -> io::Result<Box<dyn Acceptor>> + Send + Sync>;

/// How a guest is taken in.
pub struct Options {
    /// What is offered to the source, as far as the host allows it.
    pub features: Features,
    /// How to listen again after the link broke, for a source that joins again by itself; see
    /// [`DestinationHandle::set_reconnects`].
    pub listen_again: Option<ListenAgain>,
}

impl Default for Options {
    /// Everything, and nobody listens again unless told to.
    fn default() -> Self {
        let features = [Features::MULTIFD, Features::RELEASE, Features::COMPRESSED, Features::XBZRLE];
        Self { features: features.into_iter().fold(Features::POSTCOPY, Features::and), listen_again: None }
    }
}

/// An incoming migration. Dropping it does not end the migration.
pub struct DestinationHandle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Waits for a guest like `guest` to arrive by `acceptor`. Returns at once; failures come by the
/// report and the observer.
pub fn start(
    guest: Arc<dyn DestinationGuest>,
    acceptor: Box<dyn Acceptor>,
    observer: Arc<dyn Observer>,
) -> io::Result<DestinationHandle> {
    start_with(guest, acceptor, observer, Options::default())
}

/// The same, with these options.
pub fn start_with(
    guest: Arc<dyn DestinationGuest>,
    acceptor: Box<dyn Acceptor>,
    observer: Arc<dyn Observer>,
    options: Options,
) -> io::Result<DestinationHandle> {
    let tracker = Arc::new(Tracker::new(guest.ram()));
    let wake = Arc::new(Wake::new()?);
    let shared = Arc::new(Shared {
        commands: CommandQueue::new(wake.clone()),
        wake,
        listen_again: options.listen_again,
        over: AtomicBool::new(false),
        listens: AtomicBool::new(false),
        channels: Mutex::default(),
        progress: Arc::new(Progress::new(tracker.received().pages())),
        tracker,
        place: Mutex::default(),
    });
    // Whoever asked for it hears of it before anything else that comes of it.
    observer.status(Status::Setup);
    let driver = Driver::new(guest, shared.clone(), observer, options.features);
    let thread = Builder::new().name("incoming".into()).spawn(move || driver.run(acceptor))?;
    Ok(DestinationHandle { shared, thread: Some(thread) })
}

impl DestinationHandle {
    /// Breaks the link of a postcopy on purpose: it pauses and can be joined again.
    pub fn break_link(&self) {
        self.shared.commands.push(DestinationCommand::BreakLink);
        self.shared.end_link();
    }

    /// Whether the source may still have something to hear of this side: then
    /// [`DestinationHandle::recover`] lets it in. So it is while a migration is paused, and after
    /// its end until the source has said that it knows.
    pub fn can_recover(&self) -> bool {
        let status = self.shared.progress.status();
        let awaited = matches!(status, Status::PostcopyPaused | Status::Completed);
        awaited && !self.shared.over.load(Ordering::Acquire)
    }

    /// Listens anew for the source of a paused migration, and no more where it listened before.
    pub fn recover(&self, acceptor: Box<dyn Acceptor>) {
        self.shared.commands.push(DestinationCommand::Recover(acceptor));
    }

    /// Whether this side listens for a source that joins again.
    pub fn awaits_recovery(&self) -> bool {
        self.shared.has_recovery() || self.shared.listens.load(Ordering::Acquire)
    }

    /// Whether a link that breaks is waited for by itself, by [`Options::listen_again`], from now
    /// on.
    pub fn set_reconnects(&self, yes: bool) {
        self.shared.commands.push(DestinationCommand::SetReconnects(yes));
    }

    /// How it stands, with demand-page latency and blocktime.
    pub fn report(&self) -> Report {
        let shared = &self.shared;
        let mut report = shared.progress.report(shared.tracker.missing());
        let place = shared.place.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(place) = place.filter(|place| place.latency.is_measured()) {
            let (blocktime, vcpus) = place.latency.blocktime();
            (report.blocktime, report.vcpu_blocktime) = (Some(blocktime), vcpus);
            report.demand = Some(place.latency.report());
        }
        report
    }

    /// Which pages are here, in so many parts of guest RAM: none of a guest that will not arrive.
    /// Reads the bits as they are: takes no lock over them and holds nobody up.
    pub fn page_map(&self, buckets: u32) -> PageMap {
        let received = self.shared.tracker.received();
        if self.shared.progress.status().came_to_nothing() {
            return PageMap::nothing(received.pages(), buckets);
        }
        PageMap::new(received.pages(), buckets, |start, end| received.count_range(start, end))
    }

    /// Waits until the migration's thread ends.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            self.shared.progress.fail("the incoming migration's thread died".into());
        }
    }

    /// After the end: waits for the threads and lets go of whatever watches RAM, which may then be
    /// used for another guest.
    pub fn clear_away(&mut self) {
        self.join();
        *self.shared.place.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Shows, until its source is there, why the attempt before this one failed.
    pub fn recall(&self, error: String) {
        if self.shared.progress.status() == Status::Setup && self.shared.progress.now().is_zero() {
            self.shared.progress.fail(error);
        }
    }

    /// The process ends: gives up the link and the threads.
    pub fn abandon(&mut self) {
        self.shared.commands.abandon();
        self.shared.end_link();
        self.join();
    }
}
