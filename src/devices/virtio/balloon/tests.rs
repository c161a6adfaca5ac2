#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicUsize;

use vm_memory::{Bytes, GuestAddress};

use super::super::testing::{self, Driver, RAM, Raw, WRITE};
use super::*;
use crate::devices::SavedDevice;

const DEFLATE: usize = 1;
const ALL: u64 = DEFLATE_ON_OOM | REPORTING;
/// Pages that no queue of the driver's uses.
const SPARE: u64 = 0x80_0000;

struct Rig {
    driver: Driver,
    level: Arc<BalloonLevel>,
    announced: Arc<AtomicUsize>,
}

fn rig(features: u64) -> Rig {
    let ram = testing::ram();
    let announced = Arc::new(AtomicUsize::new(0));
    let counter = announced.clone();
    let count = move || {
        counter.fetch_add(1, Ordering::SeqCst);
    };
    let balloon = Balloon::new(ram.clone(), Box::new(count));
    let level = balloon.level();
    let mut driver = Driver::present(Box::new(balloon), ram);
    driver.set_up(features);
    Rig { driver, level, announced }
}

impl Rig {
    /// Writes into the `pages` pages from [`SPARE`] on.
    fn fill(&self, pages: u64) {
        for page in 0..pages {
            self.driver.memory().write_obj(1u8, GuestAddress(SPARE + page * PAGE)).unwrap();
        }
    }

    /// Which of these pages hold something.
    fn left(&self, pages: u64) -> Vec<u64> {
        let holds = |page: &u64| self.driver.memory().read_obj::<u8>(GuestAddress(SPARE + page * PAGE)).unwrap() != 0;
        (0..pages).filter(holds).collect()
    }

    /// Sends page numbers and waits until they were dealt with.
    fn send(&mut self, queue: usize, frames: &[u32]) {
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.to_le_bytes()).collect();
        assert!(self.driver.request(queue, &bytes, 0).is_empty());
    }

    fn report(&mut self, ranges: &[(u64, u32)]) {
        let segments: Vec<_> = ranges
            .iter()
            .map(|(address, bytes)| Raw { address: *address, bytes: *bytes, flags: WRITE, next: 0 })
            .collect();
        self.driver.offer(REPORT, 0, &segments);
        assert_eq!(self.driver.await_used(REPORT), (0, 0));
    }
}

fn frame(page: u64) -> u32 {
    (SPARE / PAGE + page) as u32
}

#[test]
fn inflated_pages_are_given_back_in_whatever_order_they_come() {
    let mut rig = rig(ALL);
    rig.fill(8);
    rig.send(INFLATE, &[frame(6), frame(2), frame(1), frame(3), frame(2)]);
    assert_eq!(rig.left(8), [0, 4, 5, 7]);
    // A deflated page is the guest's at once.
    rig.send(DEFLATE, &[frame(1), frame(4)]);
    rig.fill(3);
    assert_eq!(rig.left(8), [0, 1, 2, 4, 5, 7]);
}

#[test]
fn page_numbers_that_make_no_sense_harm_nobody() {
    let mut rig = rig(ALL);
    rig.fill(3);
    rig.send(INFLATE, &[u32::MAX, u32::MAX - 1, (RAM / PAGE) as u32, 0xd_0000, frame(1)]);
    assert_eq!(rig.left(3), [0, 2]);
    // Half a number at the end.
    let bytes = [frame(0).to_le_bytes(), frame(2).to_le_bytes()].concat();
    rig.driver.request(INFLATE, &bytes[..6], 0);
    assert_eq!(rig.left(3), [2]);
    rig.driver.request(INFLATE, &[], 16);
    assert!(!rig.driver.needs_reset());
}

#[test]
fn only_so_many_page_numbers_are_looked_at_in_one_request() {
    let mut rig = rig(ALL);
    rig.fill(3);
    let mut frames = vec![frame(0); FRAMES];
    frames.push(frame(2));
    frames[FRAMES - 1] = frame(1);
    rig.send(INFLATE, &frames);
    assert_eq!(rig.left(3), [2]);
}

#[test]
fn reported_ranges_are_given_back_whole_pages_only() {
    let mut rig = rig(ALL);
    rig.fill(8);
    rig.report(&[(SPARE, 2 * PAGE as u32), (SPARE + 4 * PAGE + 1, 2 * PAGE as u32)]);
    assert_eq!(rig.left(8), [2, 3, 4, 6, 7]);
    rig.report(&[(SPARE + 7 * PAGE, 0), (SPARE + 2 * PAGE, PAGE as u32 - 1)]);
    assert_eq!(rig.left(8), [2, 3, 4, 6, 7]);
    // What is there to be read is not reported.
    let readable = Raw { address: SPARE + 6 * PAGE, bytes: PAGE as u32, flags: 0, next: 0 };
    rig.driver.offer(REPORT, 0, &[readable]);
    rig.driver.await_used(REPORT);
    assert_eq!(rig.left(8), [2, 3, 4, 6, 7]);
}

#[test]
fn a_driver_that_did_not_take_reporting_gives_nothing_back_by_it() {
    let mut rig = rig(DEFLATE_ON_OOM);
    rig.fill(2);
    rig.report(&[(SPARE, PAGE as u32)]);
    assert_eq!(rig.left(2), [0, 1]);
}

