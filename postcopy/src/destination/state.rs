//! The destination's state machine: what each message means. No I/O, no clock, no thread.
//!
//! ```text
//! Configuration -> Ram -> Precopy --listen--> Listening --state--> Loading -> Loaded --+
//!                            |                                        ^                |
//!                            +----- state, with every page here ------+                | hand over
//!                            +-- shared-ram --> Adopted --state-------+                v
//!                                                                                   Starting
//!     (the source knows) <--goodbye-- Completed <-- Finishing <--complete-- Running <--+
//!                                                                            |  ^
//!                                                          link lost         v  |  recovered
//!                                                                          LinkLost
//!
//! lost before `ready` was said:  Failed. The source has the guest, and knows it.
//! lost in Loaded or Starting:    NeverRan, for good. The source may have handed the guest over:
//!                                it is told when it asks, and a cancel makes this Failed.
//! lost in Completed:             Completed. The source, which may not know, is told when it asks.
//! ```

use std::sync::Arc;

use super::multifd::MultifdEpoch;
use super::tracker::Tracker;
use crate::encoding::Codec;
use crate::error::{MigrationError, sentence};
use crate::guest::{Configuration, Section};
use crate::memory::RamBlock;
use crate::ram::{PAGE_SIZE, PageRun};
use crate::stats::Status;
use crate::wire::{BlockDescription, Forward, Fragment};

#[cfg(test)]
mod tests;

/// What the driver is to do about a message.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Compare with the guest, then call [`Destination::checked`].
    Check(Configuration),
    /// RAM fits: say so.
    Accept,
    /// A pass begins: it can be told to the user.
    Pass(u32),
    /// Write the contents that follow into RAM.
    Write(PageRun),
    /// Unpack what follows and write it into RAM.
    WriteCompressed(Compressed),
    /// Change pages of the run by the bytes that follow, so many.
    Change(PageRun, u32),
    /// Make the runs zero.
    WriteZeros(Vec<PageRun>),
    /// Place the contents that follow by userfaultfd.
    Place(PageRun),
    /// Unpack what follows and place it by userfaultfd.
    PlaceCompressed(Compressed),
    /// Place zeros by userfaultfd.
    PlaceZeros(Vec<PageRun>),
    /// Put the source's RAM, so many files of it, in the place of this side's: every page is here
    /// then.
    Adopt(u32),
    /// Drop these pages.
    Discard(Fragment),
    /// Say that everything so far was dealt with.
    Barrier(u32),
    /// Say which pages are here, then that everything so far was dealt with.
    Tell(u32),
    /// Let the multifd channels' pages in.
    MultifdStart(MultifdEpoch),
    /// Wait until all of them are in.
    MultifdFlush,
    /// Watch RAM, then say so.
    Listen,
    /// Load the state, then call [`Destination::loaded`].
    Load(Vec<Section>),
    /// Start the guest, then call [`Destination::started`] and say so.
    Run {
        /// Start its vCPUs, too.
        running: bool,
    },
    /// Every page is here: say so and end.
    Finish,
    /// Pages are still on the demand channel: ask [`Destination::all_received`] when they came.
    AwaitPages,
}

/// Compressed pages that follow their message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compressed {
    /// Which pages.
    pub run: PageRun,
    /// What with.
    pub codec: Codec,
    /// How many bytes follow.
    pub length: u32,
}

/// Where the guest stands, as a source that joins again is told.
#[derive(Debug, PartialEq, Eq)]
pub enum GuestPlace {
    /// It runs here, on the pages that have come.
    Here,
    /// It never ran here and never will; one sentence why.
    Never(String),
}

#[derive(Debug)]
enum State {
    Configuration,
    Ram,
    Precopy,
    /// RAM is the source's own, where the guest still runs on it: nothing is written.
    Adopted,
    Listening,
    Loading {
        listening: bool,
    },
    Loaded {
        listening: bool,
    },
    Starting {
        listening: bool,
    },
    Running {
        listening: bool,
    },
    Finishing,
    LinkLost {
        listening: bool,
        error: MigrationError,
    },
    Recovering {
        listening: bool,
    },
    /// The guest did not start here and never will. The source may have handed it over, and has to
    /// hear of that.
    NeverRan {
        error: MigrationError,
        linked: bool,
    },
    /// Every page is here. `told`: the source knows. `cleared`: what waited for pages is cleared
    /// away.
    Completed {
        told: bool,
        cleared: bool,
    },
    Failed(MigrationError),
}

