//! Announcing the guest to the network.

use super::{Machine, MachineError, RunState};
use crate::net::{InterfaceInfo, Network, Schedule};

impl Machine {
    /// The network cards.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// What `info network` shows.
    pub fn interfaces(&self) -> Vec<InterfaceInfo> {
        self.network.info()
    }

    /// `announce_self`: announces the guest through the cards in `interfaces`, or through all if
    /// that is empty; `id` names the announcement. Only a guest that runs here is announced:
    /// elsewhere it would be cut off by it.
    pub fn announce(&self, interfaces: &[String], id: &str, schedule: Schedule) -> Result<(), MachineError> {
        match self.run_state() {
            RunState::Running => Ok(self.network.announce(interfaces, id, schedule)?),
            state => Err(MachineError::Refused(format!(
                "the guest does not run here (the machine is {}), so its network must not be led here",
                state.name()
            ))),
        }
    }
}
