#![allow(clippy::unwrap_used)]

use std::net::UdpSocket;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::super::registers::EVENT_INDEX;
use super::super::testing::{Driver, QUEUE, RAM, Raw, WRITE, ram};
use super::Net;
use super::features::{CTRL_MAC_ADDR, CTRL_VQ, GUEST_ANNOUNCE, GUEST_CSUM, MRG_RXBUF, OFFERED};
use crate::config::TapSource;
use crate::devices::SavedDevice;
use crate::net::testing::{Wire, own_network};
use crate::net::{HEADER, Interface, MacAddr, Schedule, Tap, rarp_frame};
use crate::skip;

/// A type of frame that nobody else uses (it is set aside for experiments), and that of
/// announcements.
const EXPERIMENT: u16 = 0x88b5;
const RARP: u16 = 0x8035;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const CONTROL: usize = 2;

fn mac() -> MacAddr {
    "52:54:00:00:00:01".parse().unwrap()
}

/// A card at a new tap of that name.
fn card(tap: &str) -> (Box<Net>, Arc<Interface>, Wire) {
    let tap = Tap::open(&TapSource::Named(tap.to_owned())).unwrap();
    let wire = Wire::of(tap.name());
    let interface = Arc::new(Interface::new("net0".to_owned(), tap.name().to_owned(), mac()).unwrap());
    (Box::new(Net::new(tap, interface.clone()).unwrap()), interface, wire)
}

/// A card whose driver is ready; `None` where there are no networks to be had.
fn started(features: u64) -> Option<(Driver, Arc<Interface>, Wire)> {
    own_network().then(|| {
        let (card, interface, wire) = card("t0");
        (Driver::start(card, features), interface, wire)
    })
}

/// The card moved to another tap, with the RAM and all, standing still.
fn moved(driver: &Driver) -> (Driver, Arc<Interface>, Wire) {
    moved_to("t1", driver)
}

fn moved_to(tap: &str, driver: &Driver) -> (Driver, Arc<Interface>, Wire) {
    driver.freeze();
    let (card, interface, wire) = card(tap);
    let mut other = Driver::frozen(card, driver.ram.clone());
    other.device.load(driver.device.version(), &driver.device.save()).unwrap();
    other.adopt(driver);
    (other, interface, wire)
}

/// A frame of that many bytes, all different from those of another `seed`.
fn frame(seed: u8, bytes: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([0x52, 0x54, 0, 0xff, 0xff, seed]);
    frame.extend(EXPERIMENT.to_be_bytes());
    frame.extend((0..bytes - 14).map(|at| (at % 251) as u8 ^ seed));
    frame
}

/// Where buffer `slot` of a queue is.
fn place(driver: &Driver, queue: usize, slot: u16) -> u64 {
    driver.buffers(queue) + 0x1000 * u64::from(slot)
}

/// Gives the card a buffer for a frame, which is descriptor `slot`.
fn give(driver: &mut Driver, slot: u16, bytes: u32) {
    let address = place(driver, RECEIVE, slot);
    driver.offer(RECEIVE, slot, &[Raw { address, bytes, flags: WRITE, next: 0 }]);
}

/// The next frame, out of as many buffers as it says, and how many those are.
fn take(driver: &mut Driver) -> (Vec<u8>, u16) {
    let mut all = Vec::new();
    let mut count = 1;
    let mut taken = 0;
    while taken < count {
        // All of them at once, though the driver is told only of the first.
        let (head, written) = if taken == 0 { driver.await_used(RECEIVE) } else { driver.try_used(RECEIVE).unwrap() };
        let mut part = vec![0; written as usize];
        driver.memory().read_slice(&mut part, GuestAddress(place(driver, RECEIVE, head as u16))).unwrap();
        all.extend(part);
        count = u16::from_le_bytes([all[10], all[11]]);
        taken += 1;
    }
    assert_eq!(all[..10], [0; 10], "nothing is left to be done");
    (all.split_off(HEADER), count)
}

/// Sends a frame in pieces of these lengths, its header in front.
fn send(driver: &mut Driver, slot: u16, frame: &[u8], pieces: &[u32]) {
    let mut bytes = vec![0; HEADER];
    bytes.extend(frame);
    let mut address = place(driver, TRANSMIT, slot);
    driver.memory().write_slice(&bytes, GuestAddress(address)).unwrap();
    let raw = |bytes: &u32| {
        let raw = Raw { address, bytes: *bytes, flags: 0, next: 0 };
        address += u64::from(*bytes);
        raw
    };
    let segments: Vec<_> = pieces.iter().map(raw).collect();
    driver.offer(TRANSMIT, slot, &segments);
}