/// The destination's state machine.
#[derive(Debug)]
pub struct Destination {
    state: State,
    tracker: Arc<Tracker>,
    /// Pages come on the multifd channels, and the control channel has nothing to say meanwhile.
    spread: bool,
}

impl Destination {
    /// Nothing has come yet.
    pub fn new(tracker: Arc<Tracker>) -> Self {
        Self { state: State::Configuration, tracker, spread: false }
    }

    /// The status that users see.
    pub fn status(&self) -> Status {
        match &self.state {
            State::Configuration | State::Ram => Status::Setup,
            State::Precopy | State::Adopted | State::Listening => Status::Active,
            State::Loading { listening: true }
            | State::Loaded { listening: true }
            | State::Starting { listening: true } => Status::PostcopyDevice,
            State::Loading { .. } | State::Loaded { .. } | State::Starting { .. } => Status::Active,
            State::Running { listening: true } | State::Finishing => Status::PostcopyActive,
            State::Running { listening: false } => Status::Active,
            State::LinkLost { .. } | State::NeverRan { linked: false, .. } => Status::PostcopyPaused,
            State::NeverRan { linked: true, .. } => Status::PostcopyRecover,
            State::Recovering { .. } => Status::PostcopyRecover,
            State::Completed { .. } => Status::Completed,
            State::Failed(_) => Status::Failed,
        }
    }

    /// Whether the guest is this side's: then nothing may be given up when the link breaks.
    pub fn owns_guest(&self) -> bool {
        !matches!(
            self.state,
            State::Configuration
                | State::Ram
                | State::Precopy
                | State::Adopted
                | State::Listening
                | State::Loading { .. }
                | State::Loaded { .. }
                | State::Starting { .. }
                | State::NeverRan { .. }
                | State::Failed(_)
        )
    }

    /// Whether the guest did not start here and never will, which the source has to hear.
    pub fn never_ran(&self) -> bool {
        matches!(self.state, State::NeverRan { .. })
    }

