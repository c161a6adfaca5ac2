//! Virtio devices whose driver does anything with registers, rings and memory.
//!
//! The first byte chooses the device, eight more the features that its driver takes.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};
use whimbrel::block::Image;
use whimbrel::config::{DiskConfig, ImageFormat};
use whimbrel::devices::virtio::fuzzing::Bench;
use whimbrel::devices::virtio::{Backend, Balloon, Block, Console, Inbox, Net, Rng, VirtioDevice};
use whimbrel::devices::{Device, SavedDevice};
use whimbrel::kvm::{GuestRam, RamRange};
use whimbrel::net::{Interface, Tap};

use crate::input::{Input, counted};
use crate::{Seed, loaders, memory};

pub(crate) const RAM: u64 = 1 << 20;
/// Descriptors a queue.
const QUEUE: u16 = 16;
/// Each queue has a descriptor table, then its two rings.
const TABLES: u64 = 0x4000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
/// The disk in bytes.
const DISK: u64 = 64 << 10;
/// Registers (virtio 1.2, section 4.2.2).
mod register {
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_SELECT: u64 = 0x24;
    pub const QUEUE_SELECT: u64 = 0x30;
    pub const QUEUE_SIZE: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const STATUS: u64 = 0x70;
    pub const QUEUE_DESCRIPTORS: u64 = 0x80;
    pub const QUEUE_AVAILABLE: u64 = 0x90;
    pub const QUEUE_USED: u64 = 0xa0;
    pub const CONFIG: u64 = 0x100;
}

/// What the next byte asks for.
mod step {
    pub const MEMORY: u8 = 0;
    pub const DESCRIPTOR: u8 = 1;
    pub const AVAILABLE: u8 = 2;
    pub const SERVE: u8 = 3;
    pub const REGISTER: u8 = 4;
    pub const CONFIG: u8 = 5;
    pub const HOST: u8 = 6;
    pub const MOVE: u8 = 7;
    pub const RESUME: u8 = 8;
    pub const ARRIVES: u8 = 9;
    pub const INDEX: u8 = 10;
    pub const SET_UP: u8 = 11;
    pub const COUNT: u8 = 12;
}

/// Has a device stand still that has been at one step for long, as the machine does when a guest
/// keeps a device busy without end: the step must end then.
struct Patience;

static AT_WORK: Mutex<Option<(Arc<VirtioDevice>, Instant)>> = Mutex::new(None);

impl Patience {
    const LIMIT: Duration = Duration::from_millis(500);

    fn with(device: &Arc<VirtioDevice>) -> Self {
        static WATCH: Once = Once::new();
        WATCH.call_once(|| {
            std::thread::spawn(|| {
                loop {
                    std::thread::sleep(Self::LIMIT / 4);
                    let at_work = AT_WORK.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some((device, since)) = at_work.as_ref()
                        && since.elapsed() > Self::LIMIT
                    {
                        device.freeze();
                    }
                }
            });
        });
        *AT_WORK.lock().unwrap_or_else(PoisonError::into_inner) = Some((device.clone(), Instant::now()));
        Self
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        *AT_WORK.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What goes out of a console.
struct Nowhere;

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The host's ends of a device.
#[derive(Default)]
pub(crate) struct Host {
    wire: Option<UnixDatagram>,
    inbox: Option<Arc<Inbox>>,
}

pub(crate) fn ram() -> Arc<GuestRam> {
    let range = RamRange { name: "ram.low", guest_address: 0, bytes: RAM };
    Arc::new(GuestRam::new(&[range], false).expect("memory"))
}

fn disk() -> DiskConfig {
    static FILE: OnceLock<File> = OnceLock::new();
    let file = FILE.get_or_init(|| loaders::memfd("disk"));
    file.set_len(0).expect("an empty file");
    file.write_all_at(&[7; 4096], 0).expect("room");
    file.set_len(DISK).expect("room");
    DiskConfig {
        path: loaders::path(file),
        format: ImageFormat::Raw,
        read_only: false,
        backing_format: None,
        serial: "serial".into(),
    }
}

/// A device of that kind, its disk open.
pub(crate) fn device(kind: u8, ram: &Arc<GuestRam>) -> (Bench, Host) {
    let mut host = Host::default();
    let backend: Box<dyn Backend> = match kind % 5 {
        0 => Box::new(Block::new(Image::new(&disk()).expect("a disk"))),
        1 => {
            let (theirs, ours) = UnixDatagram::pair().expect("sockets");
            theirs.set_nonblocking(true).expect("a socket");
            ours.set_nonblocking(true).expect("a socket");
            host.wire = Some(ours);
            let mac = "52:54:00:00:00:01".parse().expect("an address");
            let interface = Interface::new("net0".into(), "socket".into(), mac).expect("a descriptor");
            Box::new(Net::new(Tap::of_socket(theirs.into()), Arc::new(interface)).expect("descriptors"))
        }
        2 => Box::new(Rng::default()),
        3 => {
            let console = Console::new(Box::new(Nowhere), Box::new(|| ())).expect("a descriptor");
            host.inbox = Some(console.inbox());
            Box::new(console)
        }
        _ => Box::new(Balloon::new(ram.clone(), Box::new(|| ()))),
    };
    let bench = Bench::new(backend, ram).expect("a device");
    (bench, host)
}

struct World {
    kind: u8,
    ram: Arc<GuestRam>,
    bench: Bench,
    host: Host,
    /// Where each available ring is.
    available: Vec<u16>,
}

pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let (Some(kind), Some(features)) = (input.u8(), input.u64()) else { return };
    memory::limit(32 << 20);
    let ram = ram();
    let (bench, host) = device(kind, &ram);
    bench.device().acquire().expect("the disk is there");
    let available = vec![0; bench.queues()];
    let mut world = World { kind, ram, bench, host, available };
    world.set_up(features);
    while world.step(&mut input).is_some() {}
    // Whatever the driver did, a reset makes a new device of it.
    world.bench.device().thaw();
    world.set_up(0);
    assert!(!world.bench.needs_reset(), "a device is not whole after a reset");
    world.bench.device().release().expect("the disk is there");
    memory::limit(512 << 20);
}

impl World {
    fn write(&self, register: u64, value: u32) {
        self.bench.device().write(register, &value.to_le_bytes());
    }

