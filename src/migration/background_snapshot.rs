//! Guests that stay, or come back: `migrate` with capability background-snapshot, and what
//! snapshots ask of the migration engine.

use std::sync::Arc;

use whimbrel_postcopy::destination::{self, Options};
use whimbrel_postcopy::memory::Backing;
use whimbrel_postcopy::progress::Observer;
use whimbrel_postcopy::stream::{Outline, Paging, SaveMode, Sink, save};
use whimbrel_postcopy::uffd::{Uffd, UffdError};
use whimbrel_postcopy::wire::Features;

use super::CommandRefused;
use super::active::{Active, Side, Visible};
use super::capabilities::Capability;
use super::control::Migration;
use super::uri::Stream;
use crate::machine::RunState;
use crate::sync::lock;

impl Migration {
    /// Whether guest RAM can be watched for writes.
    pub(super) fn can_watch_writes(&self) -> Result<(), CommandRefused> {
        self.watch_writes().map(drop)
    }

    fn watch_writes(&self) -> Result<Uffd, CommandRefused> {
        let uffd = Uffd::open_for_writes().map_err(CommandRefused::NoBackground)?;
        match self.machine.guest_ram().blocks().iter().find(|block| block.backing() == Backing::Shared) {
            Some(block) => Err(CommandRefused::NoBackground(UffdError::SharedMemory(block.name().to_owned()))),
            None => Ok(uffd),
        }
    }

    /// `migrate` of a guest that runs on here meanwhile and afterwards.
    pub(super) fn migrate_in_background(&self, active: &mut Active, stream: &Stream) -> Result<(), CommandRefused> {
        // What it writes to a disk after the moment that is saved would be on the disk.
        self.machine.check_disks()?;
        let bandwidth = lock(&self.settings).parameters.max_bandwidth;
        let way = SaveMode::Background { uffd: self.watch_writes()?, bandwidth };
        let sink = self.streams.sink(stream)?;
        active.disown_source();
        let saving =
            save(self.machine.clone(), sink, way, self.observer(Side::Source)).map_err(CommandRefused::Resource)?;
        *active = Active::Saving(saving, Visible::Yes);
        Ok(())
    }

    /// Whether the guest can be saved, or another take its place, at this moment; changes nothing.
    pub fn check_idle(&self) -> Result<(), CommandRefused> {
        self.check_active(&lock(&self.active))
    }

    fn check_active(&self, active: &Active) -> Result<(), CommandRefused> {
        match (active, self.machine.run_state()) {
            (Active::Loading(_), _) if active.is_under_way() => Err(CommandRefused::StillLoading),
            (_, RunState::Inmigrate) => Err(CommandRefused::Incoming),
            _ if active.is_under_way() => Err(CommandRefused::InProgress),
            (_, state @ (RunState::FinishMigrate | RunState::Postmigrate | RunState::Shutdown)) => {
                Err(CommandRefused::NoGuest(state))
            }
            _ => Ok(self.machine.check_disks()?),
        }
    }

    /// Begins to write a snapshot, in the background if that capability is on. The end comes by
    /// `observer`.
    pub fn save_snapshot(&self, sink: Box<dyn Sink>, observer: Arc<dyn Observer>) -> Result<(), CommandRefused> {
        let mut active = lock(&self.active);
        self.check_active(&active)?;
        if self.machine.run_state() == RunState::InternalError {
            return Err(CommandRefused::NoGuest(RunState::InternalError));
        }
        let way = match lock(&self.settings).capabilities.get(Capability::BackgroundSnapshot) {
            true => SaveMode::Background { uffd: self.watch_writes()?, bandwidth: 0 },
            false => SaveMode::Paused,
        };
        active.disown_source();
        let saving = save(self.machine.clone(), sink, way, observer).map_err(CommandRefused::Resource)?;
        *active = Active::Saving(saving, Visible::No);
        Ok(())
    }

    /// Whether what a file holds can run here, as far as that is to be seen without loading it.
    pub fn check_snapshot(&self, outline: &Outline) -> Result<(), CommandRefused> {
        Ok(self.machine.check_outline(outline)?)
    }

    /// Has the guest of a file take this one's place. Until the file has been looked through
    /// nothing is changed. Whether the guest runs, or why not, comes by `observer`.
    pub fn load_snapshot(&self, paging: Paging, observer: Arc<dyn Observer>) -> Result<(), CommandRefused> {
        let mut active = lock(&self.active);
        self.check_active(&active)?;
        self.machine.check_outline(&paging.outline())?;
        // Without it the guest could not be given its pages.
        Uffd::open().map_err(CommandRefused::NoDemand)?;
        active.disown_source();
        self.machine.reset_for_load()?;
        let options = Options { features: Features::POSTCOPY, listen_again: None };
        match destination::start_with(self.machine.clone(), Box::new(paging), observer, options) {
            Ok(handle) => {
                *active = Active::Loading(handle);
                Ok(())
            }
            Err(error) => {
                self.machine.stays_vacant();
                Err(CommandRefused::Resource(error))
            }
        }
    }

    /// Why the last snapshot could not be saved or loaded.
    pub fn snapshot_error(&self) -> Option<String> {
        lock(&self.active).any_report().and_then(|report| report.error)
    }

    /// How far the last snapshot is: bytes of RAM done, and to be done.
    pub fn snapshot_progress(&self) -> (u64, u64) {
        lock(&self.active).any_report().map_or((0, 0), |it| (it.ram.total - it.ram.remaining, it.ram.total))
    }

    /// No guest came of a snapshot that was to take this one's place.
    pub fn load_failed(&self) {
        let mut active = lock(&self.active);
        if let Active::Loading(handle) = &mut *active {
            handle.abandon();
            *active = Active::None;
        }
        drop(active);
        self.machine.stays_vacant();
    }
}