#[test]
fn a_reported_range_outside_ram_needs_a_reset_and_nothing_worse() {
    for (address, bytes) in [(RAM, 4096), (RAM - 4096, 8192), (u64::MAX - 4095, 4096), (0xd000_0000, u32::MAX)] {
        let mut rig = rig(ALL);
        rig.fill(2);
        rig.driver.offer(REPORT, 0, &[Raw { address, bytes, flags: WRITE, next: 0 }]);
        rig.driver.await_interrupt();
        assert!(rig.driver.needs_reset(), "{address:#x}+{bytes:#x}");
        rig.driver.set_up(ALL);
        rig.send(INFLATE, &[frame(1)]);
        assert_eq!(rig.left(2), [0]);
    }
}

#[test]
fn while_a_guest_arrives_requests_are_answered_and_nothing_is_given_back() {
    let mut rig = rig(ALL);
    rig.fill(3);
    rig.driver.ram.set_mode(crate::kvm::RamMode::Snapshotting);
    rig.send(INFLATE, &[frame(0)]);
    rig.report(&[(SPARE + PAGE, PAGE as u32)]);
    assert_eq!(rig.left(3), [0, 1, 2]);
    rig.driver.ram.set_mode(crate::kvm::RamMode::Normal);
    rig.report(&[(SPARE + PAGE, PAGE as u32)]);
    assert_eq!(rig.left(3), [0, 2]);
}

#[test]
fn a_target_reaches_the_driver_and_its_answer_the_monitor() {
    let rig = rig(ALL);
    let word = |at| u32::from_le_bytes(rig.driver.config(at, 4).try_into().unwrap());
    rig.level.set_target(RAM - 3 * PAGE - 1);
    assert_eq!(rig.driver.await_interrupt() & 2, 2);
    assert_eq!((word(0), word(4)), (3, 0));
    assert_eq!(rig.level.actual(), RAM);

    let announced = || rig.announced.load(Ordering::SeqCst);
    rig.driver.write_config(4, &2u32.to_le_bytes());
    assert_eq!((rig.level.actual(), announced()), (RAM - 2 * PAGE, 1));
    // However much it changes: it is announced once until it was looked at, and then only if there
    // was a change.
    rig.driver.write_config(4, &3u32.to_le_bytes());
    assert_eq!((rig.level.see_change(), announced()), (RAM - 3 * PAGE, 1));
    rig.driver.write_config(4, &3u32.to_le_bytes());
    assert_eq!(announced(), 1);
    rig.driver.write_config(4, &u32::MAX.to_le_bytes());
    assert_eq!((rig.level.see_change(), announced()), (0, 2));
    // The host's own word is not the driver's to write.
    rig.driver.write_config(0, &9u32.to_le_bytes());
    assert_eq!(word(0), 3);

    rig.level.set_target(u64::MAX);
    assert_eq!(word(0), 0);
    rig.level.set_target(0);
    assert_eq!(u64::from(word(0)), RAM / PAGE);
}

#[test]
fn a_reset_empties_the_balloon_and_keeps_the_target() {
    let mut rig = rig(ALL);
    rig.level.set_target(RAM - PAGE);
    rig.driver.write_config(4, &1u32.to_le_bytes());
    rig.level.see_change();
    rig.driver.set_up(ALL);
    assert_eq!(rig.driver.config(0, 8), [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!((rig.level.see_change(), rig.announced.load(Ordering::SeqCst)), (RAM, 2));
}

#[test]
fn target_and_level_travel_and_reporting_goes_on() {
    let mut source = rig(ALL);
    source.level.set_target(RAM - 5 * PAGE);
    source.driver.write_config(4, &4u32.to_le_bytes());
    source.send(INFLATE, &[frame(0)]);
    source.driver.freeze();
    let saved = source.driver.device.save();

    let balloon = Balloon::new(source.driver.ram.clone(), Box::new(|| {}));
    let level = balloon.level();
    let mut driver = Driver::frozen(Box::new(balloon), source.driver.ram.clone());
    driver.device.load(driver.device.version(), &saved).unwrap();
    driver.adopt(&source.driver);
    assert_eq!(level.actual(), RAM - 4 * PAGE);
    driver.device.thaw();
    let mut destination = Rig { driver, level, announced: source.announced.clone() };
    destination.fill(2);
    destination.report(&[(SPARE, PAGE as u32)]);
    assert_eq!(destination.left(2), [1]);
    // What the driver said already is no news.
    destination.driver.write_config(4, &4u32.to_le_bytes());
    assert_eq!(source.announced.load(Ordering::SeqCst), 1);
}

#[test]
fn a_state_that_cannot_be_is_refused() {
    let ram = testing::ram();
    let mut balloon = Balloon::new(ram, Box::new(|| {}));
    assert!(balloon.load(2, &[]).is_err());
    assert!(balloon.load(1, &[0]).is_err());
    balloon.config.set(|space| space[TARGET].fill(0xff));
    assert!(matches!(balloon.load(1, &[]), Err(StateError::Value { field: "target", .. })));
    balloon.config.set(|space| space[TARGET].fill(0));
    crate::state::testing::assert_layout(balloon.layout(), &balloon.save(), || balloon.load(1, &[]).unwrap());
}
