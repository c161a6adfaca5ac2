//! Another guest, most often an earlier state of this one, takes this one's place.

use whimbrel_postcopy::guest::{DestinationGuest, Section};
use whimbrel_postcopy::stream::Outline;

use super::{Machine, MachineError, MachineEvent, RunState};
use crate::kvm::RamMode;

impl Machine {
    /// Whether what a stream holds can run here, as far as that can be told without loading it.
    /// Changes nothing.
    pub fn check_outline(&self, outline: &Outline) -> Result<(), MachineError> {
        let refuse = |why: String| Err(MachineError::Refused(why));
        if let Err(error) = self.check_configuration(&outline.configuration) {
            return refuse(error.to_string());
        }
        let ours = self.ram.blocks().iter().map(|block| (block.name(), block.guest_address(), block.pages()));
        let theirs = outline.blocks.iter().map(|block| (block.name.as_str(), block.guest_address, block.pages));
        if !ours.eq(theirs) {
            return refuse("it is of a machine with other RAM".to_owned());
        }
        Ok(self.check_state(&outline.state)?)
    }

    /// Writable disks have what was written since, which no snapshot of RAM brings back.
    pub fn check_disks(&self) -> Result<(), MachineError> {
        match self.disks().iter().position(|disk| !disk.config.read_only) {
            None => Ok(()),
            Some(disk) => Err(MachineError::Refused(format!(
                "Device 'disk{disk}' is writable but does not support snapshots: what the guest writes to it is not brought back \
                 with its memory; give it read-only, or stop the guest, copy the image, and save with 'migrate file:PATH'"
            ))),
        }
    }

    /// Ends what runs here and gives its memory up: the machine waits for a guest, which will run
    /// if this one did.
    pub fn reset_for_load(&self) -> Result<(), MachineError> {
        self.command(|operation| {
            let before = self.run_state();
            match before {
                RunState::Running => {
                    self.freeze(operation)?;
                    // Unless the guest ended at that moment.
                    if self.run_state() != RunState::Running {
                        return Err(MachineError::Refused("the guest has just ended".to_owned()));
                    }
                }
                RunState::Paused | RunState::Prelaunch | RunState::InternalError => {}
                state => {
                    let why = format!("no snapshot can be loaded while the machine is {}", state.name());
                    return Err(MachineError::Refused(why));
                }
            }
            self.become_state(RunState::Inmigrate)?;
            if before == RunState::Running {
                operation.tell(MachineEvent::Stop);
            }
            operation.runs_again = Some(before == RunState::Running);
            self.devices.iter().for_each(|device| device.reset());
            self.ram.set_mode(RamMode::Arriving);
            self.ram.clear().map_err(|error| MachineError::Refused(format!("its memory cannot be given up: {error}")))
        })
    }

    /// The guest that was to take the place did not: there is none.
    pub fn stays_vacant(&self) {
        self.operate(|operation| {
            operation.runs_again = None;
            self.ram.set_mode(RamMode::Normal);
            if self.run_state() == RunState::Inmigrate
                && let Err(error) = self.become_state(RunState::InternalError)
            {
                log::error!("{error}");
            }
        });
    }

    /// A guest was to arrive and did not: the machine is as it was before it came, and waits for
    /// another. Nothing of the first is left in RAM or devices, and no disk is held. The engine's
    /// threads have ended.
    pub fn await_another(&self) -> Result<(), MachineError> {
        self.operate(|operation| {
            let state = self.run_state();
            if state != RunState::Inmigrate {
                return Err(MachineError::Refused(format!("no other guest can be waited for: it is {}", state.name())));
            }
            self.ram.leave().map_err(MachineError::Memory)?;
            self.release(operation)?;
            operation.runs_again = None;
            self.switch_on()?;
            self.ram.set_mode(RamMode::Arriving);
            self.ram.clear().map_err(MachineError::Memory)
        })
    }

    /// The guest's own clock in a saved state, in nanoseconds.
    pub fn clock_of(state: &[Section]) -> Option<u64> {
        super::saved::kvmclock(state)
    }
}
