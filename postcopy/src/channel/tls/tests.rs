use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use super::super::{Batch, Channel, ChannelError, DestinationTls, MessageReader, SourceTls, TlsError, Wake};
use super::*;
use crate::memory::AnonymousRam;
use crate::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};
use crate::wire::{Forward, decode_forward};

#[path = "../../../tests/common/certificates.rs"]
mod certificates;

use certificates::{Authority, Directory};

/// A source's and a destination's end that do not know each other yet.
fn strangers(directory: &Directory, pair: (Channel, Channel)) -> (Channel, Channel) {
    let source = SourceTls::load(directory.path(), "localhost").unwrap();
    let destination = DestinationTls::load(directory.path()).unwrap();
    (pair.0.encrypt_to_destination(&source).unwrap(), pair.1.encrypt_to_source(&destination).unwrap())
}

fn tcp() -> (Channel, Channel) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let source = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (Channel::new(source.into()).unwrap(), Channel::new(listener.accept().unwrap().0.into()).unwrap())
}

fn shake_hands(source: &Channel, destination: &Channel) {
    let mut done = (false, false);
    while done != (true, true) {
        done = [source, destination].map(|it| it.handshake().unwrap() == Handshake::Done).into();
    }
}

fn connected(pair: (Channel, Channel)) -> (Channel, Channel) {
    let (source, destination) = strangers(&Directory::complete(&Authority::new()), pair);
    shake_hands(&source, &destination);
    (source, destination)
}

fn send(channel: &Channel, bytes: &[u8]) {
    channel.send(bytes, &Wake::new().unwrap(), &|| false).unwrap();
}

fn session(channel: &Channel) -> MutexGuard<'_, Session> {
    channel.tls.as_ref().unwrap().session()
}

/// A small pseudo-random sequence.
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

