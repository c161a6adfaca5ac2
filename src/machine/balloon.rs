//! Asking the guest for memory.

use super::{Machine, MachineError, RunState};
use crate::devices::virtio::BalloonLevel;

impl Machine {
    /// `balloon`: asks the guest to make do with `bytes` of memory. It takes its time, and may take
    /// back what it needs.
    pub fn set_balloon(&self, bytes: u64) -> Result<(), MachineError> {
        let level = self.balloon()?;
        self.command(|_| match self.run_state() {
            RunState::FinishMigrate | RunState::Postmigrate => {
                Err(MachineError::Refused("the guest leaves or has left: ask for its memory where it runs".into()))
            }
            _ => {
                level.set_target(bytes);
                Ok(())
            }
        })
    }

    /// How many bytes of memory the guest has left of [`Self::memory_size`], as it says itself.
    pub fn balloon_actual(&self) -> Result<u64, MachineError> {
        Ok(self.balloon()?.actual())
    }

    /// The same, taking note of a [`super::MachineEvent::BalloonChange`].
    pub fn see_balloon_change(&self) -> Result<u64, MachineError> {
        Ok(self.balloon()?.see_change())
    }

    fn balloon(&self) -> Result<&BalloonLevel, MachineError> {
        self.peripherals.balloon().ok_or(MachineError::NoBalloon)
    }
}
