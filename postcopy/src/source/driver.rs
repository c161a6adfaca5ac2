//! The migration's thread on the source: carries out what [`Source`] decides.

use std::cell::OnceCell;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::action::{Action, MultifdThresholds, Outcome};
use super::connection::Connection;
use super::control::{Shared, SourceCommand};
use super::convergence::Limits;
use super::dirty_rate::DirtyRateMeter;
use super::multifd::{MANY_PAGES, Senders};
use super::outgoing::{Outgoing, Sent};
use super::release::Releaser;
use super::scheduler::Hint;
use super::state::Source;
use super::throttle_guard::ThrottleGuard;
use crate::channel::{ChannelError, Connector};
use crate::encoding::{Encoding, PageEncoding};
use crate::error::{MigrationError, failed_to, sentence};
use crate::guest::{EngineThread, OutgoingGuest, PauseLock, SourceGuest};
use crate::host::scaled;
use crate::logging as log;
use crate::panics::catch;
use crate::progress::{Observer, Phase};
use crate::ram::PAGE_SIZE;
use crate::stats::{Status, Whereabouts};
use crate::throttle::Throttle;
use crate::wire::description::describe;
use crate::wire::{BlockDescription, Features, Forward, Reply, Token, decode_reply};

/// After a cancel a message that has begun may still go for so long: behind a whole one the
/// destination can be told of the cancel.
const LAST_MESSAGE: Duration = Duration::from_millis(300);

/// Before the hand-over, for so long a destination that gave up is heard out on the control channel
/// when another channel ended.
const LAST_WORD: Duration = Duration::from_secs(1);

/// This thread, in messages.
pub(super) const SOURCE: &str = "source";

/// Owns the guest's side of the migration.
pub(super) struct Driver {
    pub(super) guest: Arc<dyn SourceGuest>,
    pub(super) shared: Arc<Shared>,
    observer: Arc<dyn Observer>,
    hint: Arc<Hint>,
    meter: DirtyRateMeter,
    throttled: ThrottleGuard,
    pub(super) outgoing: Outgoing,
    /// What the migration began with.
    pub(super) encoding: Encoding,
    seen_pass: u32,
    /// Where to, now.
    pub(super) connector: Arc<dyn Connector>,
    /// Where to after a link that breaks, if a user has said so.
    pub(super) next_connector: Option<Arc<dyn Connector>>,
    /// The user's, as far as they were heard.
    pub(super) limits: Limits,
    /// Outside everything that may panic: what panics gives the right to resume the guest back.
    lock: PauseLock,
    releaser: Option<Releaser>,
}

impl Driver {
    pub fn new(
        guest: Arc<dyn SourceGuest>,
        shared: Arc<Shared>,
        observer: Arc<dyn Observer>,
        connector: Arc<dyn Connector>,
        limits: Limits,
    ) -> Self {
        let releaser = shared.released.clone().map(Releaser::new);
        let encoding = limits.encoding;
        Self {
            throttled: ThrottleGuard::new(guest.clone()),
            guest,
            shared,
            observer,
            hint: Arc::default(),
            meter: DirtyRateMeter::default(),
            outgoing: Outgoing::default(),
            encoding,
            seen_pass: 0,
            connector,
            next_connector: None,
            limits,
            lock: PauseLock::default(),
            releaser,
        }
    }

    /// The whole migration.
    pub fn run(mut self) {
        log::enter(log::Side::Source, &self.shared.progress);
        self.guest.thread_begins(EngineThread::Source);
        self.shared.progress.begin();
        let outcome = catch(SOURCE, || Ok(self.migrate()));
        self.throttled.set(Throttle::NONE);
        let stays = self.take_back();
        let outcome = match outcome {
            Ok(Some(outcome)) => outcome,
            // The process ends while the guest is in two halves: this one goes with it.
            Ok(None) => return,
            Err(error) if self.shared.is_handed_over() && !stays => {
                let text = sentence(&error);
                log::error!(
                    "the migration is paused, the guest's pages are kept, but it cannot be joined again: {text}"
                );
                self.shared.progress.fail(text);
                return self.enter(Status::PostcopyPaused);
            }
            Err(error) => {
                self.enter(Status::Failing);
                Outcome::Failed(error)
            }
        };
        let status = match &outcome {
            Outcome::Completed => Status::Completed,
            Outcome::Cancelled => Status::Cancelled,
            Outcome::Failed(error) => {
                let text = sentence(error);
                log::error!("the migration failed, the guest stays here: {text}");
                self.shared.progress.fail(text);
                Status::Failed
            }
        };
        self.enter(status);
    }

