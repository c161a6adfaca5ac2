//! Streams on which a destination answers late, or never: the source has begun by then, and goes on
//! with it or without.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "../../tests/e2e/support/skip.rs"]
mod skip;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use common::{TestGuest, Watch};
use whimbrel_postcopy::channel::Connector;
use whimbrel_postcopy::destination::{self, DestinationHandle, Options};
use whimbrel_postcopy::source::{self, Limits, SourceHandle};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::stream::{Descriptor, Listening, Playing, Recording};
use whimbrel_postcopy::uffd::Uffd;

const PAGES: u64 = 3000;

struct Leaving {
    guest: Arc<TestGuest>,
    watch: Arc<Watch>,
    recording: Arc<Recording>,
    handle: SourceHandle,
    /// The other end of the stream.
    there: OwnedFd,
}

/// A guest that leaves so slowly that somebody can answer on the way.
fn leave_slowly() -> Leaving {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let ours = OwnedFd::from(ours);
    let (guest, watch) = (TestGuest::new(&[PAGES], true), Watch::new());
    (0..PAGES).filter(|page| page % 3 != 0).for_each(|page| guest.write(0, page, 1));
    let sink = Box::new(Descriptor::new(ours.try_clone().unwrap()).unwrap());
    let recording = Arc::new(Recording::with_way_back(sink, ours, Listening::Aside).unwrap());
    let limits = Limits { bandwidth: 1 << 20, ..Limits::default() };
    let connector: Arc<dyn Connector> = recording.clone();
    let handle = source::start(guest.clone(), connector, limits, watch.clone()).unwrap();
    watch.until(&[Status::Active]);
    Leaving { guest, watch, recording, handle, there: theirs.into() }
}

fn arrive(there: OwnedFd, pages: u64) -> (Arc<TestGuest>, Arc<Watch>, DestinationHandle) {
    let (guest, watch) = (TestGuest::new(&[pages], false), Watch::new());
    let playing = Playing::with_way_back(there.try_clone().unwrap(), there).unwrap();
    let handle = destination::start_with(guest.clone(), Box::new(playing), watch.clone(), Options::default()).unwrap();
    (guest, watch, handle)
}

fn same(one: &TestGuest, other: &TestGuest) {
    (0..PAGES).for_each(|page| assert_eq!(one.read(0, page), other.read(0, page), "page {page}"));
}

fn denied() -> bool {
    Uffd::open().inspect_err(|error| skip::skip(&whimbrel_postcopy::error::sentence(error))).is_err()
}

#[test]
fn a_destination_that_answers_late_is_joined_and_takes_the_rest_by_postcopy() {
    if denied() {
        return;
    }
    let leaving = leave_slowly();
    // So far nobody can ask for pages, and nobody runs the guest.
    assert!(leaving.handle.start_postcopy().is_err() && leaving.recording.only_keeps());
    let (arriving, arrived, _handle) = arrive(leaving.there, PAGES);
    while leaving.handle.start_postcopy().is_err() {
        assert!(!leaving.handle.report().status.is_ended(), "{:?}", leaving.handle.report().error);
        std::thread::yield_now();
    }
    leaving.handle.set_limits(Limits::default());
    assert_eq!(leaving.watch.until(&[Status::Completed, Status::Failed]), Status::Completed);
    assert_eq!(arrived.until(&[Status::Completed, Status::Failed]), Status::Completed);
    assert!(arrived.seen().contains(&Status::PostcopyActive), "{:?}", arrived.seen());
    assert!(!leaving.recording.only_keeps(), "the destination runs the guest");
    assert!(!leaving.guest.is_running() && arriving.is_running());
    same(&arriving, &leaving.guest);
}

#[test]
fn a_destination_that_answers_late_and_refuses_is_heard() {
    let leaving = leave_slowly();
    let (arriving, arrived, _handle) = arrive(leaving.there, PAGES - 1);
    assert_eq!(leaving.watch.until(&[Status::Completed, Status::Failed]), Status::Failed);
    let error = leaving.handle.report().error.unwrap();
    assert!(error.contains("the destination did not start the guest"), "{error}");
    assert_eq!(arrived.until(&[Status::Completed, Status::Failed]), Status::Failed);
    leaving.guest.await_running();
    assert!(!arriving.is_running());
}

#[test]
fn a_cancel_is_heard_by_a_destination_that_was_joined_late() {
    let leaving = leave_slowly();
    let (arriving, arrived, handle) = arrive(leaving.there, PAGES);
    // An answer alone is not enough: a stream that is cancelled before the next message's end was
    // never joined.
    while leaving.recording.joined_late().is_none() {
        std::thread::yield_now();
    }
    leaving.handle.cancel().unwrap();
    leaving.watch.until(&[Status::Cancelled]);
    arrived.until(&[Status::Failed]);
    let error = handle.report().error.unwrap();
    assert!(error.contains("cancelled on the source"), "{error}");
    leaving.guest.await_running();
    assert!(!arriving.is_running());
}
