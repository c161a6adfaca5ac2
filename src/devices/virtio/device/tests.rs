#![allow(clippy::unwrap_used)]

use std::sync::mpsc::{Receiver, Sender, channel};

use vm_memory::{Bytes, GuestAddress};

use super::super::testing::{Driver, INDIRECT as IN, NEXT, RAM, Raw, WRITE, put_descriptor};
use super::super::{Backend, Broken, ConfigSpace, Kind, Rng, Work};
use super::*;
use crate::kvm::GuestRam;
use crate::state::testing::assert_layout;

/// Gives back what it reads, reversed; counts what happens to it.
struct Mirror {
    config: Arc<ConfigSpace>,
    started: u64,
}

impl Mirror {
    fn new() -> Box<Self> {
        Box::new(Self { config: Arc::new(ConfigSpace::with_writable(vec![1, 2, 3, 4], 2..4)), started: 0 })
    }
}

impl Backend for Mirror {
    fn kind(&self) -> Kind {
        Kind { id: 42, name: "virtio-mirror", version: 3, queues: &[16, 16] }
    }
    fn features(&self) -> u64 {
        1 << 3
    }
    fn config(&self) -> Arc<ConfigSpace> {
        self.config.clone()
    }
    fn config_written(&mut self) {
        let copied = self.config.bytes()[2];
        self.config.update(|bytes| bytes[0] = copied);
    }
    fn start(&mut self, features: u64) {
        self.started = features;
    }
    fn reset(&mut self) {
        self.started = 0;
    }
    fn queue_ready(&mut self, index: usize, work: &mut Work<'_>) -> Result<(), Broken> {
        work.rings[index].serve(work.memory, |chain| {
            let mut data = vec![0; chain.readable_bytes() as usize];
            chain.read_at(work.memory, 0, &mut data)?;
            data.reverse();
            Ok(chain.write_at(work.memory, 0, &data)? as u32)
        })
    }
    fn save(&self) -> Vec<u8> {
        self.started.to_le_bytes().to_vec()
    }
    fn layout(&self) -> &'static [Field] {
        &[Field("features", Type::U64)]
    }
    fn load(&mut self, version: u8, bytes: &[u8]) -> Result<(), StateError> {
        let mut reader = StateReader::new("virtio-mirror", version.into(), 3, bytes)?;
        self.started = reader.u64("features")?;
        reader.finish()
    }
}

#[test]
fn requests_are_served_on_every_queue_with_and_without_the_event_index() {
    for features in [0, 1 << 3, 1 << 29, 1 << 28] {
        let mut driver = Driver::start(Mirror::new(), features);
        for round in 0..40u8 {
            assert_eq!(driver.request(0, &[round, 2, 3], 8), [3, 2, round]);
            assert_eq!(driver.request(1, &[round], 1), [round]);
        }
    }
}

#[test]
fn what_the_driver_offered_before_the_device_ran_is_found_without_a_notification() {
    let mut driver = Driver::start(Mirror::new(), 0);
    driver.freeze();
    let table = driver.table(0);
    put_descriptor(driver.memory(), table, 0, Raw { address: 0x3000, bytes: 1, flags: WRITE, next: 0 });
    driver.make_available(0, 0);
    assert!(driver.try_used(0).is_none());
    driver.device.thaw();
    assert_eq!(driver.await_used(0), (0, 0));
}

#[test]
fn a_driver_that_wants_no_interrupts_gets_none() {
    let mut driver = Driver::start(Mirror::new(), 0);
    // The available ring's flags.
    driver.memory().write_obj(1u16, GuestAddress(driver.table(0) + 0x1000)).unwrap();
    driver.offer(0, 0, &[Raw { address: 0x3000, bytes: 1, flags: WRITE, next: 0 }]);
    assert_eq!(driver.poll_used(0), (0, 0));
    driver.freeze();
    assert_eq!(driver.read(offset::INTERRUPT_STATUS), 0);
}