/// A command on the third queue: the answer.
fn command(driver: &mut Driver, bytes: &[u8]) -> u8 {
    let answer = driver.request(CONTROL, bytes, 1);
    assert_eq!(answer.len(), 1);
    answer[0]
}

/// Waits until the card has looked at `count` chains of a queue and asks to be notified of the
/// next, which it does behind the used ring. The event index must have been taken.
fn await_asked(driver: &Driver, queue: usize, count: u16) {
    let event = GuestAddress(driver.table(queue) + 0x2000 + 4 + 8 * u64::from(QUEUE));
    let deadline = Instant::now() + Duration::from_secs(10);
    while driver.memory().read_obj::<u16>(event).unwrap() != count {
        assert!(Instant::now() < deadline, "the card does not ask");
        std::thread::yield_now();
    }
}

fn status(driver: &Driver) -> u8 {
    driver.config(6, 1)[0]
}

#[test]
fn frames_go_both_ways_whatever_pieces_they_lie_in() {
    for features in [0, OFFERED, OFFERED | EVENT_INDEX] {
        let Some((mut driver, _, wire)) = started(features) else { return };
        let sent = frame(1, 100);
        send(&mut driver, 0, &sent, &[5, 7, 1, 1, 0, 60, 38]);
        assert_eq!(wire.receive(EXPERIMENT), sent);
        assert_eq!(driver.await_used(TRANSMIT), (0, 0));

        give(&mut driver, 0, 2000);
        let segments = [3, 20, 500, 1].map(|bytes| Raw { address: 0x8000, bytes, flags: WRITE, next: 0 });
        driver.offer(RECEIVE, 1, &segments);
        let came = frame(2, 1514);
        wire.send(&came);
        assert_eq!(take(&mut driver), (came, 1));
        // The next buffer is in pieces itself, one over the other: what counts is where they end.
        let came = frame(3, 60);
        wire.send(&came);
        assert_eq!(driver.await_used(RECEIVE), (1, 72));
        let mut end = vec![0; 49];
        driver.memory().read_slice(&mut end, GuestAddress(0x8000)).unwrap();
        assert_eq!(end, came[11..]);
    }
}

#[test]
fn a_frame_lies_in_as_many_buffers_as_it_takes() {
    let Some((mut driver, _, wire)) = started(MRG_RXBUF | EVENT_INDEX) else { return };
    let (large, small) = (frame(1, 1514), frame(2, 60));
    wire.send(&large);
    wire.send(&small);
    for slot in 0..3 {
        give(&mut driver, slot, 500);
    }
    // 1526 bytes with the header.
    await_asked(&driver, RECEIVE, 3);
    assert_eq!(driver.try_used(RECEIVE), None);
    for slot in 3..5 {
        give(&mut driver, slot, 500);
    }
    assert_eq!(take(&mut driver), (large, 4));
    assert_eq!(take(&mut driver), (small, 1));
}

#[test]
fn frames_wait_for_buffers_in_their_order() {
    let Some((mut driver, _, wire)) = started(0) else { return };
    for seed in 0..10 {
        wire.send(&frame(seed, 60));
    }
    for seed in 0..10 {
        give(&mut driver, seed.into(), 1600);
        assert_eq!(take(&mut driver), (frame(seed, 60), 1));
    }
}

#[test]
fn a_frame_that_fits_into_no_buffer_is_lost_alone() {
    let Some((mut driver, _, wire)) = started(0) else { return };
    give(&mut driver, 0, 100);
    wire.send(&frame(1, 1514));
    wire.send(&frame(2, 60));
    assert_eq!(take(&mut driver), (frame(2, 60), 1));
    // Nor does a driver block its card that fills its whole queue with crumbs.
    let Some((mut driver, _, wire)) = started(MRG_RXBUF) else { return };
    for slot in 0..16 {
        give(&mut driver, slot, 20);
    }
    wire.send(&frame(1, 1514));
    wire.send(&frame(2, 60));
    assert_eq!(driver.await_used(RECEIVE), (0, 20));
}

#[test]
fn a_queue_that_takes_more_than_a_turn_is_looked_at_again() {
    let Some((mut driver, _, wire)) = started(EVENT_INDEX) else { return };
    driver.freeze();
    for slot in 0..16 {
        send(&mut driver, slot, &frame(slot as u8, 60), &[72]);
    }
    driver.device.thaw();
    for slot in 0..16 {
        assert_eq!(wire.receive(EXPERIMENT), frame(slot, 60));
    }
    // Only a turn that found nothing more asks.
    await_asked(&driver, TRANSMIT, 16);
}

#[test]
fn what_came_before_the_driver_is_not_for_it() {
    if !own_network() {
        return;
    }
    let (card, _, wire) = card("t0");
    let mut driver = Driver::present(card, ram());
    (0..100).for_each(|seed| wire.send(&frame(seed, 60)));
    driver.set_up(0);
    wire.send(&frame(200, 60));
    give(&mut driver, 0, 2000);
    assert_eq!(take(&mut driver), (frame(200, 60), 1));
}

