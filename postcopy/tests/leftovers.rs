//! However a migration over a stream ends, its reader sees the end, and no thread and no descriptor
//! stays behind. One test, for it counts those of the whole process.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{TestGuest, Watch};
use whimbrel_postcopy::source::{self, Limits};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::stream::{Descriptor, Listening, Recording};

fn count(what: &str) -> usize {
    fs::read_dir(format!("/proc/self/{what}")).unwrap().count()
}

/// Waits until so many threads and descriptors are left.
fn only(threads: usize, fds: usize, case: &str) {
    let limit = Instant::now() + Duration::from_secs(20);
    while (count("task"), count("fd")) != (threads, fds) {
        assert!(Instant::now() < limit, "{case}: {} threads of {threads}, {} fds of {fds}", count("task"), count("fd"));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What its reader does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// Takes all, and says nothing.
    Silent,
    /// Takes nothing.
    Deaf,
    /// Goes away after a while.
    Leaves,
    /// Says what nobody asked for.
    Talks,
}

fn pages(n: u64) -> Arc<TestGuest> {
    let guest = TestGuest::new(&[n], true);
    (0..n).for_each(|page| guest.write(0, page, 1));
    guest
}

/// One migration over a stream socket; another descriptor of this end stays open meanwhile, as an
/// inherited one does.
fn over_a_socket(reader: Reader, cancel: bool) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let ours = OwnedFd::from(ours);
    let kept = ours.try_clone().unwrap();
    // More than a socket holds.
    let (guest, watch) = (pages(4000), Watch::new());
    let sink = Box::new(Descriptor::new(ours.try_clone().unwrap()).unwrap());
    let recording = Recording::with_way_back(sink, ours, Listening::Wished).unwrap();
    let reading = std::thread::spawn(move || {
        let mut theirs = theirs;
        let mut bytes = Vec::new();
        match reader {
            Reader::Silent => drop(theirs.read_to_end(&mut bytes).unwrap()),
            Reader::Deaf => return Some(theirs),
            Reader::Leaves => drop(theirs.read_exact(&mut vec![0; 100_000])),
            Reader::Talks => {
                io::Write::write_all(&mut theirs, &[0xff; 100_000]).unwrap();
                theirs.read_to_end(&mut bytes).unwrap();
            }
        }
        None
    });
    let mut handle = source::start(guest.clone(), Arc::new(recording), Limits::default(), watch.clone()).unwrap();
    if cancel {
        watch.until(&[Status::Active]);
        handle.cancel().unwrap();
    }
    let end = watch.until(&[Status::Completed, Status::Failed, Status::Cancelled]);
    handle.join();
    let wanted = match (cancel, reader) {
        (true, _) => Status::Cancelled,
        (false, Reader::Leaves) => Status::Failed,
        (false, _) => Status::Completed,
    };
    // A small guest may be there before it can be cancelled.
    assert_eq!(end, wanted, "{reader:?}: {:?}", handle.report().error);
    // The reader sees the end although `kept` is open.
    drop(reading.join().unwrap());
    drop(kept);
}

#[test]
fn nothing_stays_behind_however_a_stream_ends() {
    let (threads, fds) = (count("task"), count("fd"));
    for (reader, cancel) in
        [(Reader::Silent, false), (Reader::Deaf, true), (Reader::Leaves, false), (Reader::Talks, false)]
    {
        over_a_socket(reader, cancel);
        only(threads, fds, &format!("{reader:?}, cancelled: {cancel}"));
    }
    // A command's output is a pipe that other programs may hold for longer.
    let ((read, write), (back, held)) = (io::pipe().unwrap(), io::pipe().unwrap());
    let guest = pages(10);
    let watch = Watch::new();
    let sink = Box::new(Descriptor::new(write.into()).unwrap());
    let recording = Recording::with_way_back(sink, back.into(), Listening::Wished).unwrap();
    let mut handle = source::start(guest, Arc::new(recording), Limits::default(), watch.clone()).unwrap();
    assert_eq!(watch.until(&[Status::Completed, Status::Failed]), Status::Completed);
    handle.join();
    let mut bytes = Vec::new();
    File::from(OwnedFd::from(read)).read_to_end(&mut bytes).unwrap();
    assert!(bytes.starts_with(b"WHIMBREL") && held.as_fd().try_clone_to_owned().is_ok());
    drop((held, handle));
    only(threads, fds, "a pipe that others hold");
}