    fn table(queue: usize) -> u64 {
        TABLES * queue as u64
    }

    /// What a driver does from its discovery to DRIVER_OK.
    fn set_up(&mut self, features: u64) {
        const VERSION_1: u64 = 1 << 32;
        for status in [0, 1, 3] {
            self.write(register::STATUS, status);
        }
        let mut offered = 0;
        for half in 0..2u32 {
            self.write(0x14, half);
            let mut word = [0; 4];
            self.bench.device().read(0x10, &mut word);
            offered |= u64::from(u32::from_le_bytes(word)) << (32 * half);
        }
        let wanted = features & offered | VERSION_1;
        for half in 0..2u32 {
            self.write(register::DRIVER_FEATURES_SELECT, half);
            self.write(register::DRIVER_FEATURES, (wanted >> (32 * half)) as u32);
        }
        self.write(register::STATUS, 11);
        for queue in 0..self.available.len() {
            self.write(register::QUEUE_SELECT, queue as u32);
            self.write(register::QUEUE_SIZE, QUEUE.into());
            for (at, part) in
                [(register::QUEUE_DESCRIPTORS, 0), (register::QUEUE_AVAILABLE, AVAILABLE), (register::QUEUE_USED, USED)]
            {
                self.write(at, (Self::table(queue) + part) as u32);
                self.write(at + 4, 0);
            }
            self.write(register::QUEUE_READY, 1);
            self.ram.memory().write_slice(&[0; TABLES as usize], GuestAddress(Self::table(queue))).expect("RAM");
        }
        self.available.fill(0);
        self.write(register::STATUS, 15);
    }