#[test]
fn hostile_buffers_make_the_card_need_a_reset_and_a_reset_heals_it() {
    let read = |bytes| Raw { address: 0x8000, bytes, flags: 0, next: 0 };
    let write = |bytes| Raw { flags: WRITE, ..read(bytes) };
    for (queue, chain) in [
        (RECEIVE, vec![write(11)]),
        (RECEIVE, vec![read(2000)]),
        (RECEIVE, vec![Raw { address: RAM - 8, ..write(2000) }]),
        (TRANSMIT, vec![read(11)]),
        (TRANSMIT, vec![write(2000)]),
        (TRANSMIT, vec![read(70_000)]),
        (TRANSMIT, vec![read(1 << 20), read(1 << 20)]),
        (CONTROL, vec![read(1), write(1)]),
        (CONTROL, vec![read(2)]),
    ] {
        let Some((mut driver, _, wire)) = started(OFFERED) else { return };
        driver.offer(queue, 0, &chain);
        wire.send(&frame(1, 60));
        while !driver.needs_reset() {
            driver.await_interrupt();
        }
        driver.set_up(OFFERED);
        send(&mut driver, 0, &frame(2, 60), &[72]);
        assert_eq!(wire.receive(EXPERIMENT), frame(2, 60), "{queue} {chain:?}");
        give(&mut driver, 0, 2000);
        wire.send(&frame(3, 60));
        assert_eq!(take(&mut driver), (frame(3, 60), 1), "{queue} {chain:?}");
    }
}

#[test]
fn an_announcement_is_made_by_the_card_and_by_a_driver_that_can() {
    let Some((mut driver, interface, wire)) = started(CTRL_VQ | GUEST_ANNOUNCE) else { return };
    let schedule = Schedule { rounds: 1, ..Schedule::default() };
    for _ in 0..3 {
        interface.announce("", schedule).unwrap();
        // Others are those of the commands before.
        while driver.await_interrupt() & 2 == 0 {}
        assert_eq!(wire.receive(RARP), rarp_frame(mac()));
        assert_eq!(status(&driver), 3);
        assert_eq!(command(&mut driver, &[3, 0]), 0);
        assert_eq!(status(&driver), 1);
    }
    // One that did not take the feature hears nothing of it.
    let Some((driver, interface, wire)) = started(CTRL_VQ) else { return };
    interface.announce("", schedule).unwrap();
    assert_eq!(wire.receive(RARP), rarp_frame(mac()));
    driver.freeze();
    assert_eq!(status(&driver), 1);
}

#[test]
fn all_rounds_are_made_and_none_while_the_machine_stands_still() {
    if !own_network() {
        return;
    }
    let (card, interface, wire) = card("t0");
    // No driver is needed for it.
    let driver = Driver::present(card, ram());
    let soon = Duration::from_millis(1);
    let schedule = Schedule { rounds: 5, initial: soon, step: soon, max: soon };
    interface.announce("", schedule).unwrap();
    (0..5).for_each(|_| assert_eq!(wire.receive(RARP), rarp_frame(mac())));
    driver.freeze();
    interface.announce("", Schedule { rounds: 2, ..schedule }).unwrap();
    // Another's, as a socket does not hear itself.
    Wire::of("t0").send(&frame(1, 60));
    assert_eq!(wire.receive_any(&[RARP, EXPERIMENT]), frame(1, 60), "no sixth round, and the seventh waits");
    driver.device.thaw();
    (0..2).for_each(|_| assert_eq!(wire.receive(RARP), rarp_frame(mac())));
}

#[test]
fn an_address_that_the_guest_sets_is_announced_moves_along_and_ends_with_a_reset() {
    let Some((mut driver, interface, _)) = started(CTRL_VQ | CTRL_MAC_ADDR) else { return };
    let other: MacAddr = "52:54:00:00:00:99".parse().unwrap();
    assert_eq!(driver.config(0, 6), mac().bytes());
    assert_eq!(command(&mut driver, &[1, 1, 0x52, 0x54, 0, 0, 0, 0x99]), 0);
    assert_eq!(command(&mut driver, &[1, 1, 1, 2, 3, 4, 5, 6]), 1, "a group's address");
    assert_eq!(driver.config(0, 6), other.bytes());
    assert_eq!(interface.mac(), other);

    let (mut driver, interface, wire) = moved(&driver);
    assert_eq!((driver.config(0, 6), interface.mac()), (other.bytes().to_vec(), other));
    driver.device.thaw();
    interface.announce("", Schedule::default()).unwrap();
    assert_eq!(wire.receive(RARP), rarp_frame(other));
    driver.set_up(0);
    assert_eq!((driver.config(0, 6), interface.mac()), (mac().bytes().to_vec(), mac()));
}

