use super::*;
use crate::net::rarp_frame;
use crate::net::testing::{Wire, await_input, own_network};

/// A type of frame that nobody else uses (it is set aside for experiments).
const EXPERIMENT: u16 = 0x88b5;

fn named(name: &str) -> Result<Tap, TapError> {
    Tap::open(&TapSource::Named(name.to_owned()))
}

fn inherited(fd: RawFd) -> Result<Tap, TapError> {
    Tap::open(&TapSource::Inherited(fd))
}

fn tun() -> File {
    OpenOptions::new().read(true).write(true).open(TUN).unwrap()
}

/// The next frame of the test's own.
fn receive(tap: &Tap) -> Vec<u8> {
    loop {
        await_input(tap);
        let mut frame = vec![0xee; 2000];
        let length = tap.receive(&mut frame).unwrap();
        frame.truncate(length);
        if frame[HEADER + 12..HEADER + 14] == EXPERIMENT.to_be_bytes() {
            return frame;
        }
    }
}

#[test]
fn frames_go_both_ways_behind_a_header_of_twelve_bytes() {
    if !own_network() {
        return;
    }
    let tap = named("t0").unwrap();
    assert_eq!(tap.name(), "t0");
    assert!(interface_is_up("t0").unwrap(), "one that was created is set up");
    let wire = Wire::of("t0");

    let frame = rarp_frame("52:54:00:12:34:56".parse().unwrap());
    let sent = tap.send(&[IoSlice::new(&[0; HEADER]), IoSlice::new(&frame[..20]), IoSlice::new(&frame[20..])]).unwrap();
    assert_eq!(sent, HEADER + frame.len());
    assert_eq!(wire.receive(0x8035), frame);

    let mut frame = vec![0xff; 12];
    frame.extend(EXPERIMENT.to_be_bytes());
    frame.extend([7; 100]);
    wire.send(&frame);
    let received = receive(&tap);
    // No offloads, so nothing is left to be done; the last field says that the frame lies in one
    // buffer.
    assert_eq!(received[..10], [0; 10]);
    assert_eq!(received[HEADER..], frame);
}

#[test]
fn an_empty_tap_does_not_wait() {
    if !own_network() {
        return;
    }
    let tap = named("t0").unwrap();
    let mut frame = [0; 2000];
    // The host's own frames first, if it has any.
    let end = std::iter::repeat_with(|| tap.receive(&mut frame)).find_map(Result::err).unwrap();
    assert_eq!(end.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_tap_has_one_user() {
    if !own_network() {
        return;
    }
    let first = named("t0").unwrap();
    let error = named("t0").unwrap_err();
    assert!(matches!(error, TapError::Taken(_)), "{error}");
    drop(first);
    named("t0").unwrap();
}

#[test]
fn another_interface_is_no_tap() {
    if !own_network() {
        return;
    }
    let error = named("lo").unwrap_err();
    assert!(matches!(error, TapError::NotATap(_)), "{error}");
}

#[test]
fn a_tap_with_several_queues_serves_with_one() {
    if !own_network() {
        return;
    }
    let other = tun();
    attach_tap(&other, "mq0", TapMode { queues: true, ..TapMode::CARD }).unwrap();
    let tap = named("mq0").unwrap();
    assert!(!interface_is_up("mq0").unwrap(), "one that exists stays as it is");
    assert_eq!(identify_tap(tap.as_fd()).unwrap(), ("mq0".to_owned(), TapMode { queues: true, ..TapMode::CARD }));
}

#[test]
fn an_open_tap_is_taken_over() {
    if !own_network() {
        return;
    }
    let theirs = tun();
    attach_tap(&theirs, "t0", TapMode::CARD).unwrap();
    set_interface_up("t0").unwrap();
    let tap = inherited(theirs.as_raw_fd()).unwrap();
    assert_eq!(tap.name(), "t0");
    drop(theirs);
    let wire = Wire::of("t0");
    let frame = rarp_frame("52:54:00:12:34:56".parse().unwrap());
    tap.send(&[IoSlice::new(&[0; HEADER]), IoSlice::new(&frame)]).unwrap();
    assert_eq!(wire.receive(0x8035), frame);
    // It was opened to wait and does not any more. Asked, not tried: a test that waits for ever
    // says nothing.
    let flags = OFlag::from_bits_retain(fcntl(&tap.file, FcntlArg::F_GETFL).unwrap());
    assert!(flags.contains(OFlag::O_NONBLOCK));
}

#[test]
fn descriptors_that_are_no_card_are_named() {
    if !own_network() {
        return;
    }
    let error = inherited(1_000_000).unwrap_err();
    assert!(matches!(error, TapError::Closed(1_000_000)), "{error}");
    let null = File::open("/dev/null").unwrap();
    let error = inherited(null.as_raw_fd()).unwrap_err();
    assert!(matches!(error, TapError::FdNotATap(_)), "{error}");
    let fresh = tun();
    let error = inherited(fresh.as_raw_fd()).unwrap_err();
    assert!(matches!(error, TapError::FdNotATap(_)), "{error}");
    let headless = tun();
    attach_tap(&headless, "t0", TapMode { header: false, ..TapMode::CARD }).unwrap();
    let error = inherited(headless.as_raw_fd()).unwrap_err();
    assert!(matches!(&error, TapError::FdMode(_, name) if name == "t0"), "{error}");
}

#[test]
fn the_kernel_takes_every_offload_a_guest_may_choose() {
    if !own_network() {
        return;
    }
    let tap = named("t0").unwrap();
    for bits in 0..16 {
        let on = |bit: u32| bits & bit != 0;
        let offload = Offload { checksum: on(1), tso4: on(2), tso6: on(4), ecn: on(8) };
        tap.set_offload(offload).unwrap();
    }
    let all = Offload { checksum: true, tso4: true, tso6: true, ecn: true };
    assert_eq!(all.bits(), 15);
    assert_eq!(Offload { checksum: false, ..all }.bits(), 0);
    assert_eq!(Offload { tso4: false, tso6: false, ..all }.bits(), 1);
}
