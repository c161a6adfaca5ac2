//! The virtio devices: which are there, where they are, and how they stand still and go on
//! together.
//!
//! A device's place is its slot, counted from 0: disks first, then network cards, console, entropy,
//! balloon. A guest finds them by the ACPI tables; a migration's two ends have the same device in
//! each slot.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::event::Listener;
use super::{MachineError, MachineEvent};
use crate::block::{DiskInfo, Image, Status};
use crate::boot::acpi::VirtioSlot;
use crate::chardev::{CharBackend, CharDeviceError};
use crate::config::{CharDevice, DeviceConfig};
use crate::devices::virtio::{
    Backend, Balloon, BalloonLevel, Block, Console, Inbox, Net, Rng, VirtioDevice, VirtioError,
};
use crate::devices::{Bus, SavedDevice};
use crate::kvm::{GuestRam, Vm};
use crate::net::{Interface, Tap};

/// Guest-physical address of slot 0's registers; the others follow. Inside the hole below 4 GiB.
const FIRST: u32 = 0xd000_0000;
/// Each slot's interrupt line: those of the I/O APIC that no ISA device knows first, then ISA lines
/// that are free here. An edge cannot be shared, so there are as many devices as lines.
const LINES: [u32; 16] = [16, 17, 18, 19, 20, 21, 22, 23, 5, 6, 7, 10, 11, 12, 14, 15];

fn slot(number: usize) -> Option<VirtioSlot> {
    let address = FIRST + number as u32 * VirtioSlot::BYTES;
    LINES.get(number).map(|gsi| VirtioSlot { address, gsi: *gsi })
}

/// A network card and its tap.
pub(super) type Card = (Arc<Interface>, Tap);

/// See the module's text.
pub(super) struct Peripherals {
    devices: Vec<Arc<VirtioDevice>>,
    disks: Vec<Arc<Status>>,
    console: Option<ConsoleEnd>,
    balloon: Option<Arc<BalloonLevel>>,
}

/// The console's other end, outside of the machine.
struct ConsoleEnd {
    chardev: CharBackend,
    inbox: Arc<Inbox>,
}

impl Peripherals {
    /// The devices that `config` names, and the network cards, standing still. Nothing that only
    /// one host may have is taken yet. `events` is told what the guest does by them.
    pub fn build(
        config: &DeviceConfig,
        cards: Vec<Card>,
        vm: &Vm,
        ram: &Arc<GuestRam>,
        events: &Listener,
    ) -> Result<Self, MachineError> {
        let mut backends: Vec<Box<dyn Backend>> = Vec::new();
        let mut disks = Vec::with_capacity(config.disks.len());
        for disk in &config.disks {
            let image = Image::new(disk)?;
            disks.push(image.status());
            backends.push(Box::new(Block::new(image)));
        }
        for (interface, tap) in cards {
            backends.push(Box::new(Net::new(tap, interface).map_err(VirtioError::Host)?));
        }
        let console = config.console.as_ref().map(console).transpose()?.map(|(backend, end)| {
            backends.push(Box::new(backend));
            end
        });
        if config.rng {
            backends.push(Box::new(Rng::default()));
        }
        let balloon = config.balloon.then(|| {
            let events = events.clone();
            let balloon = Balloon::new(ram.clone(), Box::new(move || events(MachineEvent::BalloonChange)));
            let level = balloon.level();
            backends.push(Box::new(balloon));
            level
        });
        if backends.len() > LINES.len() {
            return Err(MachineError::TooManyDevices { given: backends.len(), most: LINES.len() });
        }
        let mut devices = Vec::with_capacity(backends.len());
        for (number, backend) in backends.into_iter().enumerate() {
            if let Some(VirtioSlot { address, gsi }) = slot(number) {
                devices.push(VirtioDevice::new(backend, number as u32, (address.into(), gsi), vm, ram)?);
            }
        }
        Ok(Self { devices, disks, console, balloon })
    }

    /// The balloon, if there is one.
    pub fn balloon(&self) -> Option<&BalloonLevel> {
        self.balloon.as_deref()
    }

    /// Where they are, in the order of slots.
    pub fn slots(&self) -> Vec<VirtioSlot> {
        (0..self.devices.len()).filter_map(slot).collect()
    }

    /// The disks' images, in the order of the command line.
    pub fn disks(&self) -> Vec<DiskInfo> {
        self.disks.iter().map(|disk| disk.info()).collect()
    }

    /// Has the host bring what was written to the disks onto its own, so that a flush soon after
    /// has little to do.
    pub fn hasten(&self) {
        for disk in &self.disks {
            if let Err(error) = disk.hasten() {
                // Whoever needs it done flushes, and is told.
                log::debug!("'{}': {error}", disk.info().config.path.display());
            }
        }
    }

    /// Puts them on the bus.
    pub fn plug(&self, bus: &mut Bus) {
        for (slot, device) in self.slots().iter().zip(&self.devices) {
            let first = u64::from(slot.address);
            bus.claim_memory(first..first + u64::from(VirtioSlot::BYTES), device.clone());
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

    /// Lets input come from outside. Once.
    pub fn listen(&self) -> Result<(), CharDeviceError> {
        let Some(end) = &self.console else {
            return Ok(());
        };
        let inbox = end.inbox.clone();
        end.chardev.start(Box::new(move |bytes| inbox.receive(bytes)))
    }

    /// Closes what leads outside, and gives a terminal its settings back. Idempotent.
    pub fn close(&self) {
        if let Some(end) = &self.console {
            end.chardev.close();
        }
    }

    /// Has them finish what they are at; whether all stand still within `limit`. The vCPUs stand
    /// still already.
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

/// A console and its other end.
fn console(place: &CharDevice) -> Result<(Console, ConsoleEnd), MachineError> {
    let chardev = CharBackend::open(place, "console0")?;
    let waker = chardev.waker();
    let console =
        Console::new(Box::new(chardev.output()), Box::new(move || waker.wake())).map_err(VirtioError::Host)?;
    let inbox = console.inbox();
    Ok((console, ConsoleEnd { chardev, inbox }))
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
