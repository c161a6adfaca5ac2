//! The incoming migration's thread: takes the control channel's messages and carries out what
//! [`Destination`] decides.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::connection::Connection;
use super::control::Shared;
use super::faults::{FaultLoop, FaultLoopShared};
use super::intake::Intake;
use super::latency::Latency;
use super::multifd::Multifd;
use super::place::Place;
use super::populate::Populate;
use super::state::{Destination, Effect};
use crate::channel::{Acceptor, ChannelError};
use crate::error::{MigrationError, failed_to, sentence};
use crate::guest::{DestinationGuest, EngineThread, Section};
use crate::handshake::Until;
use crate::host::thread::{self, JoinHandle};
use crate::logging as log;
use crate::panics::catch;
use crate::progress::Observer;
use crate::stats::Status;
use crate::stream::reading_fault;
use crate::thread_priority::use_short_slices;
use crate::uffd::{Uffd, UffdError};
use crate::wire::{Features, Fragment, Reply, Token, decode_forward, fragments, tag};

/// How long after the host had no memory to put the last pages in place it is asked again.
const SETTLE_AGAIN: Duration = Duration::from_millis(500);

/// This thread, in messages.
pub(super) const INCOMING: &str = "incoming";

/// The fault loop's thread and what it shares with this one.
pub(super) struct Faults {
    place: Arc<Place>,
    pub(super) line: Arc<FaultLoopShared>,
    thread: Option<JoinHandle<()>>,
    /// Before the guest comes.
    populate: Populate,
}

