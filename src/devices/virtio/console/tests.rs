#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::super::testing::{self, Driver, Raw, WRITE};
use super::*;
use crate::devices::SavedDevice;
use crate::state::testing::assert_layout;

/// Output that remembers.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Rig {
    driver: Driver,
    inbox: Arc<Inbox>,
    paper: Paper,
    room: Arc<AtomicUsize>,
}

fn console() -> (Console, Paper, Arc<AtomicUsize>) {
    let (paper, room) = (Paper::default(), Arc::new(AtomicUsize::new(0)));
    let calls = room.clone();
    let told = move || {
        calls.fetch_add(1, Ordering::SeqCst);
    };
    (Console::new(Box::new(paper.clone()), Box::new(told)).unwrap(), paper, room)
}

fn rig() -> Rig {
    let (console, paper, room) = console();
    let inbox = console.inbox();
    Rig { driver: Driver::start(Box::new(console), 0), inbox, paper, room }
}

impl Rig {
    /// Gives the device a buffer of `bytes` bytes for input.
    fn offer(&mut self, head: u16, bytes: u32) {
        let address = self.place(head);
        self.driver.offer(RECEIVE, head, &[Raw { address, bytes, flags: WRITE, next: 0 }]);
    }

    fn place(&self, head: u16) -> u64 {
        self.driver.buffers(RECEIVE) + 0x2000 * u64::from(head)
    }

    /// The next input that the driver gets.
    fn input(&mut self) -> Vec<u8> {
        let (head, written) = self.driver.await_used(RECEIVE);
        let mut bytes = vec![0; written as usize];
        self.driver.memory().read_slice(&mut bytes, GuestAddress(self.place(head as u16))).unwrap();
        bytes
    }

    /// Sends all of `bytes` as the other end's thread does: what is not taken waits.
    fn send(&self, bytes: &[u8]) {
        let start = Instant::now();
        let mut sent = 0;
        while sent < bytes.len() {
            sent += self.inbox.receive(&bytes[sent..]);
            assert!(start.elapsed() < Duration::from_secs(10), "no input is taken");
        }
    }
}

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|at| b'a' + (at % 23) as u8).collect()
}

#[test]
fn output_goes_out_in_order_whatever_its_size() {
    let mut rig = rig();
    let long = text(3 * PIECE + 5);
    for bytes in [b"hello ".as_slice(), b"", &long] {
        assert!(rig.driver.request(TRANSMIT, bytes, 0).is_empty());
    }
    assert_eq!(*rig.paper.0.lock().unwrap(), [b"hello ".as_slice(), &long].concat());
}

#[test]
fn input_waits_for_buffers_and_the_rest_with_its_sender() {
    let mut rig = rig();
    let input = text(INBOX + 10);
    rig.send(&input[..INBOX]);
    assert_eq!(rig.inbox.receive(b"x"), 0);
    let told = rig.room.load(Ordering::SeqCst);
    rig.offer(0, 100);
    assert_eq!(rig.input(), input[..100]);
    assert!(rig.room.load(Ordering::SeqCst) > told);
    rig.send(&input[INBOX..]);
    let mut got = Vec::new();
    while got.len() < input.len() - 100 {
        rig.offer(1, 4096);
        got.extend(rig.input());
    }
    assert_eq!(got, input[100..]);
    // Buffers that were there first.
    rig.offer(4, 64);
    rig.send(b"now");
    assert_eq!(rig.input(), b"now");
}

#[test]
fn a_buffer_without_room_takes_nothing_and_loses_nothing() {
    let mut rig = rig();
    rig.send(b"abc");
    rig.offer(0, 0);
    assert_eq!(rig.input(), b"");
    rig.offer(1, 2);
    assert_eq!(rig.input(), b"ab");
    rig.offer(2, 2);
    assert_eq!(rig.input(), b"c");
}