#[test]
fn hostile_chains_make_the_device_need_a_reset_and_a_reset_heals_it() {
    let raw = |address, bytes, flags, next| Raw { address, bytes, flags, next };
    for (what, table) in [
        ("a loop", vec![raw(0x3000, 1, NEXT, 1), raw(0x3000, 1, NEXT, 0)]),
        ("a length beyond RAM", vec![raw(0x3000, u32::MAX, 0, 0)]),
        ("an address outside RAM", vec![raw(RAM + 0x1000, 16, WRITE, 0)]),
        ("an address that wraps", vec![raw(u64::MAX, 16, WRITE, 0)]),
        ("an indirect table of 65535", vec![raw(0x10_0000, 65535 * 16, IN, 0)]),
        ("a descriptor outside the table", vec![raw(0x3000, 1, NEXT, 999)]),
    ] {
        let mut driver = Driver::start(Mirror::new(), 1 << 28);
        for (index, raw) in (0..).zip(table) {
            put_descriptor(driver.memory(), driver.table(0), index, raw);
        }
        driver.make_available(0, 0);
        driver.notify(0);
        assert_eq!(driver.await_interrupt() & 2, 2, "{what}");
        assert!(driver.needs_reset(), "{what}");
        // Nothing is served any more, on no queue.
        driver.offer(1, 0, &[raw(0x3000, 1, WRITE, 0)]);
        driver.freeze();
        driver.device.thaw();
        assert!(driver.try_used(1).is_none(), "{what}");
        driver.set_up(0);
        assert!(!driver.needs_reset(), "{what}");
        // A real driver's rings are fresh.
        assert_eq!(driver.request(1, b"ab", 2), b"ba", "{what}");
    }
}

#[test]
fn hostile_rings_make_the_device_need_a_reset() {
    // The available index runs far ahead of the queue's size.
    let driver = Driver::start(Mirror::new(), 0);
    driver.memory().write_obj(1000u16, GuestAddress(driver.table(0) + 0x1002)).unwrap();
    driver.notify(0);
    driver.await_interrupt();
    assert!(driver.needs_reset());
    // Rings that lie outside RAM are refused when the driver says that it is ready.
    let driver = Driver::present(Mirror::new(), super::super::testing::ram());
    driver.write(offset::DRIVER_FEATURES_SELECT, 1);
    driver.write(offset::DRIVER_FEATURES, 1);
    driver.write(offset::STATUS, 11);
    driver.write(offset::QUEUE_AVAILABLE, RAM as u32 - 4);
    driver.write(offset::QUEUE_READY, 1);
    driver.write(offset::STATUS, 15);
    assert!(driver.needs_reset());
    // So are notifications of queues that do not exist: ignored.
    driver.notify(77);
}

#[test]
fn the_configuration_space_is_read_written_and_told_of() {
    let driver = Driver::start(Mirror::new(), 0);
    assert_eq!(driver.config(0, 6), [1, 2, 3, 4, 0, 0]);
    driver.write_config(2, &[9]);
    assert_eq!(driver.await_interrupt(), 2);
    assert_eq!(driver.config(0, 4), [9, 2, 9, 4]);
    assert_eq!(driver.read(offset::GENERATION), 1);
    driver.write_config(0, &[7]);
    assert_eq!(driver.config(0, 4), [9, 2, 9, 4]);
}

/// A second device over the same memory, as on a host to which the RAM has been copied.
fn moved(driver: &Driver, ram: Arc<GuestRam>) -> Driver {
    let bytes = driver.device.save();
    let other = Driver::frozen(Mirror::new(), ram);
    other.device.load(driver.device.version(), &bytes).unwrap();
    other
}

#[test]
fn a_device_goes_on_elsewhere_where_it_stood() {
    let mut driver = Driver::start(Mirror::new(), 1 << 29 | 1 << 3);
    for _ in 0..21 {
        driver.request(0, b"before", 8);
    }
    // One interrupt is not acknowledged, and one chain not served, when the machine stops.
    driver.freeze();
    driver.device.signal.config_changed();
    let address = driver.buffers(0);
    put_descriptor(driver.memory(), driver.table(0), 0, Raw { address, bytes: 3, flags: 0, next: 0 });
    driver.make_available(0, 0);

    let mut other = moved(&driver, driver.ram.clone());
    other.adopt(&driver);
    assert_eq!(other.device.save(), driver.device.save());
    other.device.thaw();
    assert_eq!(other.await_interrupt() & 2, 2);
    assert_eq!(other.await_used(0), (0, 0));
    assert_eq!(other.request(0, b"after", 8), b"retfa");
    assert_eq!(other.request(1, b"1", 8), b"1");
}

