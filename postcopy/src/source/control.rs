//! Starting, steering and watching a migration from other threads.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use super::convergence::Limits;
use super::driver::Driver;
use super::release::Released;
use crate::bitmap::RamBitmap;
use crate::channel::{Connector, Wake};
use crate::commands::{Command, CommandQueue};
use crate::error::MigrationError;
use crate::guest::SourceGuest;
use crate::host::thread::{Builder, JoinHandle};
use crate::progress::{Observer, Progress};
use crate::stats::{PageMap, Report, Status};

/// The guest has been handed over: it is no longer the source's to keep.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest was handed over to the destination already: the migration can no longer be cancelled")]
pub struct TooLate;

/// Who was first: the user who cancels or the driver that hands over. One compare-and-exchange of
/// each decides it, whatever else waits in the queue of commands.
const OPEN: u8 = 0;
const CANCELLED: u8 = 1;
const HANDED_OVER: u8 = 2;

/// Multifd channels, each with a thread on both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Multifd {
    /// How many.
    pub channels: u8,
    /// The background of a postcopy goes on them, too: where processors are left for it beside the
    /// vCPUs and who fetches their pages.
    pub postcopy: bool,
}

/// What the migration's thread is to do besides what it does.
pub(super) enum SourceCommand {
    /// Switch to postcopy as soon as possible.
    StartPostcopy,
    /// Go on with a switchover that waits for it.
    GoOn,
    /// Break the link of a postcopy on purpose.
    BreakLink,
    /// Join again over a new connection, once the link is lost.
    Recover(Arc<dyn Connector>),
    /// New limits.
    SetLimits(Limits),
    /// The thread that answers page requests has ended.
    DemandLost(MigrationError),
}

impl Command for SourceCommand {
    fn ends_link(&self) -> bool {
        matches!(self, Self::BreakLink)
    }
}

/// What the migration's threads and the handle share.
pub(super) struct Shared {
    pub wake: Arc<Wake>,
    pub commands: CommandQueue<SourceCommand>,
    door: AtomicU8,
    /// The destination said that it cannot do postcopy.
    pub no_postcopy: AtomicBool,
    pub pending: Arc<RamBitmap>,
    pub progress: Arc<Progress>,
    /// Bytes sent on the demand channel, ever.
    pub demanded_bytes: AtomicU64,
    /// What a link has besides its two channels.
    pub multifd: Multifd,
    /// The pages that the host got back, where it gets any.
    pub released: Option<Arc<Released>>,
}

impl Shared {
    /// Closes the door behind the guest; false if the user cancelled before.
    pub fn close_door(&self) -> bool {
        self.door.compare_exchange(OPEN, HANDED_OVER, Ordering::AcqRel, Ordering::Acquire) != Err(CANCELLED)
    }

    pub fn is_handed_over(&self) -> bool {
        self.door.load(Ordering::Acquire) == HANDED_OVER
    }

    pub fn cancelled(&self) -> bool {
        self.door.load(Ordering::Acquire) == CANCELLED
    }

    /// Whether a thread that waits for the network should stop waiting.
    pub fn interrupted(&self) -> bool {
        self.cancelled() || self.must_stop()
    }

    /// Whether it should for no other reason than a cancel.
    pub fn ends_by_cancel(&self) -> bool {
        self.cancelled() && !self.must_stop()
    }

    fn must_stop(&self) -> bool {
        self.commands.ends_link()
    }

    /// Why this side itself wants the link to end, if it does. Breaking a link is asked for once.
    pub fn ended_here(&self) -> Option<MigrationError> {
        if self.commands.is_abandoned() {
            return Some(MigrationError::Abandoned);
        }
        self.commands.take_end().then_some(MigrationError::PausedByUser)
    }
}

/// A migration under way. Dropping it does not end the migration.
pub struct SourceHandle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Begins to migrate `guest` to where `connector` leads. Returns at once; failures come by the
/// report and the observer.
pub fn start(
    guest: Arc<dyn SourceGuest>,
    connector: Arc<dyn Connector>,
    limits: Limits,
    observer: Arc<dyn Observer>,
) -> io::Result<SourceHandle> {
    start_with(guest, connector, limits, observer, Multifd::default())
}