    fn step(&mut self, input: &mut Input) -> Option<()> {
        let memory = self.ram.memory();
        let queues = self.available.len();
        match input.u8()? % step::COUNT {
            step::MEMORY => {
                let (at, bytes) = (u64::from(input.u32()?) % RAM, input.counted()?);
                let bytes = &bytes[..bytes.len().min((RAM - at) as usize)];
                memory.write_slice(bytes, GuestAddress(at)).expect("RAM");
            }
            step::DESCRIPTOR => {
                let (queue, index) = (usize::from(input.u8()?) % queues, u64::from(input.u8()? % 16));
                let raw: [u8; 16] = input.array()?;
                memory.write_slice(&raw, GuestAddress(Self::table(queue) + 16 * index)).expect("RAM");
            }
            step::AVAILABLE => {
                let (queue, head) = (usize::from(input.u8()?) % queues, input.u16()?);
                let (ring, at) = (Self::table(queue) + AVAILABLE, self.available[queue]);
                let slot = ring + 4 + 2 * u64::from(at % QUEUE);
                memory.write_slice(&head.to_le_bytes(), GuestAddress(slot)).expect("RAM");
                self.available[queue] = at.wrapping_add(1);
                memory.write_slice(&at.wrapping_add(1).to_le_bytes(), GuestAddress(ring + 2)).expect("RAM");
            }
            step::SERVE => {
                let queue = input.u8()?;
                self.served(|bench| bench.serve_queue((queue % 4).into()));
            }
            step::REGISTER => {
                let (at, value) = (u64::from(input.u16()?), input.u32()?);
                self.write(at % register::CONFIG, value);
                self.bench.device().read(at, &mut [0; 4]);
            }
            step::CONFIG => {
                let (at, bytes) = (u64::from(input.u16()?), input.counted()?);
                self.bench.device().write(register::CONFIG + at, bytes);
                self.bench.device().read(register::CONFIG + at, &mut [0; 8]);
            }
            step::HOST => {
                let index = input.u8()?;
                self.served(|bench| bench.serve_descriptor((index % 4).into()));
            }
            step::MOVE => self.move_house(),
            step::RESUME => self.served(Bench::resume),
            step::ARRIVES => {
                let (bytes, more) = (input.counted()?, usize::from(input.u16()?));
                let mut frame = bytes.to_vec();
                frame.resize(bytes.len() + more, 1);
                if let Some(wire) = &self.host.wire {
                    let _ = wire.send(&frame);
                    while wire.recv(&mut [0; 64]).is_ok() {}
                }
                if let Some(inbox) = &self.host.inbox {
                    inbox.receive(&frame);
                }
            }
            step::INDEX => {
                let (queue, index) = (usize::from(input.u8()?) % queues, input.u16()?);
                let ring = Self::table(queue) + AVAILABLE;
                memory.write_slice(&index.to_le_bytes(), GuestAddress(ring + 2)).expect("RAM");
                self.available[queue] = index;
            }
            step::SET_UP.. => {
                let features = input.u64()?;
                self.set_up(features);
            }
        }
        Some(())
    }

    fn served(&self, serve: impl FnOnce(&Bench)) {
        let patience = Patience::with(self.bench.device());
        let broken = self.bench.needs_reset();
        serve(&self.bench);
        assert!(self.bench.needs_reset() || !broken, "only a reset mends a device");
        drop(patience);
    }