#[test]
fn bytes_arrive_in_order_however_they_are_cut_and_through_new_keys() {
    for (seed, pair) in [(3, Channel::pair().unwrap()), (4, tcp())] {
        let (source, destination) = connected(pair);
        setsockopt(&source, sockopt::SndBuf, &4096).unwrap();
        const TOTAL: usize = 3_000_000;
        let byte = |at: usize| (at % 251) as u8;
        let sender = std::thread::spawn(move || {
            let (mut at, mut random) = (0, seed);
            while at < TOTAL {
                let count = (next(&mut random) % 70_000 + 1).min(TOTAL - at);
                let bytes: Vec<u8> = (at..at + count).map(byte).collect();
                send(&source, &bytes);
                at += count;
                if next(&mut random).is_multiple_of(4) {
                    session(&source).connection.refresh_traffic_keys().unwrap();
                }
            }
            source.finish();
            source
        });
        let (wake, mut at, mut random) = (Wake::new().unwrap(), 0, seed);
        let mut buffer = vec![0; 100_000];
        loop {
            let most = next(&mut random) % buffer.len() + 1;
            match destination.receive(&mut buffer[..most]) {
                Ok(0) => break,
                Ok(count) => {
                    assert!((0..count).all(|it| buffer[it] == byte(at + it)), "from {at} on, seed {seed}");
                    at += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    assert!(destination.wait(false, &wake, None).unwrap().readable);
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(at, TOTAL);
        drop(sender.join().unwrap());
    }
}

#[test]
fn pages_go_from_ram_to_ram_in_all_lengths_together_with_what_stands_between_them() {
    const PAGES: u64 = 1700;
    for pair in [Channel::pair().unwrap(), tcp()] {
        let (source, destination) = connected(pair);
        source.keep_short(1);
        let mut first = 3;
        let runs: Vec<PageRun> = [1, 15, 16, 17, 2, 512, 1, 300, 800]
            .map(|count| {
                let start = PageIndex(first);
                first += u64::from(count);
                PageRun { block: BlockId(0), start, count }
            })
            .into();
        let [from, to] = ["from", "to"].map(|name| AnonymousRam::block(name, PAGES).unwrap());
        let byte = |page: u64| (page % 251) as u8 + 1;
        (0..PAGES).for_each(|page| from.write(PageIndex(page), 0, &[byte(page); PAGE_SIZE]));
        let sent = runs.clone();
        let sender = std::thread::spawn(move || {
            let (mut batch, wake) = (Batch::default(), Wake::new().unwrap());
            for run in &sent {
                batch.push(&Forward::Pages(*run));
                batch.push(&Forward::Barrier(run.count));
                if run.count != 16 {
                    batch.send(std::slice::from_ref(&from), &source, &wake, &|| false).unwrap();
                }
            }
            source
        });
        let (mut reader, wake) = (MessageReader::new(Arc::new(destination), 64 * 1024), Wake::new().unwrap());
        for run in &runs {
            let message = |reader: &mut MessageReader| {
                let header = reader.header(&wake).unwrap();
                let fields = reader.fields(header).unwrap();
                decode_forward(header, &fields).unwrap()
            };
            assert_eq!(message(&mut reader), Forward::Pages(*run));
            reader.contents_into(&to, *run).unwrap();
            assert_eq!(message(&mut reader), Forward::Barrier(run.count));
            for page in run.pages() {
                let mut bytes = [0; PAGE_SIZE];
                to.read(page, &mut bytes);
                assert!(bytes.iter().all(|&it| it == byte(page.0)), "page {}", page.0);
            }
        }
        drop(sender.join().unwrap());
        assert!(matches!(reader.header(&wake), Err(ChannelError::Closed(_))), "without a word, as if killed");
    }
}

#[test]
fn what_tls_has_read_ahead_is_not_waited_for() {
    let (source, destination) = connected(Channel::pair().unwrap());
    send(&source, &[7; 10]);
    let mut byte = [0];
    assert!(!destination.holds_received());
    assert_eq!(destination.receive(&mut byte).unwrap(), 1);
    let mut fds = [PollFd::new(destination.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::ZERO), Ok(0), "the socket is empty");
    assert!(destination.holds_received());
    let wake = Wake::new().unwrap();
    let ready = destination.wait(false, &wake, None).unwrap();
    assert!(ready.readable && !ready.woken);
    wake.ring();
    assert!(destination.wait(false, &wake, None).unwrap().woken, "a ring is seen all the same");
    let mut rest = [0; 20];
    assert_eq!(destination.receive(&mut rest).unwrap(), 9);
    wake.clear();
    assert!(!destination.wait(false, &wake, Some(Duration::ZERO)).unwrap().readable);
    assert_eq!(destination.receive(&mut rest).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_channel_is_closed_once_its_last_bytes_are_taken() {
    let (source, destination) = connected(Channel::pair().unwrap());
    assert!(!destination.is_closed());
    send(&source, &[7; 3]);
    source.finish();
    assert!(!destination.is_closed(), "what was sent is not consumed by looking");
    let mut bytes = [0; 10];
    assert_eq!(destination.receive(&mut bytes).unwrap(), 3);
    assert!(destination.is_closed());
    assert_eq!(destination.receive(&mut bytes).unwrap(), 0);
    send(&destination, b"the other direction is still open");
    assert_eq!(source.receive(&mut bytes).unwrap(), 10);
}

/// A relay that lets so many bytes through.
fn cut_after(bytes: usize) -> (Channel, Channel) {
    let (source, from) = Channel::pair().unwrap();
    let (to, destination) = Channel::pair().unwrap();
    let (source, destination) = strangers(&Directory::complete(&Authority::new()), (source, destination));
    let pass = |from: &Channel, to: &Channel, most: usize| {
        let mut buffer = vec![0; most];
        let Ok(count) = from.receive(&mut buffer) else { return 0 };
        send(to, &buffer[..count]);
        count
    };
    while [&source, &destination].map(|it| it.handshake().unwrap()) != [Handshake::Done; 2] {
        pass(&from, &to, 10_000);
        pass(&to, &from, 10_000);
    }
    send(&source, &[7; 20_000]);
    let mut left = bytes;
    while left > 0 {
        left -= pass(&from, &to, left);
    }
    (source, destination)
}

#[test]
fn a_stream_that_ends_inside_a_record_is_closed_and_gives_nothing_of_it() {
    for (bytes, whole) in [(1, 0), (4000, 0), (16_406, 16_384), (16_407, 16_384)] {
        let (_source, destination) = cut_after(bytes);
        let mut buffer = vec![0; 30_000];
        let mut got = 0;
        loop {
            match destination.receive(&mut buffer[got..]).unwrap() {
                0 => break,
                count => got += count,
            }
        }
        assert_eq!(got, whole, "{bytes} bytes came");
        assert!(destination.is_closed());
    }
}

#[test]
fn bytes_that_were_changed_on_their_way_are_noticed() {
    let (source, destination) = connected(Channel::pair().unwrap());
    raw::send(source.as_fd(), &[RawSlice::of(b"\x17\x03\x03\x00\x20abcdefghijklmnopqrstuvwxyz012345")]).unwrap();
    let error = ChannelError::from(destination.receive(&mut [0; 10]).unwrap_err());
    assert!(matches!(error, ChannelError::Tls(TlsError::Damaged { .. })), "{error:?}");
    let error = ChannelError::from(source.receive(&mut [0; 10]).unwrap_err());
    assert!(matches!(error, ChannelError::Tls(TlsError::Refused(_))), "the other side hears of it: {error:?}");
}

#[test]
fn a_send_that_is_interrupted_goes_on_where_it_was() {
    let (source, destination) = connected(Channel::pair().unwrap());
    setsockopt(&source, sockopt::SndBuf, &4096).unwrap();
    let sent = source.send(&[1; 1_000_000], &Wake::new().unwrap(), &|| true);
    assert!(matches!(sent, Err(ChannelError::Interrupted)));
    let reader = std::thread::spawn(move || {
        let (wake, mut bytes, mut buffer) = (Wake::new().unwrap(), Vec::new(), vec![0; 50_000]);
        while bytes.last() != Some(&2) {
            match destination.receive(&mut buffer) {
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(_) => drop(destination.wait(false, &wake, None).unwrap()),
            }
        }
        bytes
    });
    send(&source, &[2]);
    let bytes = reader.join().unwrap();
    assert!(bytes[..bytes.len() - 1].iter().all(|&it| it == 1), "whole records, in their order");
}

#[test]
fn nothing_is_sent_or_received_before_both_are_known() {
    let (source, destination) = strangers(&Directory::complete(&Authority::new()), Channel::pair().unwrap());
    assert!(source.send(b"page", &Wake::new().unwrap(), &|| false).is_err());
    assert_eq!(destination.receive(&mut [0]).unwrap_err().kind(), io::ErrorKind::NotConnected);
    assert_eq!(destination.handshake().unwrap(), Handshake::Reads);
    assert_eq!(session(&destination).incoming.capacity(), 0, "nothing is allocated for it either");
    shake_hands(&source, &destination);
    assert_eq!(source.peer_certificate(), destination.tls.as_ref().map(|_| source.peer_certificate().unwrap()));
    assert_ne!(source.peer_certificate(), destination.peer_certificate());
}

#[test]
fn nothing_secret_is_printed() {
    let directory = Directory::complete(&Authority::new());
    let (source, destination) = strangers(&directory, Channel::pair().unwrap());
    shake_hands(&source, &destination);
    send(&source, b"contents");
    let tls =
        (SourceTls::load(directory.path(), "localhost").unwrap(), DestinationTls::load(directory.path()).unwrap());
    let text = format!("{source:?} {destination:?} {tls:?}");
    assert!(text.len() < 700, "names and numbers only: {text}");
    assert!(!text.contains("Key") && !text.contains("secret"), "{text}");
}
