//! [`Idle`]: no migration is under way, and none begins meanwhile. Snapshots begin with it.

use std::sync::{Arc, MutexGuard};

use whimbrel_postcopy::destination::DestinationHandle;
use whimbrel_postcopy::stream::{SaveMode, Saving};

use super::CommandRefused;
use super::active::{Active, Visible};
use super::capabilities::Capability;
use super::control::Migration;
use crate::machine::{Machine, RunState};
use crate::sync::lock;

/// The guest can be saved, or another can take its place. As long as this lives, no migration
/// begins.
pub struct Idle<'a> {
    migration: &'a Migration,
    active: MutexGuard<'a, Active>,
}

impl Migration {
    /// Refused while a migration is under way, and where there is no guest.
    pub fn idle(&self) -> Result<Idle<'_>, CommandRefused> {
        let active = lock(&self.active);
        match (&*active, self.machine.run_state()) {
            (Active::Loading(_), _) if active.is_under_way() => Err(CommandRefused::StillLoading),
            (_, RunState::Inmigrate) => Err(CommandRefused::Incoming),
            _ if active.is_under_way() => Err(CommandRefused::InProgress),
            (_, state @ (RunState::FinishMigrate | RunState::Postmigrate | RunState::Shutdown)) => {
                Err(CommandRefused::NoGuest(state))
            }
            _ => {
                self.machine.check_disks()?;
                Ok(Idle { migration: self, active })
            }
        }
    }

    /// The machine.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// Why the last job of a snapshot failed.
    pub fn snapshot_error(&self) -> Option<String> {
        lock(&self.active).any_report().and_then(|report| report.error)
    }

    /// How far the last snapshot is: bytes of RAM done, and to be done.
    pub fn snapshot_progress(&self) -> (u64, u64) {
        lock(&self.active).any_report().map_or((0, 0), |it| (it.ram.total - it.ram.remaining, it.ram.total))
    }

    /// Ends the loading of a snapshot of which no guest came.
    pub fn abandon_loading(&self) {
        let mut active = lock(&self.active);
        if let Active::Loading(handle) = &mut *active {
            handle.abandon();
            *active = Active::None;
        }
    }
}

impl Idle<'_> {
    /// How a snapshot is saved: in the background if that capability is on.
    pub fn save_mode(&self) -> Result<SaveMode, CommandRefused> {
        Ok(match lock(&self.migration.settings).capabilities.get(Capability::BackgroundSnapshot) {
            true => SaveMode::Background { uffd: self.migration.watch_writes()?, bandwidth: 0 },
            false => SaveMode::Paused,
        })
    }

    /// See `Active::disown_source`.
    pub fn disown_source(&mut self) {
        self.active.disown_source();
    }

    /// A snapshot is being saved from here on.
    pub fn saving(mut self, saving: Saving) {
        *self.active = Active::Saving(saving, Visible::No);
    }

    /// A snapshot is being loaded from here on.
    pub fn loading(mut self, handle: DestinationHandle) {
        *self.active = Active::Loading(handle);
    }
}
