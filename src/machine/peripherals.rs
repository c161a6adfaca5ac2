//! The virtio devices: which are there, where they are, and how they stand still and go on together.
//!
//! A device's place is its slot, counted from 0: disks first, then network cards, console, entropy, balloon. A guest finds them by
//! the ACPI tables; a migration's two ends have the same device in each slot.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::MachineError;
use crate::boot::acpi::VirtioSlot;
use crate::config::DeviceConfig;
use crate::devices::virtio::{Backend, Net, Rng, VirtioDevice, VirtioError};
use crate::devices::{Bus, SavedDevice};
use crate::kvm::{GuestRam, Vm};
use crate::net::{Interface, Tap};

/// Guest-physical address of slot 0's registers; the others follow. Inside the hole below 4 GiB.
const FIRST: u64 = 0xd000_0000;
/// Each slot's interrupt line: those of the I/O APIC that no ISA device knows first, then ISA lines that are free here. An
/// edge cannot be shared, so there are as many devices as lines.
const LINES: [u32; 16] = [16, 17, 18, 19, 20, 21, 22, 23, 5, 6, 7, 10, 11, 12, 14, 15];

fn slot(number: usize) -> Option<VirtioSlot> {
    let address = FIRST + number as u64 * VirtioSlot::BYTES;
    LINES.get(number).map(|gsi| VirtioSlot { address, gsi: *gsi })
}

/// A network card and its tap.
pub(super) type Card = (Arc<Interface>, Tap);

/// See the module's text.
pub(super) struct Peripherals {
    devices: Vec<Arc<VirtioDevice>>,
}

impl Peripherals {
    /// The devices that `config` names, and the network cards, standing still. Nothing that only one host may have is taken yet.
    pub fn build(config: &DeviceConfig, cards: Vec<Card>, vm: &Vm, ram: &Arc<GuestRam>) -> Result<Self, MachineError> {
        let backends = backends(config, cards)?;
        if backends.len() > LINES.len() {
            return Err(MachineError::TooManyDevices { given: backends.len(), most: LINES.len() });
        }
        let mut devices = Vec::with_capacity(backends.len());
        for (number, backend) in backends.into_iter().enumerate() {
            if let Some(VirtioSlot { address, gsi }) = slot(number) {
                devices.push(VirtioDevice::new(backend, number as u32, (address, gsi), vm, ram)?);
            }
        }
        Ok(Self { devices })
    }

    /// Where they are, in the order of slots.
    pub fn slots(&self) -> Vec<VirtioSlot> {
        (0..self.devices.len()).filter_map(slot).collect()
    }

    /// Puts them on the bus.
    pub fn plug(&self, bus: &mut Bus) {
        for (slot, device) in self.slots().iter().zip(&self.devices) {
            bus.claim_memory(slot.address..slot.address + VirtioSlot::BYTES, device.clone());
        }
    }

    /// Those whose state is saved: all.
    pub fn saved(&self) -> impl Iterator<Item = Arc<dyn SavedDevice>> {
        self.devices.iter().map(|device| device.clone() as Arc<dyn SavedDevice>)
    }

    /// Starts their workers, standing still.
    pub fn spawn(&self) -> std::io::Result<Vec<JoinHandle<()>>> {
        self.devices.iter().map(VirtioDevice::spawn).collect()
    }

    /// Has them finish what they are at; whether all stand still within `limit`. The vCPUs stand still already.
    pub fn freeze(&self, limit: Duration) -> bool {
        self.devices.iter().for_each(|device| device.freeze());
        self.await_frozen(limit)
    }

    /// Whether all stand still within `limit`.
    pub fn await_frozen(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        self.devices.iter().all(|device| device.await_frozen(deadline))
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.devices.iter().for_each(|device| device.thaw());
    }

    /// Ends their workers, without waiting.
    pub fn shut(&self) {
        self.devices.iter().for_each(|device| device.shut());
    }
}

/// What `config` asks for, in the order of slots.
fn backends(config: &DeviceConfig, cards: Vec<Card>) -> Result<Vec<Box<dyn Backend>>, MachineError> {
    let mut backends: Vec<Box<dyn Backend>> = Vec::new();
    for (interface, tap) in cards {
        backends.push(Box::new(Net::new(tap, interface).map_err(VirtioError::Host)?));
    }
    if config.rng {
        backends.push(Box::new(Rng::default()));
    }
    Ok(backends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_do_not_overlap_and_end() {
        let slots: Vec<_> = (0..20).map_while(slot).collect();
        assert_eq!(slots.len(), 16);
        assert_eq!(slots[0], VirtioSlot { address: 0xd000_0000, gsi: 16 });
        assert_eq!(slots[15], VirtioSlot { address: 0xd000_f000, gsi: 15 });
        let mut lines: Vec<_> = slots.iter().map(|slot| slot.gsi).collect();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), 16);
        // Timer, serial port, clock, power management.
        assert!([0, 2, 4, 8, 9].iter().all(|used| !lines.contains(used)));
    }
}
