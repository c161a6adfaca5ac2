//! Guests that are saved and stay, paused or with real userfaultfd write protection under writers
//! that race. Files and threads, no KVM.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "../../tests/e2e/support/skip.rs"]
mod skip;

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use common::{TestGuest, Watch};
use whimbrel_postcopy::destination::{self, Options};
use whimbrel_postcopy::error::sentence;
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::stream::{Descriptor, Outline, Paging, Playing, SaveMode, Saving, save};
use whimbrel_postcopy::uffd::Uffd;
use whimbrel_postcopy::wire::Features;

/// More than some huge pages; the second block has pages that nobody ever touches.
const BLOCKS: [u64; 2] = [5000, 1100];
const ENDS: [Status; 3] = [Status::Completed, Status::Failed, Status::Cancelled];

/// The page that write number `n` goes to.
fn page_of(n: u64) -> (usize, u64) {
    let random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xd6e8_feb8_6659_fd93);
    if random >> 60 == 0 { (1, random % 700) } else { (0, random % BLOCKS[0]) }
}

/// Writes one page after the other, each with the number of the write, which is the guest's state.
struct Application {
    guest: Arc<TestGuest>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Application {
    fn begin() -> Self {
        let guest = TestGuest::new(&BLOCKS, true);
        *guest.state.lock().unwrap() = 0u64.to_le_bytes().to_vec();
        let stop = Arc::new(AtomicBool::new(false));
        let writer = |guest: Arc<TestGuest>, stop: Arc<AtomicBool>| {
            move || {
                while !stop.load(Ordering::SeqCst) {
                    guest.step(|| {
                        let n = writes(&guest) + 1;
                        let (block, page) = page_of(n);
                        guest.write(block, page, n);
                        *guest.state.lock().unwrap() = n.to_le_bytes().to_vec();
                    });
                }
            }
        };
        let threads = (0..2).map(|_| std::thread::spawn(writer(guest.clone(), stop.clone()))).collect();
        let this = Self { guest, stop, threads };
        this.await_writes(2000);
        this
    }

    fn await_writes(&self, more: u64) {
        let from = writes(&self.guest);
        while writes(&self.guest) < from + more {
            std::thread::yield_now();
        }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

fn writes(guest: &TestGuest) -> u64 {
    u64::from_le_bytes(guest.state.lock().unwrap().as_slice().try_into().unwrap())
}

/// Each page holds the last of the guest's first so many writes that went to it.
fn assert_as_written(guest: &TestGuest) {
    let mut last = BLOCKS.map(|pages| vec![0; pages as usize]);
    let count = writes(guest);
    for n in 1..=count {
        let (block, page) = page_of(n);
        last[block][page as usize] = n;
    }
    for (block, pages) in last.iter().enumerate() {
        for (page, generation) in (0..).zip(pages) {
            let right = *guest.read(block, page) == TestGuest::stamp(page, *generation);
            assert!(right, "after {count} writes page {page} of block {block} does not hold write {generation}");
        }
    }
}

fn background() -> Option<SaveMode> {
    match Uffd::open_for_writes() {
        Ok(uffd) => Some(SaveMode::Background { uffd, bandwidth: 0 }),
        Err(error) => {
            skip::skip(&sentence(&error));
            None
        }
    }
}

fn begin(application: &Application, to: OwnedFd, way: SaveMode) -> (Saving, Arc<Watch>) {
    let watch = Watch::new();
    let sink = Box::new(Descriptor::new(to).unwrap());
    (save(application.guest.clone(), sink, way, watch.clone()).unwrap(), watch)
}

/// What was written while the application ran on.
fn saved(application: &Application, way: SaveMode) -> File {
    let mut file = tempfile::tempfile().unwrap();
    let (saving, watch) = begin(application, file.try_clone().unwrap().into(), way);
    assert_eq!(watch.until(&ENDS), Status::Completed, "{:?}", saving.report().error);
    let report = saving.report();
    assert_eq!(report.ram.normal + report.ram.duplicate, BLOCKS.iter().sum::<u64>());
    assert!(report.ram.normal > 500 && report.ram.duplicate > 0 && report.ram.remaining == 0);
    assert!(report.downtime.is_some());
    file.rewind().unwrap();
    file
}

fn loaded(file: File, lazily: bool) -> Arc<TestGuest> {
    let (guest, watch) = (TestGuest::new(&BLOCKS, false), Watch::new());
    let handle = match lazily {
        true => {
            let paging = Box::new(Paging::new(file).unwrap());
            destination::start_with(guest.clone(), paging, watch.clone(), Options::default())
        }
        false => {
            let options = Options { features: Features::default(), listen_again: None };
            destination::start_with(guest.clone(), Box::new(Playing::new(file.into()).unwrap()), watch.clone(), options)
        }
    };
    let handle = handle.unwrap();
    assert_eq!(watch.until(&ENDS), Status::Completed, "{:?}", handle.report().error);
    assert!(guest.is_running());
    guest
}

#[test]
fn what_is_saved_in_the_background_is_the_guest_of_one_moment() {
    let Some(mut way) = background() else { return };
    let application = Application::begin();
    for round in 0..3 {
        let before = writes(&application.guest);
        let file = saved(&application, way);
        let guest = loaded(file.try_clone().unwrap(), false);
        let of = writes(&guest);
        assert!(before <= of && of <= writes(&application.guest), "round {round}");
        assert_as_written(&guest);
        // Nothing is protected any more.
        application.await_writes(5000);
        way = background().unwrap();
    }
    let guest = application.guest.clone();
    drop(application);
    assert_as_written(&guest);
}

#[test]
fn a_guest_that_is_paused_to_be_saved_goes_on() {
    let application = Application::begin();
    let file = saved(&application, SaveMode::Paused);
    assert_eq!(application.guest.resumed.load(Ordering::SeqCst), 1);
    application.await_writes(1000);
    let guest = loaded(file, false);
    assert!(writes(&guest) < writes(&application.guest));
    assert_as_written(&guest);
}

#[test]
fn a_saved_guest_can_be_demanded_page_by_page_also_where_the_table_is_damaged() {
    if background().is_none() {
        return;
    }
    let application = Application::begin();
    let file = saved(&application, SaveMode::Paused);
    // Clones read on from where the others stand.
    let from_the_begin = || {
        let mut file = file.try_clone().unwrap();
        file.rewind().unwrap();
        file
    };
    let outline = Outline::of(from_the_begin()).unwrap();
    assert!(outline.running && outline.blocks.len() == 2);
    assert_eq!(outline.configuration, *application.guest.configuration.lock().unwrap());
    assert_as_written(&loaded(from_the_begin(), true));
    let end = file.metadata().unwrap().len();
    file.write_all_at(&[0xff; 4], end - 60).unwrap();
    assert!(Outline::of(from_the_begin()).is_err());
    assert_as_written(&loaded(from_the_begin(), true));
}

#[test]
fn a_guest_that_cannot_be_written_runs_on_and_the_reason_is_told() {
    for way in [Some(SaveMode::Paused), background()].into_iter().flatten() {
        let application = Application::begin();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (saving, watch) = begin(&application, full.into(), way);
        assert_eq!(watch.until(&ENDS), Status::Failed);
        assert!(saving.report().error.unwrap().contains("could not be written: No space left"));
        application.await_writes(5000);
    }
}

#[test]
fn a_snapshot_that_nobody_reads_can_be_cancelled() {
    for way in [Some(SaveMode::Paused), background()].into_iter().flatten() {
        let application = Application::begin();
        let (read, write) = io::pipe().unwrap();
        let (saving, watch) = begin(&application, write.into(), way);
        watch.until(&[Status::Active]);
        saving.cancel();
        assert_eq!(watch.until(&ENDS), Status::Cancelled);
        application.await_writes(5000);
        drop(saving);
        let mut rest = Vec::new();
        File::from(OwnedFd::from(read)).read_to_end(&mut rest).unwrap();
    }
}

#[test]
fn a_thread_that_panics_fails_the_snapshot_and_not_the_guest() {
    let Some(way) = background() else { return };
    let application = Application::begin();
    // Of the thread that lets writers go on, when it looks up where they write.
    let fault = common::Fault { thread: "snap-writes", method: "ram", call: 1 };
    *application.guest.fault.lock().unwrap() = Some(fault);
    // Nothing comes to an end before somebody reads.
    let (read, write) = io::pipe().unwrap();
    let (saving, watch) = begin(&application, write.into(), way);
    while application.guest.fault.lock().unwrap().is_some() {
        std::thread::yield_now();
    }
    application.await_writes(5000);
    let reader = std::thread::spawn(move || File::from(OwnedFd::from(read)).read_to_end(&mut Vec::new()));
    assert_eq!(watch.until(&ENDS), Status::Failed);
    let error = saving.report().error.unwrap();
    assert!(error.contains("panicked: ram fails on snap-writes"), "{error}");
    application.await_writes(5000);
    reader.join().unwrap().unwrap();
}