#[test]
fn a_frame_that_waits_moves_along() {
    let Some((mut driver, _, wire)) = started(MRG_RXBUF | EVENT_INDEX) else { return };
    give(&mut driver, 0, 500);
    wire.send(&frame(1, 1514));
    await_asked(&driver, RECEIVE, 1);
    let (mut driver, _, wire) = moved(&driver);
    wire.send(&frame(2, 60));
    driver.device.thaw();
    for slot in 1..5 {
        give(&mut driver, slot, 500);
    }
    assert_eq!(take(&mut driver), (frame(1, 1514), 4));
    assert_eq!(take(&mut driver), (frame(2, 60), 1));
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let Some((driver, ..)) = started(OFFERED) else { return };
    driver.freeze();
    let (bytes, version) = (driver.device.save(), driver.device.version());
    let (card, ..) = card("t1");
    let other = Driver::frozen(card, driver.ram.clone());
    for length in 0..bytes.len() {
        assert!(other.device.load(version, &bytes[..length]).is_err(), "{length}");
    }
    let mut long = bytes.clone();
    long.push(0);
    assert!(other.device.load(version, &long).is_err());
    // The card's own address, 19 bytes before the end, becomes a group's.
    let mut group = bytes.clone();
    group[bytes.len() - 19] = 1;
    assert!(other.device.load(version, &group).is_err());
    let layout = other.device.layout();
    crate::state::testing::assert_layout(&layout, &bytes, || other.device.load(version, &bytes).unwrap());
    assert_eq!(other.device.save(), bytes);
}

/// Gives the tap an address, so that the host's own stack sends frames by it.
fn address(tap: &str) -> bool {
    let ip = |words: &str| Command::new("ip").args(words.split(' ')).status().is_ok_and(|it| it.success());
    let done =
        ip(&format!("addr add 10.9.8.1/24 dev {tap}")) && ip(&format!("neigh add 10.9.8.2 lladdr {} dev {tap}", mac()));
    if !done {
        skip::skip("the command 'ip' is not to be had");
    }
    done
}

/// The flags in the header of a datagram that the host sends to the guest: 1 if its checksum is
/// left to the guest.
fn datagram_flags(driver: &mut Driver, slot: u16) -> u8 {
    give(driver, slot, 2000);
    UdpSocket::bind("10.9.8.1:0").unwrap().send_to(b"hello", "10.9.8.2:7").unwrap();
    let (head, _) = driver.await_used(RECEIVE);
    driver.memory().read_obj(GuestAddress(place(driver, RECEIVE, head as u16))).unwrap()
}

#[test]
fn the_tap_leaves_to_the_driver_what_it_took_also_after_a_move() {
    let Some((mut driver, ..)) = started(0) else { return };
    if !address("t0") {
        return;
    }
    assert_eq!(datagram_flags(&mut driver, 0), 0);
    driver.set_up(OFFERED);
    assert_eq!(datagram_flags(&mut driver, 0), 1);
    let offloads = |bits: u64| [&[5, 0][..], &bits.to_le_bytes()].concat();
    assert_eq!(command(&mut driver, &offloads(0)), 0);
    assert_eq!(datagram_flags(&mut driver, 1), 0);
    assert_eq!(command(&mut driver, &offloads(1 << 40)), 1, "an offload that is none");
    assert_eq!(command(&mut driver, &offloads(GUEST_CSUM)), 0);
    assert_eq!(datagram_flags(&mut driver, 2), 1);

    let (mut there, ..) = moved(&driver);
    drop(driver);
    let _ = Command::new("ip").args(["addr", "flush", "dev", "t0"]).status();
    assert!(address("t1"));
    there.device.thaw();
    assert_eq!(datagram_flags(&mut there, 3), 1);
    // What was chosen later moves along as well.
    assert_eq!(command(&mut there, &offloads(0)), 0);
    let (again, ..) = moved_to("t2", &there);
    assert_eq!(again.device.save(), there.device.save());
}

#[test]
fn a_card_outlives_its_tap() {
    let Some((mut driver, ..)) = started(OFFERED) else { return };
    give(&mut driver, 0, 2000);
    let deleted = Command::new("ip").args(["link", "delete", "t0"]).status().is_ok_and(|it| it.success());
    if !deleted {
        return skip::skip("the command 'ip' is not to be had");
    }
    send(&mut driver, 0, &frame(1, 60), &[72]);
    assert_eq!(driver.await_used(TRANSMIT), (0, 0));
    assert_eq!(command(&mut driver, &[3, 0]), 0);
    driver.freeze();
}
