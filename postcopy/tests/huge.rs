//! A guest arrives in huge pages, whichever of its pages were touched on the way, and does not take
//! its memory twice. Alone in their process, and one after the other: these tests look at how its
//! memory is made up.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "../../tests/e2e/support/skip.rs"]
mod skip;

use std::fs::read_to_string;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Random, TestGuest, Watch};
use whimbrel_postcopy::channel::{Listener, UnixAddress};
use whimbrel_postcopy::destination;
use whimbrel_postcopy::ram::PAGE_SIZE;
use whimbrel_postcopy::source::{self, Limits, Multifd, Policy};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::uffd::Uffd;

const CHUNKS: u64 = 16;
/// The last ones are no whole huge page.
const PAGES: u64 = CHUNKS * 512 + 100;
/// Zero from begin to end.
const ZERO_CHUNK: u64 = 5;

/// Why this host cannot show it.
fn unable() -> Option<String> {
    let uffd = match Uffd::open() {
        Ok(uffd) => uffd,
        Err(error) => return Some(whimbrel_postcopy::error::sentence(&error)),
    };
    if !uffd.moves() {
        return Some("this kernel cannot move pages (UFFDIO_MOVE, Linux 6.8)".into());
    }
    if read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").is_ok_and(|it| it.contains("[never]")) {
        return Some("this host has no transparent huge pages".into());
    }
    let release = read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (version < (6, 14)).then(|| format!("Linux {release} leaves empty page tables behind"))
}

