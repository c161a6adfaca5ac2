//! The bus: which device answers at which port or address.
//!
//! Built once, then shared by all vCPU threads without a lock. What nobody claims reads as all
//! ones, as on a PC, and swallows what is written.

use std::ops::Range;
use std::sync::Arc;

/// What an access asks of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// A reset.
    Reset,
    /// Power off.
    PowerOff,
    /// The end of the process, with this exit code.
    Exit(u8),
}

/// A device behind ports or memory addresses.
pub trait Device: Send + Sync {
    /// Fills `data` with what stands at `offset` from the device's first port or address.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Takes what was written at `offset`.
    fn write(&self, offset: u64, data: &[u8]) -> Action;
}

#[derive(Default)]
struct Space(Vec<(Range<u64>, Arc<dyn Device>)>);

impl Space {
    fn find(&self, address: u64) -> Option<(u64, &dyn Device)> {
        self.0
            .iter()
            .find(|(range, _)| range.contains(&address))
            .map(|(range, device)| (address - range.start, device.as_ref()))
    }

    fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((offset, device)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, address: u64, data: &[u8]) -> Action {
        self.find(address).map_or(Action::None, |(offset, device)| device.write(offset, data))
    }
}

/// See the module's text.
#[derive(Default)]
pub struct Bus {
    ports: Space,
    memory: Space,
}

impl Bus {
    /// Puts a device at `ports`. Where ranges overlap, the first device answers.
    pub fn claim_ports(&mut self, ports: Range<u16>, device: Arc<dyn Device>) {
        let range = u64::from(ports.start)..u64::from(ports.end);
        self.ports.0.push((range, device));
    }

    /// Puts a device at guest-physical `addresses`. Where ranges overlap, the first device answers.
    pub fn claim_memory(&mut self, addresses: Range<u64>, device: Arc<dyn Device>) {
        self.memory.0.push((addresses, device));
    }

    /// One read from a port.
    pub fn read_port(&self, port: u16, data: &mut [u8]) {
        self.ports.read(port.into(), data);
    }

    /// One write to a port.
    pub fn write_port(&self, port: u16, data: &[u8]) -> Action {
        self.ports.write(port.into(), data)
    }

    /// One read from a guest-physical address.
    pub fn read_memory(&self, address: u64, data: &mut [u8]) {
        self.memory.read(address, data);
    }

    /// One write to a guest-physical address.
    pub fn write_memory(&self, address: u64, data: &[u8]) -> Action {
        self.memory.write(address, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;
    impl Device for Echo {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&self, offset: u64, data: &[u8]) -> Action {
            Action::Exit(offset as u8 + data[0])
        }
    }

    #[test]
    fn ranges_lead_to_their_device_and_the_rest_is_all_ones() {
        let mut bus = Bus::default();
        bus.claim_ports(0x100..0x108, Arc::new(Echo));
        bus.claim_memory(0xd000_0000..0xd000_1000, Arc::new(Echo));
        let mut data = [0; 2];
        bus.read_port(0x107, &mut data);
        assert_eq!(data, [7, 7]);
        bus.read_port(0x108, &mut data);
        assert_eq!(data, [0xff, 0xff]);
        assert_eq!(bus.write_port(0x101, &[4]), Action::Exit(5));
        assert_eq!(bus.write_port(0xff, &[4]), Action::None);
        bus.read_memory(0xd000_0003, &mut data);
        assert_eq!(data, [3, 3]);
        assert_eq!(bus.write_memory(0xe000_0000, &[1]), Action::None);
    }
}
