//! The source's state machine: what to do next, and what every answer means. No I/O, no clock, no
//! thread.
//!
//! ```text
//! Describing --accepted--> Precopy --decide, pass--> Precopy
//!     |                      |  \--switch--> Dropping (hybrid) --+
//!     | at once              v                                  |
//!     +--> AwaitListening -> Pausing <--------------------------+
//!                            |    ^
//!                  if wanted v    | go on
//!                         PreSwitchover
//! Pausing --saved--> AwaitReady --ready--> AwaitRunning --running--> Pushing
//!                           the one-way door: ^                        | none pending
//! Ended(Completed) <--all received-- AwaitAllReceived <----------------+
//!
//! RAM that the destination maps:  Describing --accepted--> Sharing --acknowledged--> Pausing,
//!                                 and nothing is pending
//!
//! before the door: lost, refused, cancelled --> the guest resumes --> Ended(Failed or Cancelled)
//! after it:  lost --> LinkLost: nothing is dropped, nothing resumes --connected--> Recovering
//!
//! Recovering: the destination says which pages it has, so it runs there
//!                 --> Pushing (after a precopy: AwaitAllReceived)
//!             it says that it never ran, which only one that did not say `running` may
//!                 --> the guest resumes --> Ended(Failed)
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::action::{Action, Figures, MultifdThresholds, Outcome};
use super::auto_converge::{Slowdown, ThrottlePolicy};
use super::convergence::{Limits, Policy};
use super::rate_limit::RateLimit;
use super::release::{Asking, Released};
use super::scheduler::{Hint, Scheduler};
use crate::bitmap::RamBitmap;
use crate::error::{MigrationError, sentence};
use crate::guest::{ConfirmedRemote, HandedOver, PausedGuest};
use crate::memory::HUGE_PAGES;
use crate::ram::{BlockId, PageIndex};
use crate::stats::Status;
use crate::wire::{Features, Forward, Reply};

mod measuring;
mod passes;
mod skip;
mod switch;
#[cfg(test)]
mod tests;

/// Background runs in postcopy: a huge page at most, which the destination moves in whole.
const PUSH_PAGES: u32 = HUGE_PAGES;
/// The same under a limit: short, so that the limit holds from one moment to the next.
const LIMITED_PAGES: u32 = 64;

/// The background begins so much later than the guest, whose first steps need processors and the
/// link more than any others.
const HEAD_START: Duration = Duration::from_millis(2);

/// The mark behind RAM that the destination maps.
const SHARED: u32 = 0;

/// Which way the guest is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SwitchoverMode {
    /// Every page first.
    Precopy,
    /// Pending pages afterwards.
    Postcopy,
}

/// A precopy pass under way.
#[derive(Debug)]
struct Pass {
    number: u32,
    begin_pages: u64,
    begun: Duration,
    sent: u64,
    moved: u64,
    at: (BlockId, PageIndex),
    /// Where the stretch ends whose log has been re-armed.
    cleared_to: PageIndex,
}

/// Rounds of telling the destination what is stale, while the guest still runs.
#[derive(Clone, Copy, Debug)]
struct Drops {
    /// Counted from 1.
    round: u32,
    /// Pages told so far; no page of them can become valid again.
    told: u64,
    /// Pages of them that the last round was the first to tell: what the destination had to do.
    fresh: u64,
}

/// What is known of a guest that was handed over while its link is gone.
#[derive(Debug)]
enum AfterHandover {
    /// Not even whether the destination heard of it: it may run there, or nowhere.
    Doubt(HandedOver),
    /// It runs there.
    There(ConfirmedRemote),
}

/// The link after one that broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NextLink {
    Awaited,
    Opening,
}

