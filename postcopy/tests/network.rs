//! What the engine asks of sockets, on real connections.
#![allow(clippy::unwrap_used)]

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::sys::socket::{MsgFlags, getsockopt, recv, sockopt};
use whimbrel_postcopy::channel::{Batch, Channel, ChannelError, MessageReader, Wake};
use whimbrel_postcopy::memory::AnonymousRam;
use whimbrel_postcopy::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};
use whimbrel_postcopy::wire::{Forward, decode_forward};

fn connected() -> (Channel, Channel) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let source = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (destination, _) = listener.accept().unwrap();
    (Channel::new(OwnedFd::from(source)).unwrap(), Channel::new(OwnedFd::from(destination)).unwrap())
}

/// How many bytes a channel takes without its peer reading any.
fn taken(channel: &Channel, most: usize) -> usize {
    let (bytes, wake, mut taken) = (vec![1; 4096], Wake::new().unwrap(), 0);
    while taken < most && channel.wait(true, &wake, Some(std::time::Duration::from_millis(100))).unwrap().writable {
        channel.send(&bytes, &wake, &|| true).unwrap();
        taken += bytes.len();
    }
    taken
}

#[test]
fn tcp_tells_what_it_knows_about_the_way() {
    let (source, _destination) = connected();
    let before = source.network().unwrap();
    let wake = Wake::new().unwrap();
    source.send(&[1; 100_000], &wake, &|| false).unwrap();
    let acknowledged = || source.network().unwrap().arrived - before.arrived;
    for _ in 0..1000 {
        if acknowledged() == 100_000 {
            break;
        }
        source.wait(false, &wake, Some(std::time::Duration::from_millis(1))).unwrap();
    }
    let after = source.network().unwrap();
    assert_eq!((acknowledged(), after.in_flight, after.unsent), (100_000, 0, 0));
    assert!(after.round_trip.as_nanos() > 0 && after.shortest <= after.round_trip, "{after:?}");
    assert!(after.segments_in > before.segments_in && after.segment > 500 && after.rate > 0, "{after:?}");
}

#[test]
fn a_pace_arrives_at_the_socket_also_one_that_needs_64_bits_and_is_taken_back() {
    let (source, _destination) = connected();
    assert_eq!(source.network().unwrap().pace, u64::MAX);
    for rate in [12_500_000, 6_000_000_000, u64::MAX] {
        source.pace(rate).unwrap();
        assert_eq!(source.network().unwrap().pace, rate);
    }
}

#[test]
fn a_paced_channel_goes_at_its_pace() {
    let (source, destination) = connected();
    source.keep_short(1);
    source.pace(20_000_000).unwrap();
    let reader = std::thread::spawn(move || {
        let (wake, mut left, mut buffer) = (Wake::new().unwrap(), 4_000_000, vec![0; 65536]);
        while left > 0 {
            destination.wait(false, &wake, None).unwrap();
            left -= nix::unistd::read(destination.as_fd(), &mut buffer).unwrap_or(0);
        }
    });
    let begun = std::time::Instant::now();
    source.send(&vec![1; 4_000_000], &Wake::new().unwrap(), &|| false).unwrap();
    reader.join().unwrap();
    // 200 ms, of which a first burst may be missing.
    assert!(begun.elapsed().as_millis() > 120, "{:?}", begun.elapsed());
}

#[test]
fn a_short_channel_keeps_little_unsent() {
    let (source, _destination) = connected();
    source.keep_short(1);
    taken(&source, 64 << 20);
    let network = source.network().unwrap();
    assert!(network.unsent < 512 * 1024, "{network:?}");
}

#[test]
fn a_marked_channel_has_the_priority_of_what_somebody_waits_for() {
    let (source, _destination) = connected();
    assert_eq!(getsockopt(&source, sockopt::Priority).unwrap(), 0);
    source.mark_interactive();
    assert_eq!(getsockopt(&source, sockopt::Priority).unwrap(), 6);
}

#[test]
fn a_unix_socket_has_no_network() {
    let (source, _destination) = Channel::pair().unwrap();
    source.keep_short(1);
    source.mark_interactive();
    assert_eq!(source.network(), None);
    assert!(taken(&source, 64 << 20) < 2 << 20, "it is short all the same");
}

