//! What only one host may have, such as the locks on disks' images: acquired before the guest runs
//! here, released before it runs elsewhere.

use std::time::Duration;

use super::lifecycle::STOP_LIMIT;
use super::operation::{Operation, Ownership};
use super::{Machine, MachineError};
use crate::devices::SavedDevice;
use crate::sentence::sentence;

/// For how long the end of the process waits for an operation that waits for the host's disk.
const LAST_PATIENCE: Duration = Duration::from_secs(30);

impl Machine {
    /// Acquires what only one host may have. All or nothing. Nothing to do if this machine has it.
    pub(super) fn acquire(&self, operation: &mut Operation) -> Result<(), MachineError> {
        if operation.ownership == Ownership::Held {
            return Ok(());
        }
        for device in &self.devices {
            if let Err(source) = device.acquire() {
                self.release_all();
                return Err(MachineError::Device { device: name(&**device), what: "taken over", source });
            }
        }
        operation.ownership = Ownership::Held;
        Ok(())
    }

    /// Releases what only one host may have, everything in it made durable. Nothing to do if this
    /// machine has not got it. If one device fails the machine keeps it all.
    pub(super) fn release(&self, operation: &mut Operation) -> Result<(), MachineError> {
        if operation.ownership == Ownership::Released {
            return Ok(());
        }
        for device in &self.devices {
            if let Err(source) = device.release() {
                operation.ownership = Ownership::Released;
                if let Err(error) = self.acquire(operation) {
                    log::error!("what was given up already cannot be taken back: {}", sentence(&error));
                }
                return Err(MachineError::Device { device: name(&**device), what: "given up", source });
            }
        }
        operation.ownership = Ownership::Released;
        Ok(())
    }

    /// Releases what was acquired before a device refused.
    fn release_all(&self) {
        for device in &self.devices {
            if let Err(error) = device.release() {
                log::warn!("{} cannot be given up: {}", name(&**device), sentence(&*error));
            }
        }
    }

    /// Releases what only one host may have; `false` if that cannot be done because another
    /// operation lasts.
    pub(super) fn release_at_end(&self) -> bool {
        // The pages that it waits for, if any are missing, will not come any more.
        let patience = if self.ram.touch_may_wait() { STOP_LIMIT } else { LAST_PATIENCE };
        let released = self.operate_within(patience, |operation| self.release(operation));
        if let Some(Err(error)) = &released {
            log::error!("{}", sentence(error));
        }
        released.is_some()
    }
}

/// A device as messages call it.
fn name(device: &dyn SavedDevice) -> String {
    format!("{} {}", device.name(), device.instance())
}
