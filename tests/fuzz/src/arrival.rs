//! The destination's driver with all its threads, at the other end of sockets that say anything.
//!
//! Every piece is a byte that names the channel, and counted bytes for it.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use whimbrel_postcopy::bitmap::PageBitmap;
use whimbrel_postcopy::channel::{Acceptor, Channel, ChannelError, Wake};
use whimbrel_postcopy::destination;
use whimbrel_postcopy::guest::{
    Configuration, DestinationGuest, DirtyLog, GuestError, GuestRam, OutgoingGuest, PausableGuest, PausedGuest,
    Pausing, Section, SnapshotGuest, SourceGuest,
};
use whimbrel_postcopy::memory::{AnonymousRam, RamBlock};
use whimbrel_postcopy::progress::Observer;
use whimbrel_postcopy::ram::{BlockId, PageRun};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::wire::{Answer, ChannelKind, Features, Hello, Token, tag};

use crate::input::{Input, counted};
use crate::{Seed, decoder};

/// How long the destination may take to see that its peer is gone.
const PATIENCE: Duration = Duration::from_secs(8);
/// In the order in which a source opens them.
const KINDS: [ChannelKind; 3] = [ChannelKind::Control, ChannelKind::Multifd, ChannelKind::Demand];

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A guest without CPUs.
struct Body {
    ram: Vec<RamBlock>,
    running: AtomicBool,
}

impl PausableGuest for Body {
    fn pause(&self, pausing: Pausing) -> Result<PausedGuest, GuestError> {
        Ok(pausing.paused(true))
    }
    fn resume(&self, _guest: PausedGuest) -> Result<(), GuestError> {
        Ok(())
    }
}

impl GuestRam for Body {
    fn ram(&self) -> &[RamBlock] {
        &self.ram
    }
}

impl DirtyLog for Body {
    fn start_dirty_log(&self) -> Result<(), GuestError> {
        Ok(())
    }
    fn sync_dirty(&self, _block: BlockId, _dirty: &PageBitmap) -> Result<(), GuestError> {
        Ok(())
    }
    fn clear_dirty(&self, _run: PageRun, _dirty: &PageBitmap) -> Result<(), GuestError> {
        Ok(())
    }
    fn stop_dirty_log(&self) -> Result<(), GuestError> {
        Ok(())
    }
}

impl OutgoingGuest for Body {
    fn configuration(&self) -> Configuration {
        vec![("vcpus".into(), "1".into())]
    }
}

impl SourceGuest for Body {
    fn save(&self) -> Result<Vec<Section>, GuestError> {
        Ok(Vec::new())
    }
    fn handed_over(&self) {}
}

impl SnapshotGuest for Body {
    fn save_staying(&self) -> Result<Vec<Section>, GuestError> {
        self.save()
    }
}

impl DestinationGuest for Body {
    fn check_configuration(&self, source: &Configuration) -> Result<(), GuestError> {
        if *source == self.configuration() { Ok(()) } else { Err("another machine".into()) }
    }
    fn load(&self, _sections: &[Section]) -> Result<(), GuestError> {
        Ok(())
    }
    fn run(&self, _running: bool, sure: &dyn Fn()) -> Result<(), GuestError> {
        sure();
        self.running.store(true, Ordering::SeqCst);
        Ok(())
    }
    fn vcpu_of_thread(&self, _tid: i32) -> Option<usize> {
        None
    }
    fn vcpus(&self) -> usize {
        1
    }
}

/// Hears how it stands.
#[derive(Default)]
struct Watch(Mutex<Option<Status>>, Condvar);

impl Observer for Watch {
    fn status(&self, status: Status) {
        *lock(&self.0) = Some(status);
        self.1.notify_all();
    }
    fn pass(&self, _pass: u64) {}
}

/// Sockets that are there from the beginning.
struct Waiting(Mutex<VecDeque<UnixStream>>);

