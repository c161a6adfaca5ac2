//! What the source's state machine and its driver say to each other.

use std::time::Duration;

use crate::error::MigrationError;
use crate::guest::PausedGuest;
use crate::ram::PageRun;
use crate::wire::{Forward, Fragment};

/// What the driver is to do. After the actions with an answer it calls the method named there
/// before it asks on.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a message without page contents.
    Send(Forward),
    /// Send a run's contents as they are now (zero pages as zeros), then call
    /// [`super::Source::sent`].
    SendRun(PageRun),
    /// Hand RAM itself over, as [`crate::guest::SourceGuest::shared_ram`] gives it.
    ShareRam,
    /// Begin logging writes.
    StartLog,
    /// End logging writes.
    StopLog,
    /// Read the log into the pending pages, then call [`super::Source::synced`].
    Sync,
    /// The same, with what was read re-armed at once, so that it counts anew; then call
    /// [`super::Source::measured`].
    Measure,
    /// Re-arm the log for the pending pages of this run.
    ClearLog(PageRun),
    /// From now on runs go on the multifd channels; say so before them.
    MultifdStart,
    /// No more do: say so on every channel, behind all of them.
    MultifdFlush,
    /// Answer page requests from now on.
    ServeDemand,
    /// The destination has these pages: the host gets them back.
    Release(Fragment),
    /// Stop the vCPUs, then call [`super::Source::paused`].
    Pause,
    /// Take CPU and device state, then call [`super::Source::saved`].
    Save,
    /// Resume the guest: it stays here.
    Resume(PausedGuest),
    /// Call [`super::Source::try_hand_over`]; then everything said so far must be on its way.
    HandOver,
    /// The destination has everything: tell the guest.
    HandedOver,
    /// Put everything on its way and wait for a reply, a command, or this moment.
    Wait(Option<Duration>),
    /// It is over.
    End,
}

/// How a migration ends on the source.
#[derive(Debug)]
pub enum Outcome {
    /// The destination has every page.
    Completed,
    /// The guest stays here.
    Failed(MigrationError),
    /// The guest stays here because the user wanted it to.
    Cancelled,
}

/// What the source tells about itself; see [`crate::stats::RamReport`] for the units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Passes begun.
    pub passes: u32,
    /// Times the log was read.
    pub syncs: u64,
    /// Pages dirtied per second during the last pass.
    pub dirty_rate: u64,
    /// Time the switch would take now.
    pub expected_downtime: Option<Duration>,
}

/// When pages go on the multifd channels: where so many are pending. `None`: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MultifdThresholds {
    /// In precopy.
    pub precopy: Option<u64>,
    /// In the background of a postcopy.
    pub postcopy: Option<u64>,
}