#[derive(Debug)]
enum State {
    Describing,
    AwaitListening,
    /// The destination puts this side's RAM in the place of its own, while the guest runs on it
    /// here.
    Sharing,
    Precopy(Pass),
    /// Everything of the pass was sent; the destination still has to take it.
    EndOfPass(Pass),
    /// The pass is over; the log is being read.
    Deciding(Pass),
    /// Stale pages are being read from the log to be dropped.
    Dropping(Drops),
    /// The destination drops them.
    AwaitDropped(Drops),
    Pausing(SwitchoverMode),
    /// The guest stands still, whole, until somebody says that the switchover may go on.
    PreSwitchover(SwitchoverMode, PausedGuest),
    Saving(SwitchoverMode, PausedGuest),
    FinalSync(SwitchoverMode, PausedGuest),
    AwaitReady(SwitchoverMode, PausedGuest),
    AwaitRunning(SwitchoverMode, HandedOver),
    Pushing(Scheduler, ConfirmedRemote),
    AwaitAllReceived(SwitchoverMode, ConfirmedRemote),
    LinkLost(SwitchoverMode, AfterHandover, MigrationError, NextLink),
    Recovering(SwitchoverMode, AfterHandover),
    Ended(Outcome),
    /// Only while a step replaces the state.
    Stepping,
}

/// What was since the log was last measured.
#[derive(Clone, Copy, Debug, Default)]
struct Since {
    at: Duration,
    /// Bytes on the wire.
    sent: u64,
}

/// The source's state machine.
#[derive(Debug)]
pub struct Source {
    state: State,
    queue: VecDeque<Action>,
    pending: Arc<RamBitmap>,
    hint: Arc<Hint>,
    limits: Limits,
    pace: RateLimit,
    slowdown: Slowdown,
    /// Since the log was last measured.
    since: Since,
    logging: bool,
    listening: bool,
    figures: Figures,
    destination: Features,
    postcopy_wanted: bool,
    many: MultifdThresholds,
    /// Pages go on the multifd channels.
    spread: bool,
    /// Where the host gets pages back.
    asking: Option<Asking>,
}

impl Source {
    /// For a destination with these features. `introduction` is what describes the guest. `pending`
    /// and `hint` are shared with the thread that answers page requests. `many`: when they go on
    /// multifd channels.
    pub fn new(
        introduction: Vec<Forward>,
        destination: Features,
        limits: Limits,
        pending: Arc<RamBitmap>,
        hint: Arc<Hint>,
        many: MultifdThresholds,
    ) -> Self {
        let mut queue: VecDeque<_> = introduction.into_iter().map(Action::Send).collect();
        queue.push_back(Action::Wait(None));
        pending.set_all();
        Self {
            state: State::Describing,
            queue,
            pending,
            hint,
            limits,
            pace: RateLimit::default(),
            slowdown: Slowdown::default(),
            since: Since::default(),
            logging: false,
            listening: false,
            figures: Figures::default(),
            destination,
            postcopy_wanted: false,
            many,
            spread: false,
            asking: None,
        }
    }