#[test]
fn no_input_is_taken_before_the_machine_runs_and_after_it_was_saved() {
    let (console, _, _) = console();
    let inbox = console.inbox();
    let driver = Driver::frozen(Box::new(console), testing::ram());
    assert_eq!(inbox.receive(b"early"), 0);
    driver.device.thaw();
    let start = Instant::now();
    while inbox.receive(b"x") == 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "no input is taken");
    }
    driver.freeze();
    driver.device.save();
    assert_eq!(inbox.receive(b"late"), 0);
}

#[test]
fn input_that_the_guest_has_not_got_yet_moves_with_it() {
    let mut source = rig();
    let input = text(300);
    source.send(&input);
    source.offer(0, 100);
    assert_eq!(source.input(), input[..100]);
    source.driver.freeze();
    let saved = source.driver.device.save();

    let (console, paper, room) = console();
    let inbox = console.inbox();
    let driver = Driver::frozen(Box::new(console), source.driver.ram.clone());
    driver.device.load(driver.device.version(), &saved).unwrap();
    let mut destination = Rig { driver, inbox, paper, room };
    destination.driver.adopt(&source.driver);
    // Typed at the new place, before the guest runs there.
    assert_eq!(destination.inbox.receive(b"z"), 0);
    destination.driver.device.thaw();
    destination.offer(1, 150);
    assert_eq!(destination.input(), input[100..250]);
    destination.send(b"z");
    destination.offer(2, 50);
    assert_eq!(destination.input(), input[250..]);
    destination.offer(3, 50);
    assert_eq!(destination.input(), b"z");
    assert!(destination.driver.request(TRANSMIT, b"out", 0).is_empty());
    assert_eq!(*destination.paper.0.lock().unwrap(), b"out");
}

#[test]
fn a_source_that_goes_on_has_its_input_still() {
    let mut rig = rig();
    rig.send(b"abc");
    rig.driver.freeze();
    rig.driver.device.save();
    rig.driver.device.thaw();
    rig.offer(0, 10);
    assert_eq!(rig.input(), b"abc");
    rig.send(b"d");
    rig.offer(1, 10);
    assert_eq!(rig.input(), b"d");
}

#[test]
fn a_reset_keeps_input_for_the_next_driver() {
    let mut rig = rig();
    rig.send(b"abc");
    rig.driver.set_up(0);
    rig.offer(0, 10);
    assert_eq!(rig.input(), b"abc");
}

#[test]
fn a_request_that_is_far_too_long_needs_a_reset() {
    let mut rig = rig();
    let raw = Raw { address: 0, bytes: REQUEST as u32 / 2 + 1, flags: 0, next: 0 };
    rig.driver.offer(TRANSMIT, 0, &[raw, raw]);
    rig.driver.await_interrupt();
    assert!(rig.driver.needs_reset());
    assert!(rig.paper.0.lock().unwrap().is_empty());
    rig.driver.set_up(0);
    rig.driver.request(TRANSMIT, b"again", 0);
    assert_eq!(*rig.paper.0.lock().unwrap(), b"again");
}

#[test]
fn its_layout_is_what_is_read() {
    let (mut console, ..) = console();
    console.inbox.lock().bytes = b"abc".iter().copied().collect();
    let bytes = console.save();
    assert_layout(console.layout(), &bytes, || console.load(1, &bytes).unwrap());
}

#[test]
fn bad_states_are_refused_and_change_nothing() {
    let (mut console, ..) = console();
    console.inbox.lock().bytes = b"abc".iter().copied().collect();
    let good = console.save();
    assert!(console.load(2, &good).is_err());
    for length in 0..good.len() {
        assert!(console.load(1, &good[..length]).is_err());
    }
    assert!(console.load(1, &[&good[..], b"x"].concat()).is_err());
    let mut long = 4097u32.to_le_bytes().to_vec();
    long.extend([0; 4097]);
    assert!(matches!(console.load(1, &long), Err(StateError::Value { .. })));
    assert_eq!(console.save(), good);
    console.load(1, &good).unwrap();
    assert_eq!(console.save(), good);
}