/// The same, with multifd channels beside the other two: many pages go on all of them at once. The
/// destination has to take them.
pub fn start_with(
    guest: Arc<dyn SourceGuest>,
    connector: Arc<dyn Connector>,
    limits: Limits,
    observer: Arc<dyn Observer>,
    multifd: Multifd,
) -> io::Result<SourceHandle> {
    let pending = Arc::new(RamBitmap::new(guest.ram()));
    // Until a destination is there every page is still to be sent to it.
    pending.set_all();
    let released = limits.release.then(|| Arc::new(Released::new(guest.ram())));
    // Which pages have come is told of one channel at a time.
    let multifd = Multifd { postcopy: multifd.postcopy && released.is_none(), ..multifd };
    let wake = Arc::new(Wake::new()?);
    let shared = Arc::new(Shared {
        commands: CommandQueue::new(wake.clone()),
        wake,
        door: AtomicU8::new(OPEN),
        no_postcopy: AtomicBool::new(false),
        progress: Arc::new(Progress::new(pending.pages())),
        pending,
        demanded_bytes: AtomicU64::new(0),
        multifd,
        released,
    });
    // Whoever asked for it hears of it before anything else that comes of it.
    observer.status(Status::Setup);
    let driver = Driver::new(guest, shared.clone(), observer, connector, limits);
    let thread = Builder::new().name("migration".into()).spawn(move || driver.run())?;
    Ok(SourceHandle { shared, thread: Some(thread) })
}

impl SourceHandle {
    /// The guest stays here, if it is not too late.
    pub fn cancel(&self) -> Result<(), TooLate> {
        match self.shared.door.compare_exchange(OPEN, CANCELLED, Ordering::AcqRel, Ordering::Acquire) {
            Err(HANDED_OVER) => Err(TooLate),
            _ => {
                self.shared.wake.ring();
                Ok(())
            }
        }
    }

    /// Whether the guest is no longer the source's to keep, or the user's to cancel.
    pub fn is_handed_over(&self) -> bool {
        self.shared.is_handed_over()
    }

    /// Whether the destination has said that it cannot do postcopy.
    pub fn has_no_postcopy(&self) -> bool {
        self.shared.no_postcopy.load(Ordering::Acquire)
    }

    /// Switches to postcopy as soon as possible. Refused without harm to the migration if the
    /// destination cannot do it.
    pub fn start_postcopy(&self) -> Result<(), MigrationError> {
        if self.has_no_postcopy() {
            return Err(MigrationError::NoPostcopy);
        }
        self.shared.commands.push(SourceCommand::StartPostcopy);
        Ok(())
    }

    /// Goes on with a switchover that waits for it, see [`Limits::hold`]; `false` if none does.
    pub fn go_on(&self) -> bool {
        let held = self.report().status == Status::PreSwitchover;
        if held {
            self.shared.commands.push(SourceCommand::GoOn);
        }
        held
    }

    /// Breaks the link of a postcopy on purpose: it pauses and can be joined again.
    pub fn break_link(&self) {
        self.shared.commands.push(SourceCommand::BreakLink);
    }

    /// Joins a paused migration again over a new connection.
    pub fn recover(&self, connector: Arc<dyn Connector>) {
        self.shared.commands.push(SourceCommand::Recover(connector));
    }

    /// New limits, from now on.
    pub fn set_limits(&self, limits: Limits) {
        self.shared.commands.push(SourceCommand::SetLimits(limits));
    }

    /// How it stands.
    pub fn report(&self) -> Report {
        let mut report = self.shared.progress.report(self.shared.pending.count());
        // A cancel that was accepted shows at once. Only the driver enters the status and tells the
        // observer, so that neither comes after the end.
        if self.shared.cancelled() && !report.status.is_ended() {
            report.status = Status::Cancelling;
        }
        report
    }

    /// Which pages need not be sent (any more), in so many parts of guest RAM: none of a migration
    /// that failed or was cancelled. Reads the bits as they are: takes no lock over them and holds
    /// nobody up.
    pub fn page_map(&self, buckets: u32) -> PageMap {
        let pending = &self.shared.pending;
        if self.shared.progress.status().came_to_nothing() {
            return PageMap::nothing(pending.pages(), buckets);
        }
        PageMap::new(pending.pages(), buckets, |start, end| end - start - pending.count_range(start, end))
    }

    /// Waits until the migration's thread ends.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            self.shared.progress.fail("the migration's thread died".into());
            self.shared.progress.enter(Status::Failed);
        }
    }

    /// The process ends: gives up the link and the threads. What this means for the guest is as for
    /// a broken link.
    pub fn abandon(&mut self) {
        self.shared.commands.abandon();
        self.join();
    }
}
