//! A valid stream, recorded from the real source, is cut after every byte: a destination never
//! takes an end for success.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use whimbrel_postcopy::destination;
use whimbrel_postcopy::source::{self, Limits};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::wire::{Answer, Header, Hello, tag};

use crate::common::{TestGuest, Watch};
use crate::peer::{Network, answer, hang_up, say};

const BLOCKS: [u64; 1] = [3];

/// Copies one direction and keeps what it copied.
fn tee(mut from: UnixStream, mut to: UnixStream, kept: Arc<Mutex<Vec<u8>>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            kept.lock().unwrap().extend(&buffer[..count]);
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        hang_up(&to);
    });
}

/// What the source said on its two channels in a whole migration.
fn record(postcopy: bool) -> [Vec<u8>; 2] {
    let (guest, arriving) = (TestGuest::new(&BLOCKS, true), TestGuest::new(&BLOCKS, false));
    guest.write(0, 1, 1);
    let (left, right) = (Network::default(), Network::default());
    let (watch, other) = (Watch::new(), Watch::new());
    let mut to = destination::start(arriving.clone(), Box::new(right.clone()), other.clone()).unwrap();
    let limits = Limits { policy: postcopy.then_some(0).into(), ..Limits::default() };
    let mut from = source::start(guest, Arc::new(left.clone()), limits, watch.clone()).unwrap();
    let kept: [Arc<Mutex<Vec<u8>>>; 2] = Default::default();
    for forward in &kept {
        let near = left.open();
        // The source connects in turn: the second channel only after the first was answered.
        let far = right.open();
        tee(near.try_clone().unwrap(), far.try_clone().unwrap(), forward.clone());
        tee(far, near, Arc::default());
    }
    watch.until(&[Status::Completed]);
    other.until(&[Status::Completed]);
    from.join();
    to.join();
    kept.map(|bytes| bytes.lock().unwrap().clone())
}

/// Where the message of this number ends in a control stream.
fn end_of(stream: &[u8], wanted: u16) -> usize {
    let mut at = Hello::LEN;
    loop {
        let header = Header::decode(stream[at..at + Header::LEN].try_into().unwrap()).unwrap();
        at += Header::LEN + header.length as usize;
        if header.tag == wanted {
            return at;
        }
    }
}

/// How a destination ends that hears `control` and `demand` and then the end of both.
fn ends_as(control: &[u8], demand: &[u8]) -> (Status, Option<String>, bool) {
    let (guest, watch, network) = (TestGuest::new(&BLOCKS, false), Watch::new(), Network::default());
    let mut handle = destination::start(guest.clone(), Box::new(network.clone()), watch.clone()).unwrap();
    let open = |bytes: &[u8]| {
        let mut channel = network.open();
        say(&mut channel, &bytes[..Hello::LEN]);
        assert!(matches!(answer(&mut channel), Answer::Welcome { .. }));
        channel
    };
    let mut channels = [open(control), open(demand)];
    say(&mut channels[0], &control[Hello::LEN..]);
    say(&mut channels[1], &demand[Hello::LEN..]);
    hang_up(&channels[0]);
    let status = watch.until(&[Status::Failed, Status::PostcopyPaused, Status::Completed]);
    handle.abandon();
    (status, handle.report().error, guest.is_running())
}

fn every_cut(postcopy: bool) {
    let [control, demand] = record(postcopy);
    let ready = end_of(&control, tag::STATE);
    let owned = end_of(&control, tag::HAND_OVER);
    let complete = end_of(&control, tag::COMPLETE);
    assert_eq!(complete + Header::LEN, control.len(), "only 'goodbye' comes after it");
    for end in Hello::LEN..=control.len() {
        let (status, error, runs) = ends_as(&control[..end], &demand);
        let expected = match end {
            _ if end < ready => Status::Failed,
            // The source may have handed the guest over: it never ran here, and the source is told
            // so when it asks.
            _ if end < owned => Status::PostcopyPaused,
            // A precopy's pages are all here with the hand-over; a postcopy's are not before the
            // last of them.
            _ if !postcopy || end >= complete => Status::Completed,
            _ if end + Header::LEN >= complete => status,
            _ => Status::PostcopyPaused,
        };
        assert_eq!(status, expected, "cut after byte {end} of {}: {error:?}", control.len());
        assert_eq!(runs, end >= owned, "cut after byte {end}");
        if status != Status::Completed {
            let error = error.unwrap();
            assert!(error.contains("the peer closed the connection"), "cut after byte {end}: {error}");
        }
    }
}

#[test]
fn a_precopy_cut_after_every_byte() {
    every_cut(false);
}

#[test]
fn a_postcopy_cut_after_every_byte() {
    every_cut(true);
}

#[test]
fn a_hello_cut_after_every_byte_is_a_stranger() {
    let network = Network::default();
    let guest = TestGuest::new(&BLOCKS, false);
    let mut handle = destination::start(guest.clone(), Box::new(network.clone()), Watch::new()).unwrap();
    let hello = crate::peer::hello(whimbrel_postcopy::wire::ChannelKind::Control).encode();
    for end in 0..Hello::LEN {
        let mut channel = network.open();
        say(&mut channel, &hello[..end]);
        hang_up(&channel);
        assert!(matches!(answer(&mut channel), Answer::Refused(_)));
    }
    assert_eq!(handle.report().status, Status::Setup);
    handle.abandon();
}