    /// How it ends; `None`: it is paused, and this side gives it up.
    fn migrate(&mut self) -> Option<Outcome> {
        let outgoing = Outgoing::new(self.encoding, self.guest.ram());
        match outgoing.and_then(|outgoing| Ok((outgoing, self.connect(&*self.connector, None)?))) {
            Ok((outgoing, (token, features, link))) => {
                self.outgoing = outgoing;
                self.drive(token, features, link)
            }
            Err(_) if self.shared.cancelled() => {
                self.enter(Status::Cancelling);
                Some(Outcome::Cancelled)
            }
            Err(error) => {
                self.enter(Status::Failing);
                Some(Outcome::Failed(error))
            }
        }
    }

    pub(super) fn enter(&self, status: Status) {
        if self.shared.progress.enter(status) {
            log::info!("migration: {}", status.name());
            self.observer.status(status);
        }
    }

    pub(super) fn connect(
        &self,
        connector: &dyn Connector,
        recover: Option<Token>,
    ) -> Result<(Token, Features, Connection), MigrationError> {
        let opened = Connection::open(connector, recover, &self.guest, &self.shared, &self.hint, self.limits.encoding)?;
        self.shared.progress.identify(opened.0.short());
        Ok(opened)
    }

    /// Resumes the guest if whoever held the right to do so dropped it; whether it was so.
    fn take_back(&self) -> bool {
        let dropped = catch(SOURCE, || Ok(self.lock.take_back(&*self.guest)));
        if let Ok(true) = dropped {
            self.shared.progress.running();
        }
        dropped.unwrap_or_else(|error| {
            log::error!("the guest could not be resumed: {}", sentence(&error));
            true
        })
    }

    fn drive(&mut self, token: Token, features: Features, mut link: Connection) -> Option<Outcome> {
        let shared = self.shared.clone();
        let (pending, hint) = (shared.pending.clone(), self.hint.clone());
        let spread = link.multifd.as_ref().map(|_| scaled(MANY_PAGES));
        // What has changed of a page is known to one thread only.
        let precopy = spread.filter(|_| self.outgoing.changed().is_none());
        let many = MultifdThresholds { precopy, postcopy: spread.filter(|_| shared.multifd.postcopy) };
        let mut source = Source::new(introduction(&*self.guest), features, self.limits, pending, hint, many);
        if let Some(released) = &shared.released {
            source = source.releasing(released.clone());
        }
        loop {
            if let Some(features) = self.connector.joined_late() {
                source.joined(features);
                shared.no_postcopy.store(!features.contains(Features::POSTCOPY), Ordering::Release);
            }
            let action = source.next(shared.progress.now());
            self.tell(&source);
            if action == Action::End {
                // The last word (a cancel, most often) still has to go; a link that is broken does
                // not need it. How the migration ended is decided: a panic does not change it.
                if let Err(error) = catch(SOURCE, || self.send(&mut source, &link)) {
                    log::debug!("after the end: {}", sentence(&error));
                }
                link.channel.finish();
                break;
            }
            if let Err(error) = catch(SOURCE, || self.carry_out(action, &mut source, &mut link)) {
                self.take_back();
                self.failed(error, &mut source, &mut link);
            }
            if source.status() == Status::PostcopyPaused {
                match self.await_recovery(&mut source, token, link) {
                    Some(new) => link = new,
                    None => return None,
                }
            }
        }
        link.close();
        if source.leaves_ram() {
            // Only now, for the thread that answers requests has ended: it may have been reading a
            // page.
            self.guest.leave_ram();
        }
        source.into_outcome()
    }

    /// Status, pass and estimates for whoever looks.
    pub(super) fn tell(&mut self, source: &Source) {
        match source.status() {
            // The guest still has to go on here.
            Status::Failed => self.enter(Status::Failing),
            Status::Cancelled => self.enter(Status::Cancelling),
            status if status.is_ended() => {}
            // A cancel that was accepted shows as such until it is done.
            status if self.shared.cancelled() && status != Status::PostcopyActive => self.enter(Status::Cancelling),
            status => self.enter(status),
        }
        self.throttled.set(source.throttle());
        self.shared.progress.slowed(source.throttling());
        let figures = source.figures();
        if figures.passes != self.seen_pass {
            self.seen_pass = figures.passes;
            self.observer.pass(u64::from(figures.passes));
        }
    }