    /// Another host takes the device over, and has the same.
    fn move_house(&mut self) {
        let old = self.bench.device();
        let saved = old.save();
        old.release().expect("the disk is there");
        let (bench, host) = device(self.kind, &self.ram);
        match bench.device().load(old.version(), &saved) {
            Ok(()) => assert_eq!(bench.device().save(), saved, "another state came out than went in"),
            // A driver that set its queues up wrong finds out when they are taken over, if not
            // before.
            Err(error) => {
                assert!(self.bench.needs_reset() || saved != old.save(), "a good device is not taken over: {error}");
                old.acquire().expect("the disk is there");
                return;
            }
        }
        bench.device().acquire().expect("the disk is there");
        (self.bench, self.host) = (bench, host);
    }
}

/// A descriptor step.
fn descriptor(queue: u8, index: u8, address: u64, bytes: u32, flags: u16, next: u16) -> Vec<u8> {
    [
        &[step::DESCRIPTOR, queue, index][..],
        &address.to_le_bytes(),
        &bytes.to_le_bytes(),
        &flags.to_le_bytes(),
        &next.to_le_bytes(),
    ]
    .concat()
}

fn memory_step(at: u32, bytes: &[u8]) -> Vec<u8> {
    [&[step::MEMORY][..], &at.to_le_bytes(), &counted(bytes)].concat()
}

fn offer(queue: u8, head: u16) -> Vec<u8> {
    [&[step::AVAILABLE, queue][..], &head.to_le_bytes(), &[step::SERVE, queue]].concat()
}

pub fn seeds() -> Vec<Seed> {
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;
    const BUFFER: u64 = 0x1_0000;
    const ANSWER: u64 = 0x2_0000;
    let device =
        |kind: u8, features: u64, steps: &[Vec<u8>]| [&[kind][..], &features.to_le_bytes(), &steps.concat()].concat();
    let header = |kind: u32, sector: u64| [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
    // Header, data and status; what a disk is asked for.
    let request = |kind: u32, sector: u64, data: u32, data_flags: u16| {
        [
            memory_step(BUFFER as u32, &header(kind, sector)),
            descriptor(0, 0, BUFFER, 16, NEXT, 1),
            descriptor(0, 1, ANSWER, data, NEXT | data_flags, 2),
            descriptor(0, 2, ANSWER + 0x8000, 1, WRITE, 0),
            offer(0, 0),
        ]
        .concat()
    };
    let extent = [&8u64.to_le_bytes()[..], &4u32.to_le_bytes(), &0u32.to_le_bytes()].concat();
    let one = |queue: u8, address: u64, bytes: u32, flags: u16| {
        [descriptor(queue, 0, address, bytes, flags, 0), offer(queue, 0)].concat()
    };
    let arrives = |bytes: &[u8], more: u16| [&[step::ARRIVES][..], &counted(bytes), &more.to_le_bytes()].concat();
    let moved = vec![step::MOVE, step::RESUME];
    let indirect: Vec<u8> =
        [(BUFFER, 16u32, NEXT, 1u16), (ANSWER, 512, NEXT | WRITE, 2), (ANSWER + 0x8000, 1, WRITE, 0)]
            .iter()
            .flat_map(|(address, bytes, flags, next)| {
                [&address.to_le_bytes()[..], &bytes.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
            })
            .collect();
    let indirect = [
        memory_step(BUFFER as u32, &header(0, 1)),
        memory_step(0x3_0000, &indirect),
        descriptor(0, 3, 0x3_0000, 48, INDIRECT, 0),
        offer(0, 3),
    ]
    .concat();
    let all = u64::MAX;
    vec![
        ("disk-read", device(0, all, &[request(0, 1, 1024, WRITE), moved.clone(), request(0, 127, 512, WRITE)])),
        ("disk-write", device(0, 0, &[request(1, 3, 512, 0), request(4, 0, 0, 0), request(8, 0, 20, WRITE)])),
        (
            "disk-discard",
            device(0, all, &[memory_step(ANSWER as u32, &extent), request(11, 0, 16, 0), request(13, 0, 16, 0)]),
        ),
        ("disk-indirect", device(0, all, &[indirect])),
        ("net-transmit", device(1, all, &[one(1, BUFFER, 80, 0), moved.clone()])),
        (
            "net-receive",
            device(
                1,
                0,
                &[
                    arrives(&[0; 12], 60),
                    one(0, BUFFER, 1600, WRITE),
                    vec![step::HOST, 0],
                    arrives(&[0; 12], 3000),
                    vec![step::HOST, 0],
                    moved.clone(),
                ],
            ),
        ),
        (
            "net-control",
            device(
                1,
                all,
                &[
                    memory_step(BUFFER as u32, &[1, 1, 0x52, 0x54, 0, 0, 0, 7]),
                    descriptor(2, 0, BUFFER, 8, NEXT, 1),
                    descriptor(2, 1, ANSWER, 1, WRITE, 0),
                    offer(2, 0),
                ],
            ),
        ),
        ("rng", device(2, all, &[one(0, BUFFER, 64, WRITE)])),
        (
            "console",
            device(
                3,
                all,
                &[
                    vec![step::RESUME],
                    arrives(b"hello", 0),
                    one(0, BUFFER, 64, WRITE),
                    one(1, BUFFER, 5, 0),
                    moved.clone(),
                ],
            ),
        ),
        (
            "balloon",
            device(
                4,
                all,
                &[
                    memory_step(BUFFER as u32, &[40u32, 41, 42, 90, 0x100, u32::MAX].map(u32::to_le_bytes).concat()),
                    one(0, BUFFER, 24, 0),
                    one(1, BUFFER, 4, 0),
                    one(2, ANSWER, 0x2000, WRITE),
                    vec![step::CONFIG, 4, 0, 4, 0, 9, 0, 0, 0],
                    moved,
                ],
            ),
        ),
        (
            "loop",
            device(0, 0, &[descriptor(0, 0, BUFFER, 16, NEXT, 1), descriptor(0, 1, BUFFER, 16, NEXT, 0), offer(0, 0)]),
        ),
        ("outside", device(2, 0, &[one(0, RAM - 8, 64, WRITE), one(0, u64::MAX - 3, 64, WRITE)])),
        ("index", device(0, all, &[vec![step::INDEX, 0, 0xff, 0xff, step::SERVE, 0]])),
    ]
}
