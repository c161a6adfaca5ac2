//! A driver for tests: it sets a device up by its registers and puts buffers into its queues, as a
//! guest would, and hostile ones as a guest should not.

#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::AsFd;
use vm_memory::{Bytes, GuestAddress};

use super::registers::offset;
use super::{Backend, VirtioDevice};
use crate::devices::Device;
use crate::kvm::{GuestMemory, GuestRam, RamRange};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;
const VERSION_1: u64 = 1 << 32;
/// Descriptors a queue.
pub const QUEUE: u16 = 16;
/// Each queue has its tables and rings in pages of its own, its buffers after them.
const PAGES: u64 = 0x10_0000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const BUFFERS: u64 = 0x1_0000;
/// RAM in bytes.
pub const RAM: u64 = 16 << 20;
/// How long a device may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// RAM for a device under test.
pub fn ram() -> Arc<GuestRam> {
    Arc::new(GuestRam::new(&[RamRange { name: "ram.low", guest_address: 0, bytes: RAM }], false).unwrap())
}

/// One descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Raw {
    pub address: u64,
    pub bytes: u32,
    pub flags: u16,
    pub next: u16,
}

/// Writes a descriptor into a table.
pub fn put_descriptor(memory: &GuestMemory, table: u64, index: u16, raw: Raw) {
    let at = GuestAddress(table + 16 * u64::from(index));
    memory.write_obj(raw.address, at).unwrap();
    memory.write_obj(raw.bytes, GuestAddress(at.0 + 8)).unwrap();
    memory.write_obj(raw.flags, GuestAddress(at.0 + 12)).unwrap();
    memory.write_obj(raw.next, GuestAddress(at.0 + 14)).unwrap();
}

/// The driver of one device, which runs with its worker.
pub struct Driver {
    pub device: Arc<VirtioDevice>,
    pub ram: Arc<GuestRam>,
    line: Arc<EventFd>,
    worker: Option<JoinHandle<()>>,
    /// Next available index and used index seen, of each queue.
    positions: Vec<(u16, u16)>,
}

impl Driver {
    /// A device whose driver has taken `features` (and version 1) and is ready.
    pub fn start(backend: Box<dyn Backend>, features: u64) -> Self {
        let mut driver = Self::present(backend, ram());
        driver.set_up(features);
        driver
    }

    /// A device that no driver has touched yet, running.
    pub fn present(backend: Box<dyn Backend>, ram: Arc<GuestRam>) -> Self {
        let driver = Self::frozen(backend, ram);
        driver.device.thaw();
        driver
    }