    /// The user's limits from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        // Who has said that it cannot is not switched to.
        let policy = match self.state {
            State::Describing => limits.policy,
            _ if self.destination.contains(Features::POSTCOPY) => limits.policy,
            _ => Policy::Manual,
        };
        self.limits = Limits { policy, ..limits };
    }

    /// A destination with these features is there now, where nobody had been heard of before.
    pub fn joined(&mut self, features: Features) {
        self.destination = features;
    }

    /// Whether a bandwidth limit holds for the pages that are sent now.
    pub fn is_limited(&self) -> bool {
        match &self.state {
            State::Pushing(..) => self.limits.postcopy_bandwidth > 0,
            _ => self.limits.bandwidth > 0,
        }
    }

    /// Counts and estimates.
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// The status that users see.
    pub fn status(&self) -> Status {
        match &self.state {
            State::Describing | State::AwaitListening => Status::Setup,
            State::Sharing | State::Precopy(_) | State::EndOfPass(_) | State::Deciding(_) => Status::Active,
            State::Dropping(_) | State::AwaitDropped(_) => Status::Active,
            // The guest still runs, as far as is known.
            State::Pausing(_) => Status::Active,
            State::PreSwitchover(..) => Status::PreSwitchover,
            State::Saving(..) | State::FinalSync(..) | State::AwaitReady(SwitchoverMode::Precopy, _) => Status::Device,
            State::AwaitReady(SwitchoverMode::Postcopy, _) => Status::PostcopyDevice,
            State::AwaitRunning(SwitchoverMode::Precopy, _) | State::AwaitAllReceived(SwitchoverMode::Precopy, _) => {
                Status::Device
            }
            State::AwaitRunning(SwitchoverMode::Postcopy, _) => Status::PostcopyActive,
            State::Pushing(..) | State::AwaitAllReceived(SwitchoverMode::Postcopy, _) => Status::PostcopyActive,
            State::LinkLost(.., NextLink::Awaited) => Status::PostcopyPaused,
            State::LinkLost(.., NextLink::Opening) => Status::PostcopyRecoverSetup,
            State::Recovering(..) => Status::PostcopyRecover,
            State::Ended(Outcome::Completed) => Status::Completed,
            State::Ended(Outcome::Failed(_)) => Status::Failed,
            State::Ended(Outcome::Cancelled) => Status::Cancelled,
            State::Stepping => unreachable!("a step always leaves a state behind"),
        }
    }

    /// Why the link was lost, while it is.
    pub fn lost_because(&self) -> Option<&MigrationError> {
        match &self.state {
            State::LinkLost(_, _, error, _) => Some(error),
            _ => None,
        }
    }

    /// Whether the link was lost before the destination said that it runs: it may have the guest,
    /// or may never have heard of it.
    pub fn is_in_doubt(&self) -> bool {
        matches!(self.state, State::LinkLost(_, AfterHandover::Doubt(_), ..))
    }

    /// Whether everything was sent and only the destination's word is awaited: it may close the
    /// demand channel before that arrives.
    pub fn awaits_last_word(&self) -> bool {
        matches!(self.state, State::AwaitAllReceived(..) | State::Ended(_))
    }

    /// The outcome, once [`Action::End`] was given.
    pub fn into_outcome(self) -> Option<Outcome> {
        match self.state {
            State::Ended(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// What to do next at time `now`, counted from the begin of the migration.
    pub fn next(&mut self, now: Duration) -> Action {
        if let Some(action) = self.queue.pop_front() {
            return action;
        }
        match &mut self.state {
            State::Precopy(_) => self.next_of_pass(now),
            State::Pushing(..) => self.next_background(now),
            State::Ended(_) => Action::End,
            _ => Action::Wait(None),
        }
    }

    fn take(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Stepping)
    }

    fn then(&mut self, actions: impl IntoIterator<Item = Action>) {
        self.queue.extend(actions);
    }

    /// A run (or its zeros) was put on the wire: `bytes` of it, headers included.
    pub fn sent(&mut self, bytes: usize, now: Duration) {
        self.since.sent += bytes as u64;
        match &mut self.state {
            // What waited when the last page of a pass was taken goes behind it.
            State::Precopy(pass) | State::EndOfPass(pass) => {
                pass.sent += bytes as u64;
                self.pace.sent(bytes, self.limits.bandwidth, now);
            }
            State::Pushing(..) => {
                self.pace.sent(bytes, self.limits.postcopy_bandwidth, now);
                self.asking.iter_mut().for_each(|asking| asking.sent(bytes));
            }
            _ => {}
        }
    }

    /// What was sent stood for so many bytes of pages, zero pages apart.
    pub fn moved(&mut self, bytes: u64) {
        if let State::Precopy(pass) | State::EndOfPass(pass) = &mut self.state {
            pass.moved += bytes;
        }
    }

    /// The log was read into the pending pages.
    pub fn synced(&mut self, now: Duration) {
        self.figures.syncs += 1;
        match self.take() {
            State::Deciding(pass) => self.end_pass(pass, now),
            State::Dropping(drops) => self.drop_stale(drops),
            State::FinalSync(way, door) => self.send_last(way, door),
            other => self.state = other,
        }
    }

    fn next_background(&mut self, now: Duration) -> Action {
        if let Some(asking) = &mut self.asking {
            if let Some(number) = asking.due() {
                return Action::Send(Forward::Barrier(number));
            }
            if asking.is_open() {
                return Action::Wait(None);
            }
        }
        if let Some(then) = self.pace.wait_until(self.limits.postcopy_bandwidth, now) {
            return Action::Wait(Some(then));
        }
        let State::Pushing(mut scheduler, door) = self.take() else { unreachable!("called while pushing") };
        let most = if self.limits.postcopy_bandwidth == 0 { PUSH_PAGES } else { LIMITED_PAGES };
        match scheduler.next(&self.pending, &self.hint, most) {
            Some(run) => {
                self.state = State::Pushing(scheduler, door);
                Action::SendRun(run)
            }
            None => {
                self.state = State::AwaitAllReceived(SwitchoverMode::Postcopy, door);
                self.flush_multifd();
                self.then([Action::Send(Forward::Complete), Action::Wait(None)]);
                self.next(now)
            }
        }
    }

    /// A reply of the destination.
    pub fn reply(&mut self, reply: Reply, now: Duration) {
        match (self.take(), reply) {
            (State::Describing, Reply::Accepted) => self.accepted(now),
            (State::EndOfPass(pass), Reply::BarrierAck(number)) if number == pass.number => {
                self.state = State::Deciding(pass);
                self.then([if self.limits.throttling == ThrottlePolicy::Off { Action::Sync } else { Action::Measure }]);
            }
            (State::AwaitDropped(drops), Reply::BarrierAck(number)) if number == drops.round => self.dropped(drops),
            (State::Sharing, Reply::BarrierAck(SHARED)) => {
                self.state = State::Pausing(SwitchoverMode::Precopy);
                self.then([Action::Pause]);
            }
            (State::AwaitListening, Reply::Listening) => {
                self.state = State::Pausing(SwitchoverMode::Postcopy);
                self.listening = true;
                self.then([Action::Pause]);
            }
            (State::AwaitReady(way, door), Reply::Listening) => {
                self.state = State::AwaitReady(way, door);
                self.then([Action::ServeDemand, Action::Wait(None)]);
            }
            (State::AwaitReady(way, door), Reply::Ready) => {
                self.state = State::AwaitReady(way, door);
                self.then([Action::HandOver]);
            }
            (State::AwaitRunning(SwitchoverMode::Precopy, door), Reply::Running) => {
                self.state = State::AwaitAllReceived(SwitchoverMode::Precopy, door.departed());
            }
            (State::AwaitRunning(SwitchoverMode::Postcopy, door), Reply::Running) => {
                self.then([Action::Wait(Some(now + HEAD_START))]);
                self.start_multifd(self.many.postcopy);
                self.state = State::Pushing(Scheduler::new(), door.departed());
            }
            (State::AwaitAllReceived(..), Reply::AllReceived) => {
                // Ending the log can take as long as a pass, and nobody waits for it: it comes
                // last.
                self.then([Action::HandedOver, Action::Send(Forward::Goodbye)]);
                self.stop_logging();
                self.state = State::Ended(Outcome::Completed);
            }
            (
                State::AwaitRunning(_, door) | State::Recovering(_, AfterHandover::Doubt(door)),
                Reply::NotStarted(why),
            ) => {
                self.queue.clear();
                self.then([Action::Send(Forward::Cancel(why.clone()))]);
                self.stays(Some(door.not_started()), Outcome::Failed(MigrationError::NotStarted(why)));
            }
            (State::Pushing(scheduler, door), Reply::Received(fragment)) if self.is_asking() => {
                self.state = State::Pushing(scheduler, door);
                if self.has_received(&fragment) {
                    self.then([Action::Release(fragment)]);
                }
            }
            (State::Pushing(scheduler, door), Reply::BarrierAck(number)) if self.is_asking() => {
                self.state = State::Pushing(scheduler, door);
                if !self.asking.as_mut().is_some_and(|asking| asking.answered(number)) {
                    self.fail(MigrationError::OutOfOrder(crate::wire::tag::name(crate::wire::tag::BARRIER_ACK)));
                }
            }
            (State::Recovering(way, beyond), Reply::Received(fragment)) => {
                self.state = State::Recovering(way, beyond);
                self.has_received(&fragment);
            }
            (State::Recovering(way, beyond), Reply::ReceivedEnd) => {
                let door = match beyond {
                    // A destination that did not start the guest has nothing to say but that.
                    AfterHandover::Doubt(door) => door.departed(),
                    AfterHandover::There(door) => door,
                };
                self.recovered(way, door);
            }
            (state, Reply::NotStarted(why)) => {
                self.state = state;
                self.fail(MigrationError::NotStarted(why));
            }
            (state, reply) => {
                let said = crate::wire::tag::name(reply.tag());
                self.state = state;
                self.fail(MigrationError::OutOfOrder(said));
            }
        }
    }

    fn accepted(&mut self, now: Duration) {
        let able = !self.destination.contains(Features::POSTCOPY) || self.destination.contains(Features::RELEASE);
        if self.asking.is_some() && !able {
            self.state = State::Describing;
            return self.fail(MigrationError::NoRelease);
        }
        if self.limits.ignore_shared {
            return self.share();
        }
        if self.limits.policy != Policy::Manual && !self.destination.contains(Features::POSTCOPY) {
            self.state = State::Describing;
            return self.fail(MigrationError::NoPostcopy);
        }
        if self.limits.policy == Policy::AfterPasses(0) || self.wants_postcopy(now) {
            // No page was sent: nothing to log, nothing to drop, and arming costs nothing before
            // the pause.
            self.state = State::AwaitListening;
            self.then([Action::Send(Forward::Listen), Action::Wait(None)]);
        } else {
            self.logging = true;
            self.then([Action::StartLog]);
            self.since.at = now;
            self.begin_pass(1, now);
        }
    }

    /// Whether somebody said so, or the time for it has come.
    fn wants_postcopy(&self, now: Duration) -> bool {
        self.postcopy_wanted || self.limits.policy.is_due(now)
    }

    /// `migrate_start_postcopy`.
    pub fn start_postcopy(&mut self) -> Result<(), MigrationError> {
        if !self.destination.contains(Features::POSTCOPY) {
            return Err(MigrationError::NoPostcopy);
        }
        // Of RAM that is not sent nothing is left to be fetched.
        self.postcopy_wanted = !self.limits.ignore_shared;
        Ok(())
    }

    /// `migrate_continue`: whether a switchover waited for that. One by precopy turns to postcopy
    /// here, if that was asked for meanwhile.
    pub fn go_on(&mut self) -> bool {
        match self.take() {
            State::PreSwitchover(way, door) => {
                self.save(if self.postcopy_wanted { SwitchoverMode::Postcopy } else { way }, door);
                true
            }
            state => {
                self.state = state;
                false
            }
        }
    }

    /// `migrate_cancel`: no effect once the guest was handed over.
    pub fn cancel(&mut self) {
        let door = match self.take() {
            State::PreSwitchover(_, door) | State::Saving(_, door) => Some(door),
            State::FinalSync(_, door) | State::AwaitReady(_, door) => Some(door),
            state @ (State::AwaitRunning(..) | State::Pushing(..) | State::AwaitAllReceived(..)) => {
                self.state = state;
                return;
            }
            state @ (State::LinkLost(..) | State::Recovering(..) | State::Ended(_)) => {
                self.state = state;
                return;
            }
            _ => None,
        };
        self.queue.clear();
        self.then([Action::Send(Forward::Cancel("the migration was cancelled on the source".into()))]);
        self.stays(door, Outcome::Cancelled);
    }

    /// The link, the guest or the destination failed. Before the door the guest stays here; after
    /// it, everything is kept for a recovery.
    pub fn fail(&mut self, error: MigrationError) {
        let door = match self.take() {
            State::PreSwitchover(_, door) | State::Saving(_, door) => Some(door),
            State::FinalSync(_, door) | State::AwaitReady(_, door) => Some(door),
            State::AwaitRunning(way, door) => return self.lose_link(way, AfterHandover::Doubt(door), error),
            State::Pushing(_, door) => {
                return self.lose_link(SwitchoverMode::Postcopy, AfterHandover::There(door), error);
            }
            State::AwaitAllReceived(way, door) => return self.lose_link(way, AfterHandover::There(door), error),
            State::Recovering(way, beyond) => return self.lose_link(way, beyond, error),
            state @ (State::LinkLost(..) | State::Ended(_)) => {
                self.state = state;
                return;
            }
            _ => None,
        };
        self.queue.clear();
        match &error {
            // It may have waited for that since the link broke.
            MigrationError::NotStarted(why) => self.then([Action::Send(Forward::Cancel(why.clone()))]),
            // Nobody is there to be told.
            MigrationError::Link { .. } => {}
            // The destination waits: tell it why nothing comes.
            _ => self.then([Action::Send(Forward::Cancel(format!("the source gave up: {}", sentence(&error))))]),
        }
        self.stays(door, Outcome::Failed(error));
    }

    fn lose_link(&mut self, way: SwitchoverMode, beyond: AfterHandover, error: MigrationError) {
        self.queue.clear();
        self.spread = false;
        self.state = State::LinkLost(way, beyond, error, NextLink::Awaited);
    }

    /// The link is lost: another one is being opened now, or that failed and one is awaited again.
    pub fn opening(&mut self, yes: bool) {
        if let State::LinkLost(.., next) = &mut self.state {
            *next = if yes { NextLink::Opening } else { NextLink::Awaited };
        }
    }

    /// A new link to the same destination stands; it tells next what it has.
    pub fn recover(&mut self) -> bool {
        match self.take() {
            State::LinkLost(way, beyond, ..) => {
                // What is still to be done here (the end of logging) stays queued.
                self.pending.set_all();
                self.state = State::Recovering(way, beyond);
                true
            }
            state => {
                self.state = state;
                false
            }
        }
    }

    /// The destination has said what it has.
    fn recovered(&mut self, way: SwitchoverMode, door: ConfirmedRemote) {
        let lost = self.asking.as_mut().map_or(0, |asking| asking.recovered(&self.pending));
        if lost > 0 {
            return self.lose_link(way, AfterHandover::There(door), MigrationError::PagesReleased(lost));
        }
        match way {
            SwitchoverMode::Postcopy => {
                self.then([Action::ServeDemand]);
                self.start_multifd(self.many.postcopy);
                self.state = State::Pushing(Scheduler::new(), door);
            }
            // It had every page before it ran.
            SwitchoverMode::Precopy => match self.pending.count() {
                0 => {
                    self.state = State::AwaitAllReceived(way, door);
                    self.then([Action::Send(Forward::Complete), Action::Wait(None)]);
                }
                missing => {
                    self.lose_link(way, AfterHandover::There(door), MigrationError::PagesMissing(missing));
                }
            },
        }
    }

    /// What is pending goes on the multifd channels, if it is as many pages.
    fn start_multifd(&mut self, many: Option<u64>) {
        if many.is_some_and(|many| self.pending.count() >= many) {
            self.spread = true;
            self.then([Action::MultifdStart]);
        }
    }

    /// Before anything that must not overtake the pages.
    fn flush_multifd(&mut self) {
        if std::mem::take(&mut self.spread) {
            self.then([Action::MultifdFlush]);
        }
    }

    fn stop_logging(&mut self) {
        if std::mem::take(&mut self.logging) {
            self.then([Action::StopLog]);
        }
    }

    fn stays(&mut self, door: Option<PausedGuest>, outcome: Outcome) {
        if let Some(door) = door {
            self.then([Action::Resume(door)]);
        }
        self.stop_logging();
        self.state = State::Ended(outcome);
    }
}