#[test]
fn its_layout_is_what_is_read() {
    let driver = Driver::start(Mirror::new(), 1 << 3);
    driver.freeze();
    let bytes = driver.device.save();
    let other = Driver::frozen(Mirror::new(), driver.ram.clone());
    assert_layout(&other.device.layout(), &bytes, || other.device.load(driver.device.version(), &bytes).unwrap());
    // Asked for while it works, too.
    driver.device.thaw();
    assert_eq!(driver.device.layout(), other.device.layout());
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let driver = Driver::start(Mirror::new(), 0);
    driver.freeze();
    let (bytes, version) = (driver.device.save(), driver.device.version());
    for length in 0..bytes.len() {
        let other = Driver::frozen(Mirror::new(), driver.ram.clone());
        assert!(other.device.load(version, &bytes[..length]).is_err(), "{length}");
    }
    let other = Driver::frozen(Mirror::new(), driver.ram.clone());
    assert!(other.device.load(version + 1, &bytes).is_err());
    let rng = Driver::frozen(Box::new(Rng::default()), driver.ram.clone());
    assert!(rng.device.load(rng.device.version(), &bytes).is_err());
    // Rings outside a smaller machine's RAM.
    let range = crate::kvm::RamRange { name: "ram.low", guest_address: 0, bytes: 2 << 20 };
    let small = Arc::new(GuestRam::new(&[range], false).unwrap());
    assert!(Driver::frozen(Mirror::new(), small).device.load(version, &bytes).is_err());
}

#[test]
fn a_machine_reset_leaves_a_device_that_no_driver_has_touched() {
    let mut driver = Driver::start(Mirror::new(), 0);
    driver.request(0, b"x", 1);
    driver.freeze();
    let fresh = Driver::frozen(Mirror::new(), driver.ram.clone());
    driver.device.reset();
    assert_eq!(driver.device.save(), fresh.device.save());
    assert_eq!(driver.read(offset::STATUS), 0);
    // And with its worker running again it serves a new driver.
    driver.device.thaw();
    driver.set_up(0);
    assert_eq!(driver.request(0, b"yz", 2), b"zy");
}

/// Says when it has a request, and waits for leave to answer it.
struct Slow {
    config: Arc<ConfigSpace>,
    begun: Sender<()>,
    leave: Receiver<()>,
}

impl Backend for Slow {
    fn kind(&self) -> Kind {
        Kind { id: 42, name: "virtio-slow", version: 1, queues: &[16] }
    }
    fn features(&self) -> u64 {
        0
    }
    fn config(&self) -> Arc<ConfigSpace> {
        self.config.clone()
    }
    fn queue_ready(&mut self, index: usize, work: &mut Work<'_>) -> Result<(), Broken> {
        let host = work.host;
        work.rings[index].serve(work.memory, |_| {
            host.run(|| {
                self.begun.send(()).unwrap();
                self.leave.recv().unwrap();
            });
            Ok(0)
        })
    }
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }
    fn layout(&self) -> &'static [Field] {
        &[]
    }
    fn load(&mut self, _version: u8, _bytes: &[u8]) -> Result<(), StateError> {
        Ok(())
    }
}

/// Until the thread sleeps, for which nobody rings.
fn await_sleep(thread: nix::unistd::Pid) {
    let stat = format!("/proc/self/task/{thread}/stat");
    while !std::fs::read_to_string(&stat).unwrap().contains(") S ") {
        std::thread::yield_now();
    }
}

#[test]
fn a_device_that_is_to_stand_still_finishes_one_request_and_leaves_the_rest() {
    let ((begun, begins), (leaves, leave)) = (channel(), channel());
    let config = Arc::new(ConfigSpace::new(Vec::new()));
    let mut driver = Driver::start(Box::new(Slow { config, begun, leave }), 0);
    // Gone before the driver, which waits for the worker, if something fails here.
    let leaves = leaves;
    for head in 0..3 {
        let raw = Raw { address: 0x3000, bytes: 1, flags: WRITE, next: 0 };
        put_descriptor(driver.memory(), driver.table(0), head, raw);
        driver.make_available(0, head);
    }
    driver.notify(0);
    begins.recv().unwrap();
    driver.device.freeze();
    // It waits for the host: that counts as no refusal to stand still.
    let (about, waits) = channel();
    let waiter = {
        let device = driver.device.clone();
        std::thread::spawn(move || {
            about.send(nix::unistd::gettid()).unwrap();
            device.await_frozen(Instant::now())
        })
    };
    await_sleep(waits.recv().unwrap());
    leaves.send(()).unwrap();
    assert!(waiter.join().unwrap());
    assert_eq!(driver.await_used(0), (0, 0));
    assert!(driver.try_used(0).is_none() && begins.try_recv().is_err());
    driver.device.thaw();
    leaves.send(()).unwrap();
    // The driver is told of each at once.
    assert_eq!(driver.await_used(0), (1, 0));
    leaves.send(()).unwrap();
    assert_eq!(driver.await_used(0), (2, 0));
}