    /// The same, standing still.
    pub fn frozen(backend: Box<dyn Backend>, ram: Arc<GuestRam>) -> Self {
        crate::sandbox::begin_for_tests();
        let queues = backend.kind().queues.len();
        let line = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap());
        let device = VirtioDevice::detached(backend, 0, line.clone(), &ram).unwrap();
        let worker = Some(device.spawn().unwrap());
        assert!(device.await_frozen(Instant::now() + PATIENCE));
        Self { device, ram, line, worker, positions: vec![(0, 0); queues] }
    }

    /// Goes on with the rings where another driver over the same memory stands.
    pub fn adopt(&mut self, other: &Self) {
        self.positions.clone_from(&other.positions);
    }

    /// Has the worker stand still, as the machine does before it is saved.
    pub fn freeze(&self) {
        self.device.freeze();
        assert!(self.device.await_frozen(Instant::now() + PATIENCE));
    }

    /// Does what a driver does from its discovery to DRIVER_OK.
    pub fn set_up(&mut self, features: u64) {
        self.write(offset::STATUS, 0);
        self.write(offset::STATUS, 1);
        self.write(offset::STATUS, 3);
        let wanted = features | VERSION_1;
        for half in 0..2 {
            self.write(offset::DRIVER_FEATURES_SELECT, half);
            self.write(offset::DRIVER_FEATURES, (wanted >> (32 * half)) as u32);
        }
        self.write(offset::STATUS, 11);
        assert_eq!(self.read(offset::STATUS), 11, "the device does not offer {features:#x}");
        for queue in 0..self.positions.len() as u32 {
            self.write(offset::QUEUE_SELECT, queue);
            self.write(offset::QUEUE_SIZE, QUEUE.into());
            for (register, part) in
                [(offset::QUEUE_DESCRIPTORS, 0), (offset::QUEUE_AVAILABLE, AVAILABLE), (offset::QUEUE_USED, USED)]
            {
                self.write(register, (self.table(queue as usize) + part) as u32);
                self.write(register + 4, 0);
            }
            self.write(offset::QUEUE_READY, 1);
            let rings = GuestAddress(self.table(queue as usize));
            self.memory().write_slice(&[0; BUFFERS as usize], rings).unwrap();
        }
        self.positions.fill((0, 0));
        self.write(offset::STATUS, 15);
    }

    pub fn read(&self, register: u64) -> u32 {
        let mut word = [0; 4];
        self.device.read(register, &mut word);
        u32::from_le_bytes(word)
    }

    pub fn write(&self, register: u64, value: u32) {
        self.device.write(register, &value.to_le_bytes());
    }

    /// Reads behind the registers.
    pub fn config(&self, at: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.device.read(offset::CONFIG + at, &mut data);
        data
    }

    /// Writes behind the registers.
    pub fn write_config(&self, at: u64, data: &[u8]) {
        self.device.write(offset::CONFIG + at, data);
    }

    pub fn memory(&self) -> &GuestMemory {
        self.ram.memory()
    }

    /// Where a queue's descriptor table is.
    pub fn table(&self, queue: usize) -> u64 {
        PAGES * (1 + queue as u64)
    }

    /// Where a queue's buffers may lie.
    pub fn buffers(&self, queue: usize) -> u64 {
        self.table(queue) + BUFFERS
    }

    /// Whether the device says that it needs a reset.
    pub fn needs_reset(&self) -> bool {
        self.read(offset::STATUS) & 64 != 0
    }

    /// Makes the chain that begins with descriptor `head` available, without a notification.
    pub fn make_available(&mut self, queue: usize, head: u16) {
        let ring = self.table(queue) + AVAILABLE;
        let at = self.positions[queue].0;
        self.memory().write_obj(head, GuestAddress(ring + 4 + 2 * u64::from(at % QUEUE))).unwrap();
        self.positions[queue].0 = at.wrapping_add(1);
        self.memory().write_obj(at.wrapping_add(1), GuestAddress(ring + 2)).unwrap();
    }

    /// Says that a queue has something.
    pub fn notify(&self, queue: usize) {
        self.write(offset::QUEUE_NOTIFY, queue as u32);
    }

    /// Puts descriptors into the table, chained in their order from `head` on, makes them available
    /// and notifies.
    pub fn offer(&mut self, queue: usize, head: u16, segments: &[Raw]) {
        let last = segments.len() - 1;
        for (index, raw) in segments.iter().enumerate() {
            let number = head + index as u16;
            let (flags, next) = if index < last { (raw.flags | NEXT, number + 1) } else { (raw.flags, 0) };
            put_descriptor(self.memory(), self.table(queue), number, Raw { flags, next, ..*raw });
        }
        self.make_available(queue, head);
        self.notify(queue);
    }

    /// The next chain that the device gave back, its head and how many bytes were written, if there
    /// is one by now.
    pub fn try_used(&mut self, queue: usize) -> Option<(u32, u32)> {
        let ring = self.table(queue) + USED;
        let index: u16 = self.memory().read_obj(GuestAddress(ring + 2)).unwrap();
        let seen = self.positions[queue].1;
        if index == seen {
            return None;
        }
        let at = ring + 4 + 8 * u64::from(seen % QUEUE);
        self.positions[queue].1 = seen.wrapping_add(1);
        let head = self.memory().read_obj(GuestAddress(at)).unwrap();
        Some((head, self.memory().read_obj(GuestAddress(at + 4)).unwrap()))
    }

    /// Looks for a chain that the device gives back without an interrupt.
    pub fn poll_used(&mut self, queue: usize) -> (u32, u32) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(used) = self.try_used(queue) {
                return used;
            }
            assert!(Instant::now() < deadline, "the device does not answer");
            std::thread::yield_now();
        }
    }

    /// Waits for an interrupt, and acknowledges it: its causes.
    pub fn await_interrupt(&self) -> u32 {
        let mut fds = [PollFd::new(self.line.as_fd(), PollFlags::POLLIN)];
        let count = poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()).unwrap();
        assert_eq!(count, 1, "the device does not interrupt");
        let _ = self.line.read();
        let causes = self.read(offset::INTERRUPT_STATUS);
        self.write(offset::INTERRUPT_ACK, causes);
        causes
    }

    /// Waits until the device gives a chain back.
    pub fn await_used(&mut self, queue: usize) -> (u32, u32) {
        loop {
            // The event index: interrupt at the next one. First said, then looked.
            let event = GuestAddress(self.table(queue) + AVAILABLE + 4 + 2 * u64::from(QUEUE));
            self.memory().write_obj(self.positions[queue].1, event).unwrap();
            if let Some(used) = self.try_used(queue) {
                return used;
            }
            self.await_interrupt();
        }
    }

    /// One request with `sent` for the device to read and room for `room` bytes: what the device
    /// wrote.
    pub fn request(&mut self, queue: usize, sent: &[u8], room: u32) -> Vec<u8> {
        let buffer = self.buffers(queue);
        let answer = buffer + 0x4_0000;
        self.memory().write_slice(sent, GuestAddress(buffer)).unwrap();
        let mut segments = Vec::new();
        if !sent.is_empty() || room == 0 {
            segments.push(Raw { address: buffer, bytes: sent.len() as u32, flags: 0, next: 0 });
        }
        if room > 0 {
            segments.push(Raw { address: answer, bytes: room, flags: WRITE, next: 0 });
        }
        self.offer(queue, 0, &segments);
        let (_, written) = self.await_used(queue);
        let mut data = vec![0; written as usize];
        self.memory().read_slice(&mut data, GuestAddress(answer)).unwrap();
        data
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.device.shut();
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}