/// Long runs are lent over a unix socket and copied over TCP, short ones are gathered: all arrive
/// as they are, in their order, also through a socket that holds little.
#[test]
fn runs_of_every_length_arrive_as_they_are() {
    const PAGES: u64 = 2100;
    const ROUNDS: u8 = 3;
    let lengths = [1, 15, 16, 17, 2, 512, 1, 300, 800];
    let runs: Vec<PageRun> = lengths
        .iter()
        .scan(3, |next, &count| {
            Some(PageRun {
                block: BlockId(0),
                start: PageIndex(std::mem::replace(next, *next + u64::from(count))),
                count,
            })
        })
        .collect();
    for (source, destination) in [Channel::pair().unwrap(), connected()] {
        source.keep_short(1);
        let [from, to] = ["from", "to"].map(|name| AnonymousRam::block(name, PAGES).unwrap());
        let byte = |page: u64, round: u8| (page % 251) as u8 ^ round;
        let (sender_runs, ram) = (runs.clone(), [from]);
        let sender = std::thread::spawn(move || {
            let (mut batch, wake) = (Batch::default(), Wake::new().unwrap());
            for round in 0..ROUNDS {
                for run in &sender_runs {
                    // A page that was lent is read when it is received: it may not change before.
                    let marks = |page: u64| [byte(page, round); PAGE_SIZE];
                    run.pages().for_each(|page| ram[0].write(page, 0, &marks(page.0)));
                    batch.push(&Forward::Pages(*run));
                }
                batch.push(&Forward::Barrier(u32::from(round)));
                batch.send(&ram, &source, &wake, &|| false).unwrap();
                while !source.wait(false, &wake, None).unwrap().readable {}
                let mut answer = [0];
                let got = recv(source.as_fd().as_raw_fd(), &mut answer, MsgFlags::empty());
                assert_eq!(got, Ok(1));
            }
        });
        let channel = Arc::new(destination);
        let (mut reader, wake) = (MessageReader::new(channel.clone(), 64 * 1024), Wake::new().unwrap());
        for round in 0..ROUNDS {
            let mut next = || {
                let header = reader.header(&wake).unwrap();
                let fields = reader.fields(header).unwrap();
                let message = decode_forward(header, &fields).unwrap();
                if let Forward::Pages(run) = message {
                    reader.contents_into(&to, run).unwrap();
                }
                message
            };
            for run in &runs {
                assert_eq!(next(), Forward::Pages(*run));
            }
            assert_eq!(next(), Forward::Barrier(u32::from(round)));
            for page in runs.iter().flat_map(|run| run.pages()) {
                let mut bytes = [0; PAGE_SIZE];
                to.read(page, &mut bytes);
                assert!(bytes.iter().all(|&it| it == byte(page.0, round)), "page {} in round {round}", page.0);
            }
            channel.send(&[1], &wake, &|| false).unwrap();
        }
        sender.join().unwrap();
    }
}

/// Pages that are not wanted are read past, in all their lengths and however much of them is in the
/// buffer: what stands behind them arrives as it is.
#[test]
fn contents_that_are_skipped_leave_what_stands_behind_them() {
    const PAGES: u64 = 600;
    let run = |start, count| PageRun { block: BlockId(0), start: PageIndex(start), count };
    // The pages of each run that are skipped, from its begin on.
    let runs =
        [(run(0, 1), 1), (run(1, 1), 0), (run(2, 3), 2), (run(5, 40), 39), (run(45, 500), 200), (run(545, 9), 9)];
    for (source, destination) in [Channel::pair().unwrap(), connected()] {
        source.keep_short(1);
        let [from, to] = ["from", "to"].map(|name| AnonymousRam::block(name, PAGES).unwrap());
        let byte = |page: u64| (page % 251) as u8 + 1;
        (0..PAGES).for_each(|page| from.write(PageIndex(page), 0, &[byte(page); PAGE_SIZE]));
        let sender = std::thread::spawn(move || {
            let (mut batch, wake) = (Batch::default(), Wake::new().unwrap());
            for (number, (run, _)) in (0..).zip(runs) {
                batch.push(&Forward::Pages(run));
                batch.push(&Forward::Barrier(number));
            }
            batch.send(&[from], &source, &wake, &|| false).unwrap();
            source
        });
        let (mut reader, wake) = (MessageReader::new(Arc::new(destination), 64 * 1024), Wake::new().unwrap());
        let next = |reader: &mut MessageReader| {
            let header = reader.header(&wake).unwrap();
            let fields = reader.fields(header).unwrap();
            decode_forward(header, &fields).unwrap()
        };
        for (number, (run, skipped)) in (0..).zip(runs) {
            assert_eq!(next(&mut reader), Forward::Pages(run));
            let rest =
                PageRun { start: PageIndex(run.start.0 + u64::from(skipped)), count: run.count - skipped, ..run };
            reader.skip(skipped as usize * PAGE_SIZE).unwrap();
            if rest.count > 0 {
                reader.contents_into(&to, rest).unwrap();
            }
            assert_eq!(next(&mut reader), Forward::Barrier(number));
            for page in run.pages() {
                let mut bytes = [0; PAGE_SIZE];
                to.read(page, &mut bytes);
                let expected = if page < rest.start { 0 } else { byte(page.0) };
                assert!(bytes.iter().all(|&it| it == expected), "page {}", page.0);
            }
        }
        // The source ends inside contents that are not wanted.
        drop(sender.join().unwrap());
        assert!(matches!(reader.skip(1), Err(ChannelError::Closed(_))));
    }
}
