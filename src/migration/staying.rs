//! Guests that stay, or come back: `migrate` with capability background-snapshot, and what
//! snapshots ask of the migration engine.

use std::sync::Arc;

use whimbrel_postcopy::destination::{self, Options};
use whimbrel_postcopy::memory::Backing;
use whimbrel_postcopy::progress::Observer;
use whimbrel_postcopy::stream::{Outline, Paging, Sink, Way, save};
use whimbrel_postcopy::uffd::{Uffd, UffdError};
use whimbrel_postcopy::wire::Features;

use super::MigrationError;
use super::capabilities::Capability;
use super::job::{Job, Migration, Side, Visible, lock};
use super::uri::Stream;
use crate::machine::RunState;

impl Migration {
    /// Whether guest RAM can be watched for writes.
    pub(super) fn can_watch_writes(&self) -> Result<(), MigrationError> {
        self.watch_writes().map(drop)
    }

    fn watch_writes(&self) -> Result<Uffd, MigrationError> {
        let uffd = Uffd::open_for_writes().map_err(MigrationError::NoBackground)?;
        match self.machine.guest_ram().blocks().iter().find(|block| block.backing() == Backing::Shared) {
            Some(block) => Err(MigrationError::NoBackground(UffdError::SharedMemory(block.name().to_owned()))),
            None => Ok(uffd),
        }
    }

    /// `migrate` of a guest that runs on here meanwhile and afterwards.
    pub(super) fn stay(&self, job: &mut Job, stream: &Stream) -> Result<(), MigrationError> {
        // What it writes to a disk after the moment that is saved would be on the disk.
        self.machine.check_disks()?;
        let bandwidth = lock(&self.settings).parameters.max_bandwidth;
        let way = Way::Background { uffd: self.watch_writes()?, bandwidth };
        let sink = self.streams.sink(stream)?;
        if let Job::Arriving(handle) = job {
            // It has been here for long: whoever it came from has nothing more to hear.
            handle.abandon();
        }
        let saving =
            save(self.machine.clone(), sink, way, self.observer(Side::Source)).map_err(MigrationError::Resource)?;
        *job = Job::Staying(saving, Visible::Yes);
        Ok(())
    }

    /// Whether the guest can be saved, or another take its place, at this moment; changes nothing.
    pub fn check_idle(&self) -> Result<(), MigrationError> {
        self.check_job(&lock(&self.job))
    }

    fn check_job(&self, job: &Job) -> Result<(), MigrationError> {
        match (job, self.machine.run_state()) {
            (Job::Returning(_), _) if job.is_under_way() => Err(MigrationError::StillLoading),
            (_, RunState::Inmigrate) => Err(MigrationError::Incoming),
            _ if job.is_under_way() => Err(MigrationError::InProgress),
            (_, state @ (RunState::FinishMigrate | RunState::Postmigrate | RunState::Shutdown)) => {
                Err(MigrationError::NoGuest(state))
            }
            _ => Ok(self.machine.check_disks()?),
        }
    }

    /// Begins to write a snapshot, in the background if that capability is on. The end comes by
    /// `observer`.
    pub fn save_snapshot(&self, sink: Box<dyn Sink>, observer: Arc<dyn Observer>) -> Result<(), MigrationError> {
        let mut job = lock(&self.job);
        self.check_job(&job)?;
        if self.machine.run_state() == RunState::InternalError {
            return Err(MigrationError::NoGuest(RunState::InternalError));
        }
        let way = match lock(&self.settings).capabilities.get(Capability::BackgroundSnapshot) {
            true => Way::Background { uffd: self.watch_writes()?, bandwidth: 0 },
            false => Way::Paused,
        };
        if let Job::Arriving(handle) = &mut *job {
            handle.abandon();
        }
        let saving = save(self.machine.clone(), sink, way, observer).map_err(MigrationError::Resource)?;
        *job = Job::Staying(saving, Visible::No);
        Ok(())
    }

    /// Whether what a file holds can run here, as far as that is to be seen without loading it.
    pub fn check_snapshot(&self, outline: &Outline) -> Result<(), MigrationError> {
        Ok(self.machine.check_outline(outline)?)
    }

    /// Has the guest of a file take this one's place. Until the file has been looked through
    /// nothing is changed. Whether the guest runs, or why not, comes by `observer`.
    pub fn load_snapshot(&self, paging: Paging, observer: Arc<dyn Observer>) -> Result<(), MigrationError> {
        let mut job = lock(&self.job);
        self.check_job(&job)?;
        self.machine.check_outline(&paging.outline())?;
        // Without it the guest could not be given its pages.
        Uffd::open().map_err(MigrationError::NoDemand)?;
        if let Job::Arriving(handle) = &mut *job {
            handle.abandon();
        }
        self.machine.vacate()?;
        let options = Options { features: Features::POSTCOPY, listen_again: None };
        match destination::start_with(self.machine.clone(), Box::new(paging), observer, options) {
            Ok(handle) => {
                *job = Job::Returning(handle);
                Ok(())
            }
            Err(error) => {
                self.machine.stays_vacant();
                Err(MigrationError::Resource(error))
            }
        }
    }

    /// Why the last snapshot could not be saved or loaded.
    pub fn snapshot_error(&self) -> Option<String> {
        lock(&self.job).any_report().and_then(|report| report.error)
    }

    /// How far the last snapshot is: bytes of RAM done, and to be done.
    pub fn snapshot_progress(&self) -> (u64, u64) {
        lock(&self.job).any_report().map_or((0, 0), |it| (it.ram.total - it.ram.remaining, it.ram.total))
    }

    /// No guest came of a snapshot that was to take this one's place.
    pub fn load_failed(&self) {
        let mut job = lock(&self.job);
        if let Job::Returning(handle) = &mut *job {
            handle.abandon();
            *job = Job::None;
        }
        drop(job);
        self.machine.stays_vacant();
    }
}