    /// An error between two actions. A broken stream may have a last word of the destination in it,
    /// which says more.
    fn failed(&mut self, error: MigrationError, source: &mut Source, link: &mut Connection) {
        self.forget(link);
        if self.shared.cancelled() && matches!(&error, MigrationError::Link { .. }) {
            return source.cancel();
        }
        let error = match error {
            // Whoever rang wanted something: that is the reason, not the interruption.
            MigrationError::Link { source: ChannelError::Interrupted, .. } => self.shared.ended_here().unwrap_or(error),
            other => other,
        };
        if source.status().is_ended() {
            log::debug!("after the end: {}", sentence(&error));
        }
        // Once the guest was handed over only a broken link is news, and its pages wait for the
        // next one.
        let patience = if self.shared.is_handed_over() { Duration::ZERO } else { LAST_WORD };
        match (&error, self.last_word(link, patience)) {
            (MigrationError::Link { .. }, Some(word)) => source.reply(word, self.shared.progress.now()),
            _ => source.fail(error),
        }
    }

    /// The destination's refusal, if it is among what it said before the link broke. The end of
    /// another channel can be seen before it comes.
    fn last_word(&self, link: &mut Connection, patience: Duration) -> Option<Reply> {
        let until = self.shared.progress.now() + patience;
        loop {
            match link.reader.try_message() {
                Ok(Some((header, fields))) => {
                    if let Ok(reply @ Reply::NotStarted(_)) = decode_reply(header, fields) {
                        return Some(reply);
                    }
                }
                Ok(None) => {
                    let left = until.checked_sub(self.shared.progress.now()).filter(|left| !left.is_zero())?;
                    let waited = link.channel.wait(false, &self.shared.wake, Some(left)).ok()?;
                    // Whoever rings wants something of what comes next.
                    if waited.woken {
                        return None;
                    }
                }
                // It has nothing more to say.
                Err(_) => return None,
            }
        }
    }

    fn carry_out(&mut self, action: Action, source: &mut Source, link: &mut Connection) -> Result<(), MigrationError> {
        let guest = self.guest.clone();
        let progress = self.shared.progress.clone();
        match action {
            Action::Send(message) => {
                match message {
                    Forward::PassBegin(pass) => self.outgoing.begin_pass(pass),
                    // From here on pages are placed, not written.
                    Forward::Listen | Forward::HandOver { .. } => self.outgoing.end_changes(),
                    _ => {}
                }
                self.outgoing.push(&message);
            }
            Action::SendRun(run) => {
                if link.multifd.as_ref().is_some_and(Senders::is_started) {
                    return self.multifd_run(run, source, link);
                }
                self.outgoing.push_run(guest.ram(), run);
                if self.outgoing.is_due() {
                    self.send(source, link)?;
                    self.look_up(source, link)?;
                }
            }
            Action::ShareRam => self.share_ram(source, link)?,
            Action::StartLog => guest.start_dirty_log().map_err(failed_to("log its writes"))?,
            Action::StopLog => {
                if let Err(error) = guest.stop_dirty_log() {
                    log::warn!("the guest's writes are still logged, which slows it down: {error}");
                }
            }
            Action::Sync => self.sync(source)?,
            Action::Measure => self.measure(source)?,
            Action::ClearLog(run) => {
                if let Some(dirty) = self.shared.pending.block(run.block) {
                    guest.clear_dirty(run, dirty).map_err(failed_to("log its writes anew"))?;
                }
            }
            Action::MultifdStart => {
                self.outgoing.push(&Forward::MultifdStart);
                self.send(source, link)?;
                if let Some(multifd) = &mut link.multifd {
                    multifd.start_multifd();
                }
            }
            Action::MultifdFlush => self.flush_multifd(source, link)?,
            Action::ServeDemand => {
                link.pacer.begin();
                link.serve_demand()?;
            }
            Action::Release(fragment) => {
                // A run that waits to be sent is read when it is.
                self.send(source, link)?;
                if let Some(releaser) = &mut self.releaser {
                    releaser.release(guest.ram(), &fragment);
                }
            }
            Action::Pause => {
                // Else the last look at the log came after it.
                if source.figures().syncs == 0 {
                    guest.prepare_pause();
                }
                progress.stopping();
                let paused = self.lock.pause(&*guest).map_err(failed_to("pause"))?;
                progress.step("pause");
                source.paused(paused);
            }
            Action::Save => {
                let sections = guest.save().map_err(failed_to("save its state"))?;
                progress.step("save");
                source.saved(sections);
            }
            Action::Resume(paused) => {
                if let Err(error) = self.lock.resume(&*guest, paused) {
                    log::error!("the guest could not be resumed: {error}");
                }
                progress.running();
            }
            Action::HandOver => source.try_hand_over(self.shared.close_door()),
            Action::HandedOver => {
                match self.connector.only_keeps() {
                    true => {
                        progress.stays(Whereabouts::WrittenDown);
                        guest.written_down();
                    }
                    false => guest.handed_over(),
                }
                self.enter(Status::Completed);
            }
            Action::Wait(until) => self.wait(until, source, link)?,
            Action::End => {}
        }
        Ok(())
    }