impl Drop for Faults {
    fn drop(&mut self) {
        self.line.stop.store(true, Ordering::Release);
        self.line.wake.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Owns the guest's side of the migration.
pub(super) struct Driver {
    guest: Arc<dyn DestinationGuest>,
    pub(super) shared: Arc<Shared>,
    observer: Arc<dyn Observer>,
    offered: Features,
    intake: Arc<Intake>,
    /// Whether a link that breaks is waited for without a user's word.
    pub(super) reconnects: Cell<bool>,
}

impl Driver {
    pub fn new(
        guest: Arc<dyn DestinationGuest>,
        shared: Arc<Shared>,
        observer: Arc<dyn Observer>,
        offered: Features,
    ) -> Self {
        let intake = Intake::new(guest.clone(), shared.tracker.clone(), shared.progress.clone());
        Self { guest, shared, observer, offered, intake: Arc::new(intake), reconnects: Cell::new(false) }
    }

    /// The whole migration.
    pub fn run(self, acceptor: Box<dyn Acceptor>) {
        log::enter(log::Side::Destination, &self.shared.progress);
        self.guest.thread_begins(EngineThread::Destination);
        use_short_slices();
        let mut destination = Destination::new(self.shared.tracker.clone());
        let mut faults = self.open_faults();
        let is_stream = acceptor.is_stream();
        match self.accept_link(&*acceptor, None, faults.is_ok()) {
            Ok(link) => {
                // Nobody else is let in from here on.
                drop(acceptor);
                self.shared.progress.begin();
                self.shared.progress.clear_error();
                self.drive(&mut destination, link, &mut faults);
            }
            Err(error) => {
                destination.fail(self.shared.ended_here().unwrap_or(error));
            }
        }
        if let (Some(error), Status::Failed) = (destination.error(), destination.status()) {
            let text = if is_stream { reading_fault(error) } else { sentence(error) };
            match error {
                // Whoever ends the process knows.
                MigrationError::Abandoned => log::info!("no guest is waited for any more: {text}"),
                // So does whoever hears of the status, and it is for them to say.
                _ => log::debug!("the incoming migration failed: {text}"),
            }
            self.shared.progress.fail(text);
        }
        self.shared.over.store(true, Ordering::Release);
        self.tell(&destination);
    }

    pub(super) fn tell(&self, destination: &Destination) {
        self.enter(destination.status());
    }

    fn enter(&self, status: Status) {
        if self.shared.progress.enter(status) {
            log::info!("incoming migration: {}", status.name());
            self.observer.status(status);
        }
    }

    /// Opens userfaultfd and starts the fault loop, long before it is needed: in the blackout
    /// nothing is left to set up.
    fn open_faults(&self) -> Result<Faults, UffdError> {
        let uffd =
            Uffd::open().inspect_err(|error| log::warn!("postcopy is not possible here: {}", sentence(error)))?;
        let tracker = self.shared.tracker.clone();
        let latency = Latency::new(self.guest.vcpus());
        let place = Arc::new(Place::new(uffd, tracker, latency, self.guest.ram()).map_err(UffdError::Read)?);
        let line = Arc::new(FaultLoopShared::new(self.shared.wake.clone()).map_err(UffdError::Read)?);
        let fault_loop = FaultLoop {
            guest: self.guest.clone(),
            place: place.clone(),
            line: line.clone(),
            progress: self.shared.progress.clone(),
        };
        let thread = thread::Builder::new()
            .name("faults".into())
            .spawn(log::carried(move || fault_loop.run()))
            .map_err(UffdError::Read)?;
        *self.shared.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(place.clone());
        self.intake.place_by(place.clone());
        let populate = match self.offered.contains(Features::SHARED_RAM) {
            true => Populate::later(),
            false => Populate::begin(self.guest.clone(), place.clone()).map_err(UffdError::Read)?,
        };
        Ok(Faults { place, line, thread: Some(thread), populate })
    }

    fn gives_up(&self) -> bool {
        self.shared.interrupted()
    }

    /// Waits for a source; offers postcopy only where missing pages can be watched.
    pub(super) fn accept_link(
        &self,
        acceptor: &dyn Acceptor,
        recover: Option<Token>,
        watch: bool,
    ) -> Result<Connection, MigrationError> {
        let features = if watch { self.offered } else { self.offered.without(Features::POSTCOPY) };
        let until = Until {
            wake: &self.shared.wake,
            give_up: &|| self.gives_up() || recover.is_some() && self.shared.has_recovery(),
        };
        let begin = |channels| Multifd::begin(channels, &self.intake, &self.shared.wake);
        let link = Connection::accept(acceptor, recover, features, &until, begin)?;
        self.shared.progress.identify(link.token.short());
        Ok(link)
    }

    fn drive(&self, destination: &mut Destination, mut link: Connection, faults: &mut Result<Faults, UffdError>) {
        self.shared.join_channels(link.channels());
        if let Ok(faults) = faults.as_ref() {
            faults.line.join_channel(link.demand.clone());
        }
        while !destination.is_over() {
            self.clear_if_complete(destination, &mut link, faults);
            self.tell(destination);
            let stepped = catch(INCOMING, || self.step(destination, &mut link, faults));
            let Err(error) = stepped else { continue };
            // The handle ends the link under a thread that waits inside a message: what that thread
            // says of it is no news.
            let error = self.shared.ended_here().unwrap_or_else(|| match destination.owns_guest() {
                // What another thread has to say of it came first.
                true => link_intact(&link, faults).err().unwrap_or(error),
                false => error,
            });
            if self.lose(error, destination, &mut link) {
                continue;
            }
            self.clear_if_complete(destination, &mut link, faults);
            match self.await_recovery(destination, link, faults) {
                Some(new) => link = new,
                None => return,
            }
        }
        link.close();
    }

    /// Something broke. Whether the link is still of use.
    fn lose(&self, error: MigrationError, destination: &mut Destination, link: &mut Connection) -> bool {
        if destination.owns_guest() || destination.never_ran() {
            destination.fail(error);
            return false;
        }
        self.guest.not_started();
        let last_word = Reply::NotStarted(sentence(&error));
        destination.fail(error);
        // The source may be gone. If this side never said that it is ready, the source knows by
        // itself that nothing runs here.
        let told = self.reply(link, &last_word).is_ok();
        if destination.never_ran() {
            if told {
                destination.said_never();
            }
            return told;
        }
        link.reader.channel().finish();
        true
    }

    /// Once every page is here the guest needs nobody any more. The source still has to hear of it.
    fn clear_if_complete(
        &self,
        destination: &mut Destination,
        link: &mut Connection,
        faults: &Result<Faults, UffdError>,
    ) {
        if !destination.take_completion() {
            return;
        }
        link.multifd.close();
        let cleared = catch(INCOMING, || {
            self.finish(faults);
            self.guest.arrived();
            Ok(())
        });
        if let Err(error) = cleared {
            log::error!("the guest has every page, but not everything was cleared away: {}", sentence(&error));
        }
        // Nothing is awaited there any more, and a fault loop that is inside a message must end,
        // too.
        link.demand.shutdown();
    }

    /// Every page is here: touches of missing pages are the host's business again.
    fn finish(&self, faults: &Result<Faults, UffdError>) {
        let Ok(faults) = faults else { return };
        while let Err(error) = faults.place.settle_all(self.guest.ram()) {
            // The host has no memory at the moment. Until it has, touched pages are served from
            // where they stand.
            log::error!("pages that arrived are not in place yet: {}", sentence(&error));
            if self.shared.interrupted() {
                return;
            }
            self.await_end(SETTLE_AGAIN);
        }
        for block in self.guest.ram() {
            if let Err(error) = faults.place.uffd.unregister(block) {
                log::debug!("{}", sentence(&error));
            }
        }
        faults.line.stop.store(true, Ordering::Release);
        faults.line.wake.ring();
        faults.place.release();
    }

    /// Waits for so long, or until the process ends.
    fn await_end(&self, time: Duration) {
        let until = self.shared.progress.now() + time;
        while !self.shared.interrupted() {
            let left = until.saturating_sub(self.shared.progress.now());
            if left.is_zero() {
                break;
            }
            self.shared.wake.wait_for(left);
        }
        // Whatever else rang meanwhile is looked at afterwards.
        self.shared.wake.ring();
    }

    pub(super) fn reply(&self, link: &Connection, reply: &Reply) -> Result<(), MigrationError> {
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        link.reader.channel().send(&bytes, &self.shared.wake, &|| self.gives_up()).map_err(lost)
    }

    /// One message, or one wake-up.
    fn step(
        &self,
        destination: &mut Destination,
        link: &mut Connection,
        faults: &mut Result<Faults, UffdError>,
    ) -> Result<(), MigrationError> {
        let header = match link.reader.header(&self.shared.wake) {
            Ok(header) => header,
            Err(ChannelError::Interrupted) => return self.woken(destination, link, faults),
            Err(error) => return Err(lost(error)),
        };
        let fields = link.reader.fields(header).map_err(lost)?;
        let message = decode_forward(header, &fields).map_err(|error| lost(error.into()))?;
        let effect = destination.message(message, self.guest.ram())?;
        self.carry_out(effect, destination, link, faults)
    }

    fn woken(
        &self,
        destination: &mut Destination,
        link: &Connection,
        faults: &Result<Faults, UffdError>,
    ) -> Result<(), MigrationError> {
        let shared = &self.shared;
        if let Some(error) = shared.ended_here() {
            return Err(error);
        }
        if let Ok(faults) = faults {
            faults.place.settle(self.guest.ram())?;
        }
        if destination.all_received() {
            return self.reply(link, &Reply::AllReceived);
        }
        match destination.status() {
            // The other channels have done their part.
            Status::Completed => Ok(()),
            _ if destination.owns_guest() => link_intact(link, faults),
            // Before the hand-over the control channel has the say: the source may have closed all
            // of them on purpose.
            _ => link.multifd.take_broken().map_or(Ok(()), Err),
        }
    }

    fn carry_out(
        &self,
        effect: Effect,
        destination: &mut Destination,
        link: &mut Connection,
        faults: &mut Result<Faults, UffdError>,
    ) -> Result<(), MigrationError> {
        let intake = &self.intake;
        match effect {
            Effect::None | Effect::AwaitPages => {}
            Effect::Pass(pass) => {
                if let (2.., Ok(faults)) = (pass, faults.as_ref()) {
                    // Whatever is needed soon is there by now.
                    faults.populate.stop();
                }
                if let (1, Ok(faults), true) = (pass, faults.as_mut(), self.offered.contains(Features::SHARED_RAM)) {
                    // Pages come, so the memory is needed after all.
                    faults.populate = Populate::begin(self.guest.clone(), faults.place.clone())?;
                }
                link.reader.end_files();
                self.observer.pass(u64::from(pass));
            }
            Effect::Check(configuration) => {
                self.guest.check_configuration(&configuration).map_err(failed_to("take this guest"))?;
                destination.checked();
            }
            Effect::Tell(number) => {
                for fragment in fragments(self.shared.tracker.received()) {
                    self.reply(link, &Reply::Received(fragment))?;
                }
                self.reply(link, &Reply::BarrierAck(number))?;
            }
            Effect::Barrier(number) => self.reply(link, &Reply::BarrierAck(number))?,
            Effect::Accept => {
                if self.offered.contains(Features::SHARED_RAM) {
                    // None comes before this is heard.
                    link.reader.take_files();
                }
                self.reply(link, &Reply::Accepted)?;
            }
            Effect::Write(run) => intake.write(&mut link.reader, run)?,
            Effect::WriteCompressed(packed) => {
                intake.write_compressed(&mut link.reader, &mut link.decompressor, packed)?
            }
            Effect::PlaceCompressed(packed) => {
                intake.place_compressed(&mut link.reader, &mut link.decompressor, packed)?
            }
            Effect::Change(run, length) => intake.change(&mut link.reader, run, length)?,
            Effect::WriteZeros(runs) => runs.into_iter().try_for_each(|run| intake.write_zeros(run))?,
            Effect::Place(run) => intake.place(&mut link.reader, run)?,
            Effect::PlaceZeros(runs) => runs.into_iter().try_for_each(|run| intake.place_zeros(run))?,
            Effect::MultifdStart(stretch) => link.multifd.open(stretch)?,
            Effect::MultifdFlush => link.multifd.flush_multifd()?,
            Effect::Adopt(count) => self.adopt(count, link, faults)?,
            Effect::Discard(fragment) => self.discard(&fragment, faults)?,
            Effect::Listen => {
                link.reader.end_files();
                let Faults { place, line, populate, .. } = faults.as_mut().map_err(|_| MigrationError::NoPostcopy)?;
                populate.finish();
                place.drop_missing(self.guest.ram()).map_err(MigrationError::Resource)?;
                place.latency.begin();
                line.begin_watch(|| self.guest.ram().iter().try_for_each(|block| place.uffd.register(block)))?;
                self.reply(link, &Reply::Listening)?;
            }
            Effect::Load(sections) => {
                if let Ok(faults) = faults.as_mut() {
                    faults.populate.finish();
                }
                self.load(&sections, destination, link, faults)?;
            }
            Effect::Run { running } => {
                if let Ok(faults) = faults {
                    faults.line.keep_watch()?;
                }
                let watched = destination.is_starting_watched();
                // Before the guest's own event, as in QEMU; its own thread has nothing to do with
                // it.
                let sure = || {
                    if watched {
                        self.enter(Status::PostcopyActive);
                    }
                };
                let ran = catch(INCOMING, || self.guest.run(running, &sure).map_err(failed_to("run")));
                if matches!(ran, Err(MigrationError::Panicked { .. })) {
                    // Nobody knows how far it came: the source must not start the guest any more.
                    destination.started();
                }
                ran?;
                destination.started();
                self.shared.progress.step("run");
                self.shared.progress.running();
                self.reply(link, &Reply::Running)?;
                link_intact(link, faults)?;
            }
            Effect::Finish => self.reply(link, &Reply::AllReceived)?,
        }
        Ok(())
    }

    /// The source's RAM comes as files, which are looked at as whatever else a peer sends.
    fn adopt(
        &self,
        count: u32,
        link: &mut Connection,
        faults: &mut Result<Faults, UffdError>,
    ) -> Result<(), MigrationError> {
        let handed = link.reader.end_files();
        let blocks = self.guest.ram().len();
        if !self.offered.contains(Features::SHARED_RAM) {
            return Err(MigrationError::OutOfOrder(tag::name(tag::SHARED_RAM)));
        }
        if handed.too_many || handed.files.len() != blocks || count as usize != blocks {
            let more = if handed.too_many { "more than " } else { "" };
            let what = format!("{count} files, of which {more}{} came, for {blocks} blocks", handed.files.len());
            return Err(MigrationError::WrongFiles(what));
        }
        if let Ok(faults) = faults.as_mut() {
            faults.populate.finish();
        }
        self.guest.adopt_ram(handed.files).map_err(failed_to("take the source's RAM over"))?;
        self.shared.tracker.all_here();
        self.shared.progress.skipped(self.shared.tracker.received().pages());
        Ok(())
    }

    fn load(
        &self,
        sections: &[Section],
        destination: &mut Destination,
        link: &Connection,
        faults: &Result<Faults, UffdError>,
    ) -> Result<(), MigrationError> {
        self.shared.progress.stopping();
        if let (false, Ok(faults)) = (destination.is_watched(), faults) {
            faults.place.give_back(self.guest.ram()).map_err(MigrationError::Resource)?;
        }
        let loaded = self.guest.load(sections).map_err(failed_to("load its state"));
        // A load that waited for a page when the channel was lost has read something else instead.
        if let Some(error) = faults.as_ref().ok().and_then(|faults| faults.line.take_lost()) {
            return Err(error);
        }
        loaded?;
        destination.loaded();
        self.shared.progress.step("load");
        self.reply(link, &Reply::Ready)
    }

    fn discard(&self, fragment: &Fragment, faults: &mut Result<Faults, UffdError>) -> Result<(), MigrationError> {
        let ram = self.guest.ram();
        if let Ok(faults) = faults.as_mut() {
            faults.populate.finish();
        }
        let mut stale = Vec::new();
        self.shared.tracker.stale(fragment, |run| stale.push(run));
        stale.into_iter().try_for_each(|run| match faults {
            Ok(faults) => faults.place.drop_stale(ram, run),
            Err(_) => ram[usize::from(run.block.0)].discard(run),
        })?;
        Ok(())
    }
}

/// Whether the other channels still stand, as far as their threads know.
fn link_intact(link: &Connection, faults: &Result<Faults, UffdError>) -> Result<(), MigrationError> {
    let demand = faults.as_ref().ok().and_then(|faults| faults.line.take_lost());
    demand.or_else(|| link.multifd.take_lost()).map_or(Ok(()), Err)
}

fn lost(source: ChannelError) -> MigrationError {
    MigrationError::Link { peer: "source", source }
}
