//! How the machine stands, by QEMU's names, and what may follow what.
//!
//! ```text
//!   inmigrate ----+-----> running <-----> paused        prelaunch --> running
//!                 |        |   ^            ^               ^
//!                 v        v   |            |               | reset
//!               paused   finish-migrate ----+     paused, internal-error, postmigrate
//!                             |
//!                             v
//!                        postmigrate              running --> internal-error
//! ```
//! What stands still or runs here may become `inmigrate`, for a snapshot to take its place; from
//! there `internal-error`, if that fails. `cont` after a migration that only wrote the guest down
//! leads from `postmigrate` to `running`: see `Machine::cont`. Everything but `shutdown` may become
//! `shutdown`. A migration of a stopped machine goes through `finish-migrate` too.

/// What the guest does right now, by QEMU's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Built, started with `--paused`, never ran.
    Prelaunch,
    /// Waits for a guest to arrive.
    Inmigrate,
    /// vCPUs run.
    Running,
    /// Stopped by the user.
    Paused,
    /// Stopped by a migration that ends.
    FinishMigrate,
    /// The guest went to another host, or was written down.
    Postmigrate,
    /// KVM gave up on the guest.
    InternalError,
    /// The guest powered off.
    Shutdown,
}

impl RunState {
    /// QEMU's name, as `query-status` and `info status` show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prelaunch => "prelaunch",
            Self::Inmigrate => "inmigrate",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::FinishMigrate => "finish-migrate",
            Self::Postmigrate => "postmigrate",
            Self::InternalError => "internal-error",
            Self::Shutdown => "shutdown",
        }
    }

    /// Whether the machine may go from here to `next`.
    pub(super) const fn may_become(self, next: Self) -> bool {
        use RunState::*;
        match self {
            Prelaunch => matches!(next, Running | FinishMigrate | Inmigrate | Shutdown),
            Inmigrate => matches!(next, Running | Paused | InternalError | Shutdown),
            Running => matches!(next, Paused | FinishMigrate | Inmigrate | InternalError | Shutdown),
            Paused => matches!(next, Running | FinishMigrate | Inmigrate | Prelaunch | Shutdown),
            FinishMigrate => matches!(next, Running | Paused | Prelaunch | Postmigrate | InternalError | Shutdown),
            Postmigrate => matches!(next, Prelaunch | Shutdown),
            InternalError => matches!(next, Prelaunch | Inmigrate | Shutdown),
            Shutdown => false,
        }
    }
}

#[cfg(test)]
impl RunState {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Prelaunch,
        Self::Inmigrate,
        Self::Running,
        Self::Paused,
        Self::FinishMigrate,
        Self::Postmigrate,
        Self::InternalError,
        Self::Shutdown,
    ];
}

#[cfg(test)]
mod tests {
    use super::RunState::{self, *};

    const ALL: [RunState; 8] = RunState::ALL;

    #[test]
    fn every_transition_is_as_the_table_says() {
        // Rows: from; columns: to, both in the order of ALL.
        let table = [
            ".ir.f..s", // prelaunch
            "..rp..is", // inmigrate
            ".i.pf.is", // running
            "pir.f..s", // paused
            "p.rp.pis", // finish-migrate
            "p......s", // postmigrate
            "pi.....s", // internal-error
            "........", // shutdown
        ];
        for (from, row) in ALL.iter().zip(table) {
            for (to, mark) in ALL.iter().zip(row.chars()) {
                assert_eq!(from.may_become(*to), mark != '.', "{from:?} -> {to:?}");
            }
        }
    }

    #[test]
    fn a_guest_that_left_or_died_never_runs_without_a_reset() {
        for state in [Postmigrate, InternalError, Shutdown] {
            assert!(!state.may_become(Running));
            assert!(!state.may_become(Paused));
        }
    }
}
