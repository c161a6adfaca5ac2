//! `migrate` with capability background-snapshot: the guest runs on here while it is written.

use whimbrel_postcopy::memory::Backing;
use whimbrel_postcopy::stream::{SaveMode, save};
use whimbrel_postcopy::uffd::{Uffd, UffdError};

use super::CommandRefused;
use super::active::{Active, Side, Visible};
use super::control::Migration;
use super::uri::Stream;
use crate::sync::lock;

impl Migration {
    /// Whether guest RAM can be watched for writes.
    pub(super) fn can_watch_writes(&self) -> Result<(), CommandRefused> {
        self.watch_writes().map(drop)
    }

    /// A userfaultfd that can watch all of guest RAM for writes.
    pub(super) fn watch_writes(&self) -> Result<Uffd, CommandRefused> {
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
        let mode = SaveMode::Background { uffd: self.watch_writes()?, bandwidth };
        let sink = self.streams.sink(stream)?;
        active.disown_source();
        let saving =
            save(self.machine.clone(), sink, mode, self.observer(Side::Source)).map_err(CommandRefused::Resource)?;
        *active = Active::Saving(saving, Visible::Yes);
        Ok(())
    }
}
