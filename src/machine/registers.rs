//! Looking at the vCPUs' registers.

use super::{Machine, MachineError, RunState};
use crate::vcpu::dump;

impl Machine {
    /// Every vCPU's registers as text. A guest that runs is stopped for that moment and does not
    /// learn of it.
    pub fn registers(&self) -> Result<Vec<String>, MachineError> {
        let mut texts = Vec::new();
        self.command(|operation| {
            let running = self.run_state() == RunState::Running;
            if running {
                self.freeze(operation)?;
            }
            texts.extend(self.vcpus.iter().map(|vcpu| match vcpu.try_lock() {
                Some(handle) => dump::registers(&handle),
                None => "(in use)\n".to_owned(),
            }));
            // Unless the guest ended at that moment.
            if running && self.run_state() == RunState::Running {
                self.thaw();
            }
            Ok(())
        })?;
        Ok(texts)
    }
}