fn huge_mib() -> u64 {
    let told = read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = told.lines().find_map(|line| line.strip_prefix("AnonHugePages:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

fn generation(page: u64) -> u64 {
    u64::from(page / 512 != ZERO_CHUNK && !(page / 512 == 2 && page.is_multiple_of(3)))
}

fn is_written_last(page: u64) -> bool {
    page % 512 == 77 && page / 512 != ZERO_CHUNK
}

/// Moves a guest whose pages are visited all the while; gives the huge memory that it has
/// afterwards, in MiB.
fn moved(postcopy_after: u32, channels: u8) -> u64 {
    let (source, destination) = (TestGuest::new(&[PAGES], true), TestGuest::new(&[PAGES], false));
    (0..PAGES).filter(|&page| generation(page) > 0).for_each(|page| source.write(0, page, 1));
    let address = UnixAddress(std::env::temp_dir().join(format!("whimbrel-huge-{}", std::process::id())));
    let (source_watch, watch) = (Watch::new(), Watch::new());
    let listener = Box::new(Listener::unix(&address).unwrap());
    let mut arriving = destination::start(destination.clone(), listener, watch.clone()).unwrap();
    // Slow enough that pages of every chunk are written in a pass and touched before they come.
    let limits = Limits {
        policy: Policy::AfterPasses(postcopy_after),
        bandwidth: 60 << 20,
        postcopy_bandwidth: 60 << 20,
        ..Limits::default()
    };
    let to = Arc::new(address);
    let multifd = Multifd { channels, postcopy: true };
    let mut leaving = source::start_with(source.clone(), to, limits, source_watch.clone(), multifd).unwrap();
    let mut generations: Vec<u64> = (0..PAGES).map(generation).collect();
    // Written after the destination was told what is stale: stale once more, in huge pages that
    // were taken out of RAM already.
    for page in (0..PAGES).filter(|page| is_written_last(*page)) {
        source.last_writes.lock().unwrap().push((0, page, 2));
        generations[page as usize] = 2;
    }
    let mut random = Random(7);
    let mut visit = |guest: &TestGuest| {
        let page = random.below(PAGES);
        let generation = &mut generations[page as usize];
        if is_written_last(page) && std::ptr::eq(guest, &*source) {
            return;
        }
        assert!(*guest.read(0, page) == TestGuest::stamp(page, *generation), "page {page} is not of {generation}");
        if page / 512 != ZERO_CHUNK && !is_written_last(page) && random.below(2) == 0 {
            *generation += 1;
            guest.write(0, page, *generation);
        }
    };
    while source.step(|| visit(&source)) {}
    destination.await_running();
    while arriving.report().status != Status::Completed {
        destination.step(|| visit(&destination));
    }
    assert_eq!(source_watch.until(&[Status::Completed, Status::Failed]), Status::Completed);
    leaving.join();
    arriving.join();
    let demanded = arriving.report().demand.map_or(0, |demand| demand.count);
    assert!(demanded > CHUNKS, "only {demanded} pages were demanded");
    drop((leaving, source));
    let huge = huge_mib();
    for (page, &generation) in generations.iter().enumerate() {
        let page = page as u64;
        assert!(*destination.read(0, page) == TestGuest::stamp(page, generation), "page {page} is not of {generation}");
    }
    huge
}

static ONE: Mutex<()> = Mutex::new(());

fn resident_mib() -> u64 {
    let told = read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = told.split_whitespace().nth(1).unwrap().parse().unwrap();
    (pages * PAGE_SIZE as u64) >> 20
}

/// Everything is touched long before the background brings it: the pages that were placed alone do
/// not pile up beside the memory that waits for them.
#[test]
fn a_guest_that_touches_everything_first_does_not_take_its_memory_twice() {
    if let Some(why) = unable() {
        return skip::skip(&why);
    }
    let _one = ONE.lock();
    const PAGES: u64 = 128 << 8;
    let (source, destination) = (TestGuest::new(&[PAGES], true), TestGuest::new(&[PAGES], false));
    (0..PAGES).for_each(|page| source.write(0, page, 1));
    let one = resident_mib();
    let allowed = one + 128 + 60;
    let address = UnixAddress(std::env::temp_dir().join(format!("whimbrel-twice-{}", std::process::id())));
    let watch = Watch::new();
    let listener = Box::new(Listener::unix(&address).unwrap());
    let mut arriving = destination::start(destination.clone(), listener, watch.clone()).unwrap();
    // The memory that the guest will have; nobody tells of it.
    let begin = Instant::now();
    while resident_mib() < one + 120 && begin.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let limits = Limits { policy: Policy::AfterPasses(0), postcopy_bandwidth: 1 << 20, ..Limits::default() };
    let mut leaving = source::start(source.clone(), Arc::new(address), limits, Watch::new()).unwrap();
    destination.await_running();
    let mut most = 0;
    // All over the place, so that no huge page comes to be whole.
    for page in (0..PAGES).map(|at| at * 12_345 % PAGES) {
        assert!(*destination.read(0, page) == TestGuest::stamp(page, 1), "page {page}");
        destination.write(0, page, 2);
        if page % 64 == 0 {
            most = most.max(resident_mib());
        }
    }
    leaving.set_limits(Limits { postcopy_bandwidth: 0, ..limits });
    assert_eq!(watch.until(&[Status::Completed, Status::Failed]), Status::Completed);
    leaving.join();
    arriving.join();
    for page in 0..PAGES {
        assert!(*destination.read(0, page) == TestGuest::stamp(page, 2), "page {page}");
    }
    assert!(most <= allowed, "{most} MiB were resident, {allowed} are enough");
}

#[test]
fn a_guest_arrives_in_huge_pages_whatever_it_touched_on_the_way() {
    if let Some(why) = unable() {
        return skip::skip(&why);
    }
    let _one = ONE.lock();
    for (passes, multifd) in [(0, 0), (1, 0), (0, 3), (1, 3)] {
        let huge = moved(passes, multifd);
        // All chunks but the zero one, which has no memory; the host may have been short of one or
        // two.
        let whole = 2 * (CHUNKS - 1);
        assert!(
            (whole - 4..=whole + 4).contains(&huge),
            "after {passes} passes, with {multifd} multifd channels, {huge} MiB of {whole} are huge"
        );
    }
}