    /// The files go with the message's first byte, behind all that was said before.
    fn share_ram(&mut self, source: &mut Source, link: &Connection) -> Result<(), MigrationError> {
        let blocks = self.guest.ram().len();
        let files = self.guest.shared_ram().filter(|files| files.len() == blocks && link.channel.takes_files());
        let files = files.ok_or(MigrationError::RamNotShared)?;
        self.send(source, link)?;
        let mut message = Vec::new();
        Forward::SharedRam(files.len() as u32).encode(&mut message);
        let borrowed: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        let shared = &self.shared;
        link.channel.send_files(&message, &borrowed, &shared.wake, &|| shared.interrupted()).map_err(lost_link)?;
        shared.progress.skipped(shared.pending.pages());
        Ok(())
    }

    fn sync(&mut self, source: &mut Source) -> Result<(), MigrationError> {
        if source.status() != Status::Device {
            // Before the log is read: the decision to pause is made by pages that the guest wrote
            // meanwhile, too.
            self.guest.prepare_pause();
        }
        for (block, dirty) in self.shared.pending.blocks() {
            self.guest.sync_dirty(block, dirty).map_err(failed_to("tell what it wrote"))?;
        }
        if source.status() == Status::Device {
            self.shared.progress.step("sync");
        }
        if let Some(changed) = self.outgoing.changed() {
            changed.synced();
            self.shared.progress.changed(changed.report());
        }
        source.synced(self.shared.progress.now());
        self.estimated(source);
        Ok(())
    }

    fn measure(&mut self, source: &mut Source) -> Result<(), MigrationError> {
        if source.is_deciding() {
            self.guest.prepare_pause();
        }
        let pending = &self.shared.pending;
        let become_pending = |block, word, bits| {
            if let Some(bitmap) = pending.block(block) {
                bitmap.or_word(word, bits);
            }
        };
        let pages = self.meter.read(&*self.guest, become_pending).map_err(failed_to("tell what it wrote"))?;
        source.measured(pages, self.shared.progress.now());
        self.estimated(source);
        Ok(())
    }

    fn estimated(&self, source: &Source) {
        let figures = source.figures();
        self.shared.progress.estimated(figures.syncs, figures.dirty_rate, figures.expected_downtime);
    }

    fn send(&mut self, source: &mut Source, link: &Connection) -> Result<(), MigrationError> {
        let shared = &self.shared;
        let cancelled_at = OnceCell::new();
        let interrupted = || {
            link.pacer.look(shared);
            if shared.ends_by_cancel() {
                let now = shared.progress.now();
                return now >= *cancelled_at.get_or_init(|| now) + LAST_MESSAGE;
            }
            shared.interrupted()
        };
        let sent = self
            .outgoing
            .send(self.guest.ram(), &link.channel, &shared.wake, &interrupted)
            .map_err(|error| MigrationError::Link { peer: "destination", source: error })?;
        let phase = match source.status() {
            Status::Device | Status::PostcopyDevice => Phase::Downtime,
            Status::PostcopyActive | Status::PostcopyPaused | Status::PostcopyRecover => Phase::Postcopy,
            _ => Phase::Precopy,
        };
        self.count(sent, phase, source);
        if let Some(changed) = self.outgoing.changed() {
            self.shared.progress.changed(changed.report());
        }
        Ok(())
    }