    /// Whether both sides know how it ended: there is nothing to be said any more.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Failed(_) | State::Completed { told: true, .. })
    }

    /// Whether the guest is being started on pages that still have to come.
    pub fn is_starting_watched(&self) -> bool {
        matches!(self.state, State::Starting { listening: true })
    }

    /// Whether RAM is watched while the state is loaded.
    pub fn is_watched(&self) -> bool {
        matches!(self.state, State::Loading { listening: true })
    }

    /// What a message means here.
    pub fn message(&mut self, message: Forward, ram: &[RamBlock]) -> Result<Effect, MigrationError> {
        if self.spread {
            return match message {
                Forward::MultifdFlush => {
                    self.spread = false;
                    Ok(Effect::MultifdFlush)
                }
                Forward::Cancel(why) if !self.owns_guest() => Err(MigrationError::Cancelled(why)),
                message => Err(MigrationError::OutOfOrder(crate::wire::tag::name(message.tag()))),
            };
        }
        let effect = match (&self.state, message) {
            (State::Configuration, Forward::Configuration(configuration)) => Effect::Check(configuration),
            (State::Ram, Forward::Ram { page_size, blocks }) => {
                compare_ram(page_size, &blocks, ram)?;
                self.state = State::Precopy;
                Effect::Accept
            }
            (State::Precopy, Forward::PassBegin(pass)) => Effect::Pass(pass),
            (State::Precopy, Forward::PassEnd(_)) => Effect::None,
            (State::Precopy, Forward::Pages(run)) => Effect::Write(self.known(run)?),
            (State::Precopy, Forward::Compressed { run, codec, length }) => {
                Effect::WriteCompressed(Compressed { run: self.known(run)?, codec, length })
            }
            (State::Precopy, Forward::Xbzrle { run, length }) => Effect::Change(self.known(run)?, length),
            (State::Precopy, Forward::Zeros(runs)) => Effect::WriteZeros(self.all_known(runs)?),
            (State::Precopy, Forward::Discard(fragment)) => {
                if !fragment.fits(self.tracker.received()) {
                    return Err(MigrationError::NoSuchPages(format!("stale pages in block {}", fragment.block.0)));
                }
                Effect::Discard(fragment)
            }
            (State::Precopy | State::Adopted, Forward::Barrier(number)) => Effect::Barrier(number),
            (State::Precopy, Forward::SharedRam(count)) if self.tracker.received().count() == 0 => {
                self.state = State::Adopted;
                Effect::Adopt(count)
            }
            (State::Running { listening: true } | State::Completed { told: false, .. }, Forward::Barrier(number)) => {
                Effect::Tell(number)
            }
            (State::Precopy, Forward::MultifdStart) => self.start_multifd(MultifdEpoch::Precopy),
            (State::Running { listening: true } | State::Completed { told: false, .. }, Forward::MultifdStart) => {
                self.start_multifd(MultifdEpoch::Postcopy)
            }
            (State::Precopy, Forward::Listen) => {
                self.state = State::Listening;
                Effect::Listen
            }
            (State::Precopy | State::Adopted, Forward::State(sections)) => match self.tracker.missing() {
                0 => self.load(false, sections),
                missing => return Err(MigrationError::PagesMissing(missing)),
            },
            (State::Listening, Forward::State(sections)) => self.load(true, sections),
            (
                State::Listening | State::Loaded { listening: true } | State::Running { listening: true },
                Forward::Pages(run),
            ) => Effect::Place(self.known(run)?),
            (
                State::Listening | State::Loaded { listening: true } | State::Running { listening: true },
                Forward::Compressed { run, codec, length },
            ) => Effect::PlaceCompressed(Compressed { run: self.known(run)?, codec, length }),
            (
                State::Listening | State::Loaded { listening: true } | State::Running { listening: true },
                Forward::Zeros(runs),
            ) => Effect::PlaceZeros(self.all_known(runs)?),
            (State::Loaded { listening }, Forward::HandOver { running }) => {
                self.state = State::Starting { listening: *listening };
                Effect::Run { running }
            }
            (State::Running { .. }, Forward::Complete) => {
                self.state = State::Finishing;
                if self.all_received() { Effect::Finish } else { Effect::AwaitPages }
            }
            // The source asks once more.
            (State::Completed { told: false, .. }, Forward::Complete) => Effect::Finish,
            (State::Completed { told: false, cleared }, Forward::Goodbye) => {
                self.state = State::Completed { told: true, cleared: *cleared };
                Effect::None
            }
            (State::NeverRan { .. }, Forward::Cancel(_)) => {
                self.give_up();
                Effect::None
            }
            // Too late: it was on its way when this side gave up.
            (State::NeverRan { .. }, Forward::HandOver { .. } | Forward::Complete) => Effect::None,
            (State::Configuration | State::Ram | State::Precopy, Forward::Description(_)) => Effect::None,
            (_, Forward::Cancel(why)) if !self.owns_guest() => return Err(MigrationError::Cancelled(why)),
            (_, message) => return Err(MigrationError::OutOfOrder(crate::wire::tag::name(message.tag()))),
        };
        Ok(effect)
    }

    fn start_multifd(&mut self, stretch: MultifdEpoch) -> Effect {
        self.spread = true;
        Effect::MultifdStart(stretch)
    }

    fn load(&mut self, listening: bool, sections: Vec<Section>) -> Effect {
        self.state = State::Loading { listening };
        Effect::Load(sections)
    }

    /// The configuration fits.
    pub fn checked(&mut self) {
        if matches!(self.state, State::Configuration) {
            self.state = State::Ram;
        }
    }

    /// The state is loaded.
    pub fn loaded(&mut self) {
        if let State::Loading { listening } = self.state {
            self.state = State::Loaded { listening };
        }
    }

    /// The guest runs here. Until then a failure means that it never did, and the source is told
    /// so.
    pub fn started(&mut self) {
        if let State::Starting { listening } = self.state {
            self.state = State::Running { listening };
        }
    }

    /// Whether the source said that it sent everything, and everything is here. True once.
    pub fn all_received(&mut self) -> bool {
        let all = matches!(self.state, State::Finishing) && self.tracker.missing() == 0;
        if all {
            self.state = State::Completed { told: false, cleared: false };
        }
        all
    }

    /// Every page is here, so that what waited for them can be cleared away. True once.
    pub fn take_completion(&mut self) -> bool {
        match &mut self.state {
            State::Completed { cleared, .. } => !std::mem::replace(cleared, true),
            _ => false,
        }
    }

    /// Something broke. Until this side has said that it is ready that is the end here: the source
    /// has the guest. From then on the source may have handed it over: a guest that was not started
    /// is given up for good, and the source told so when it asks. A guest that runs here is kept,
    /// and the rest of it awaited. Returns whether the guest is still this side's.
    pub fn fail(&mut self, error: MigrationError) -> bool {
        self.spread = false;
        if let State::Completed { .. } = self.state {
            return true;
        }
        if self.owns_guest() && self.tracker.missing() == 0 {
            // Nothing is left that the source could give: the guest is whole here, whether the
            // source knows it or not.
            self.state = State::Completed { told: false, cleared: false };
            return true;
        }
        let listening = match &mut self.state {
            State::Running { listening } | State::Recovering { listening } => *listening,
            State::Finishing => true,
            State::LinkLost { .. } => return true,
            State::NeverRan { linked, .. } => {
                *linked = false;
                return false;
            }
            State::Failed(_) => return false,
            // A source that cancels has not handed over, and one that does not exist any more never
            // asks.
            State::Loaded { .. } | State::Starting { .. } if !matches!(error, MigrationError::Cancelled(_)) => {
                self.state = State::NeverRan { error, linked: false };
                return false;
            }
            _ => {
                self.state = State::Failed(error);
                return false;
            }
        };
        self.state = State::LinkLost { listening, error };
        true
    }

    /// The source was told on the link that still stands that the guest never ran here: its word is
    /// awaited.
    pub fn said_never(&mut self) {
        if let State::NeverRan { linked, .. } = &mut self.state {
            *linked = true;
        }
    }

    /// Nobody has to hear of it any more that the guest never ran here.
    fn give_up(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Configuration) {
            State::NeverRan { error, .. } => State::Failed(error),
            other => other,
        };
    }

    /// Why it failed or lost its link, if it did.
    pub fn error(&self) -> Option<&MigrationError> {
        match &self.state {
            State::LinkLost { error, .. } | State::NeverRan { error, .. } | State::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// A new link to the same source stands, and what it is to be told first. `None` if none was
    /// lost.
    pub fn recover(&mut self) -> Option<GuestPlace> {
        match &mut self.state {
            State::LinkLost { listening, .. } => {
                self.state = State::Recovering { listening: *listening };
                Some(GuestPlace::Here)
            }
            State::Completed { told: false, .. } => Some(GuestPlace::Here),
            State::NeverRan { error, linked } => {
                *linked = true;
                Some(GuestPlace::Never(sentence(error)))
            }
            _ => None,
        }
    }

    /// The source was told what is here.
    pub fn recovered(&mut self) {
        if let State::Recovering { listening } = self.state {
            self.state = State::Running { listening };
        }
    }

    fn known(&self, run: PageRun) -> Result<PageRun, MigrationError> {
        if self.tracker.holds(run) { Ok(run) } else { Err(MigrationError::NoSuchPages(run.to_string())) }
    }

    fn all_known(&self, runs: Vec<PageRun>) -> Result<Vec<PageRun>, MigrationError> {
        runs.iter().try_for_each(|run| self.known(*run).map(drop))?;
        Ok(runs)
    }
}

fn compare_ram(page_size: u32, theirs: &[BlockDescription], ours: &[RamBlock]) -> Result<(), MigrationError> {
    let differs = |what: String| Err(MigrationError::RamDiffers(what));
    if page_size as usize != PAGE_SIZE {
        return differs(format!("pages of {page_size} bytes on the source, {PAGE_SIZE} here"));
    }
    if theirs.len() != ours.len() {
        return differs(format!("{} blocks on the source, {} here", theirs.len(), ours.len()));
    }
    for (their, our) in theirs.iter().zip(ours) {
        if their.name != our.name() || their.pages != our.pages() || their.guest_address != our.guest_address() {
            return differs(format!(
                "block {} with {} pages at {:#x} on the source, block {} with {} pages at {:#x} here",
                their.name,
                their.pages,
                their.guest_address,
                our.name(),
                our.pages(),
                our.guest_address(),
            ));
        }
    }
    Ok(())
}
