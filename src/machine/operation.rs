//! [`Operation`]: what one operation on the machine leaves to the next.

use super::{MachineEvent, RunState};

/// Whether this machine has what only one host may have, such as the locks on its disks' images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ownership {
    /// It has.
    Held,
    /// Another host has or may have it; the guest cannot run here.
    Released,
}

/// Where a guest is that a migration took from here, in state `postmigrate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Another process has it and runs it, or may.
    ForAnotherHost,
    /// In a file, or wherever else it was written to; it stands still here.
    WrittenDown,
}

/// What an operation carries from one to the next.
pub(super) struct Operation {
    /// How the machine stood before a migration stopped it.
    pub before_migration: Option<RunState>,
    /// Whether a guest that takes this one's place is to run, whatever it did when it was saved.
    pub runs_again: Option<bool>,
    /// See [`Ownership`].
    pub ownership: Ownership,
    /// See [`Left`].
    pub guest: Left,
    /// That a reset waits for a vCPU or a device was said.
    pub waits: bool,
    pub events: Vec<MachineEvent>,
}

impl Operation {
    pub(super) const fn new(ownership: Ownership) -> Self {
        let guest = Left::ForAnotherHost;
        Self { before_migration: None, runs_again: None, ownership, guest, waits: false, events: Vec::new() }
    }

    pub(super) fn tell(&mut self, event: MachineEvent) {
        self.events.push(event);
    }
}