    pub(super) fn count(&self, sent: Sent, phase: Phase, source: &mut Source) {
        if sent == Sent::default() {
            return;
        }
        let shared = &self.shared;
        shared.progress.moved(phase, sent.bytes as u64, sent.normal, sent.zero);
        shared.progress.sample();
        source.moved((sent.normal + sent.changed) * PAGE_SIZE as u64);
        source.sent(sent.bytes, shared.progress.now());
    }

    /// Whatever waits to be sent is not sent any more.
    fn forget(&mut self, link: &mut Connection) {
        self.outgoing.clear();
        if let Some(multifd) = &mut link.multifd {
            multifd.clear();
        }
    }

    /// Puts everything on its way, then waits for a reply, a command or the moment.
    fn wait(
        &mut self,
        until: Option<Duration>,
        source: &mut Source,
        link: &mut Connection,
    ) -> Result<(), MigrationError> {
        let sending_state =
            matches!(source.status(), Status::Device | Status::PostcopyDevice) && !self.outgoing.is_empty();
        let happened = self.give(source, link)?;
        self.send(source, link)?;
        if sending_state {
            self.shared.progress.step("send");
        }
        // A command may have come while nobody was waiting for one.
        if happened || self.look_up(source, link)? {
            return Ok(());
        }
        link.pacer.idle();
        let timeout = until.map(|then| then.saturating_sub(self.shared.progress.now()));
        let waited = link.channel.wait(false, &self.shared.wake, timeout)?;
        if waited.woken {
            self.shared.wake.clear();
        }
        self.look_up(source, link)?;
        Ok(())
    }

    /// Commands and replies that are there; whether there were any.
    pub(super) fn look_up(&mut self, source: &mut Source, link: &mut Connection) -> Result<bool, MigrationError> {
        let shared = self.shared.clone();
        if shared.cancelled() && !source.status().is_ended() {
            self.forget(link);
            source.cancel();
            return Ok(true);
        }
        if let Some(error) = shared.ended_here() {
            return Err(error);
        }
        let went_on = self.take_commands(source)?;
        let limits = self.limits;
        if let (Some(changed), PageEncoding::Xbzrle { cache }) = (self.outgoing.changed(), limits.encoding.contents) {
            changed.resize(cache);
        }
        source.set_limits(limits);
        if went_on {
            return Ok(true);
        }
        let Some((header, fields)) = link.reader.try_message().map_err(lost_link)? else { return Ok(false) };
        let reply = decode_reply(header, fields).map_err(|error| lost_link(error.into()))?;
        self.note(&reply);
        source.reply(reply, shared.progress.now());
        Ok(true)
    }

    /// What users want, and the thread that answers page requests has to say. Whether a switchover
    /// that waited goes on.
    fn take_commands(&mut self, source: &mut Source) -> Result<bool, MigrationError> {
        let mut went_on = false;
        while let Some(command) = self.shared.commands.next() {
            match command {
                // The handle refuses it; this was said before the destination told what it can do.
                SourceCommand::StartPostcopy => source.start_postcopy()?,
                SourceCommand::GoOn if source.go_on() => {
                    self.shared.progress.step("hold");
                    went_on = true;
                }
                SourceCommand::SetLimits(limits) => self.limits = limits,
                SourceCommand::Recover(connector) => self.next_connector = Some(connector),
                SourceCommand::BreakLink => return Err(MigrationError::PausedByUser),
                SourceCommand::DemandLost(error) if !source.awaits_last_word() => return Err(error),
                SourceCommand::GoOn | SourceCommand::DemandLost(_) => {}
            }
        }
        Ok(went_on)
    }

    fn note(&self, reply: &Reply) {
        match reply {
            Reply::Ready => self.shared.progress.step("ready"),
            Reply::Running => {
                self.shared.progress.step("running");
                self.shared.progress.running();
            }
            _ => {}
        }
    }
}

/// What a guest's stream begins with.
pub(crate) fn introduction(guest: &dyn OutgoingGuest) -> Vec<Forward> {
    let blocks = guest
        .ram()
        .iter()
        .map(|block| BlockDescription {
            name: block.name().to_owned(),
            guest_address: block.guest_address(),
            pages: block.pages(),
        })
        .collect();
    vec![
        Forward::Configuration(guest.configuration()),
        Forward::Ram { page_size: PAGE_SIZE as u32, blocks },
        Forward::Description(describe(&guest.describe_state())),
    ]
}

pub(super) fn lost_link(source: ChannelError) -> MigrationError {
    MigrationError::Link { peer: "destination", source }
}