impl Acceptor for Waiting {
    fn accept(&self, wake: &Wake) -> Result<Channel, ChannelError> {
        if let Some(stream) = lock(&self.0).pop_front() {
            return Channel::new(stream.into()).map_err(ChannelError::Io);
        }
        let _ = poll(&mut [PollFd::new(wake.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
        wake.clear();
        Err(ChannelError::Interrupted)
    }
}

pub fn check(data: &[u8]) {
    let mut said = KINDS.map(|_| Vec::new());
    let mut input = Input(data);
    while let (Some(channel), Some(bytes)) = (input.u8(), input.counted()) {
        said[usize::from(channel % 3)].extend(bytes);
    }
    let pairs = KINDS.map(|_| UnixStream::pair().expect("sockets"));
    let (ours, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let block = |(name, pages)| AnonymousRam::block(name, pages).expect("memory");
    let body = Body { ram: [("ram0", 70), ("ram1", 3)].map(block).to_vec(), running: AtomicBool::new(false) };
    let (body, watch) = (Arc::new(body), Arc::new(Watch::default()));
    let acceptor = Box::new(Waiting(Mutex::new(theirs.into())));
    let mut handle = destination::start(body.clone(), acceptor, watch.clone()).expect("a thread");
    // The peer is a thread a channel: it says all it has, hangs up, and hears the rest.
    for (mut stream, kind) in ours.iter().zip(KINDS) {
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let features = Features::POSTCOPY.and(Features::MULTIFD);
        let hello = Hello { versions: (1, 1), kind, recover: false, token: Token([7; 16]), features };
        stream.write_all(&hello.encode()).expect("the destination listens");
        stream.read_exact(&mut [0; Answer::LEN]).expect("the destination answers");
    }
    let peers: Vec<_> = ours
        .into_iter()
        .zip(said)
        .map(|(mut stream, said)| {
            std::thread::spawn(move || {
                let _ = stream.write_all(&said);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            })
        })
        .collect();
    let over = |status: &mut Option<Status>| {
        !matches!(status, Some(Status::Completed | Status::Failed | Status::PostcopyPaused))
    };
    let (status, late) =
        watch.1.wait_timeout_while(lock(&watch.0), PATIENCE, over).unwrap_or_else(PoisonError::into_inner);
    let status = *status;
    assert!(!late.timed_out(), "the peer is gone, and the destination stands at {status:?}");
    let report = handle.report();
    handle.abandon();
    peers.into_iter().for_each(|peer| drop(peer.join()));
    let runs = body.running.load(Ordering::SeqCst);
    match status {
        Some(Status::Completed) => assert!(runs, "a guest that arrived does not run"),
        // Whoever said that it is ready, and heard nothing more, waits for its source without
        // having run the guest.
        Some(Status::PostcopyPaused) => {}
        _ => assert!(!runs, "{status:?}, and the guest runs"),
    }
    assert!(status != Some(Status::Completed) || report.ram.remaining == 0);
    assert!(status == Some(Status::Completed) || report.error.is_some_and(|error| !error.contains('\n')));
}

pub fn seeds() -> Vec<Seed> {
    let channel = |kind: u8, wanted: &[u16]| {
        let messages = decoder::forwards();
        let ordered = wanted.iter().flat_map(|tag| messages.iter().find(|it| it.tag() == *tag));
        let bytes: Vec<u8> = ordered.flat_map(decoder::encoded).collect();
        [&[kind][..], &counted(&bytes)].concat()
    };
    let begin = [tag::CONFIGURATION, tag::RAM];
    let with = |more: &[u16]| channel(0, &[&begin[..], more].concat());
    let pages = [tag::PASS_BEGIN, tag::ZEROS, tag::PAGES, tag::COMPRESSED, tag::XBZRLE, tag::PASS_END, tag::BARRIER];
    vec![
        ("precopy", with(&[&pages[..], &[tag::STATE, tag::HAND_OVER, tag::COMPLETE]].concat())),
        (
            "postcopy",
            [with(&[tag::LISTEN, tag::STATE, tag::HAND_OVER, tag::COMPLETE]), channel(2, &[tag::ZEROS, tag::PAGES])]
                .concat(),
        ),
        ("hybrid", with(&[&pages[..], &[tag::DISCARD, tag::LISTEN, tag::STATE, tag::HAND_OVER, tag::ZEROS]].concat())),
        (
            "multifd",
            [
                with(&[tag::MULTIFD_START, tag::MULTIFD_FLUSH, tag::PASS_END, tag::STATE]),
                channel(1, &[tag::ZEROS, tag::PAGES, tag::COMPRESSED, tag::MULTIFD_FLUSH]),
            ]
            .concat(),
        ),
        ("cancel", with(&[tag::PASS_BEGIN, tag::CANCEL])),
        ("early", channel(0, &[tag::HAND_OVER])),
    ]
}
