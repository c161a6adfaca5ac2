//! Pages go compressed, as what has changed of them, or with their zeros unseen, while the guest
//! runs on.

use std::sync::Arc;
use std::time::Duration;

use whimbrel_postcopy::channel::{Listener, UnixAddress};
use whimbrel_postcopy::destination;
use whimbrel_postcopy::encoding::{Compression, Encoding, PageEncoding, ZeroPages};
use whimbrel_postcopy::ram::PAGE_SIZE;
use whimbrel_postcopy::source::{self, Limits, Policy};
use whimbrel_postcopy::stats::{Report, Status};
use whimbrel_postcopy::wire::Features;

use crate::common::{TestGuest, Watch};
use crate::{BLOCKS, begin_with, completed, denied, live_on, only, socket_path};

/// Room for a part of the pages only.
const XBZRLE: PageEncoding = PageEncoding::Xbzrle { cache: 1024 * PAGE_SIZE as u64 };

/// What the source says of a migration of this kind, which went well.
fn moved(encoding: Encoding, policy: Policy, channels: u8) -> Report {
    println!("{encoding:?} {policy:?} {channels} channels");
    let postcopy_bandwidth = if policy == Policy::AfterPasses(0) { 40 << 20 } else { 0 };
    // The application writes as fast as it can: a host that is slow to compress would never be
    // within the usual limit.
    let downtime = Duration::from_secs(60);
    let limits = Limits { policy, bandwidth: 200 << 20, postcopy_bandwidth, encoding, downtime, ..Limits::default() };
    let mut pair = begin_with(limits, false, channels, |_, _| ());
    live_on(&pair, 11);
    completed(&mut pair);
    pair.leaving.report()
}

#[test]
fn every_encoding_moves_a_running_guest_in_every_mode() {
    if denied() {
        return;
    }
    for contents in
        [XBZRLE, PageEncoding::Compressed(Compression::Zlib(1)), PageEncoding::Compressed(Compression::Zstd(1))]
    {
        let encoding = Encoding { contents, ..Encoding::default() };
        for (policy, channels) in
            [(Policy::Manual, 0), (Policy::Manual, 2), (Policy::AfterPasses(2), 2), (Policy::AfterPasses(0), 0)]
        {
            let report = moved(encoding, policy, channels);
            match (contents, policy) {
                (PageEncoding::Compressed(_), Policy::AfterPasses(0)) => {}
                // The pages hold little else than zeros.
                (PageEncoding::Compressed(_), _) => {
                    assert!(report.ram.transferred < report.ram.normal * PAGE_SIZE as u64 / 8, "{:?}", report.ram);
                }
                (_, Policy::AfterPasses(0)) => assert_eq!(report.deltas.map(|deltas| deltas.pages), Some(0)),
                _ => {
                    let deltas = report.deltas.unwrap();
                    assert!(deltas.pages > 0, "{deltas:?}");
                    assert!(deltas.bytes < deltas.pages * 200, "{deltas:?}");
                }
            }
        }
    }
}

#[test]
fn zero_pages_are_seen_by_whoever_is_to_look() {
    if denied() {
        return;
    }
    let zeros: u64 = BLOCKS.iter().map(|pages| pages.div_ceil(7)).sum();
    for (zero_pages, seen) in [(ZeroPages::Unseen, false), (ZeroPages::ByMigration, true), (ZeroPages::BySender, true)]
    {
        for (contents, channels) in [(PageEncoding::Whole, 0), (PageEncoding::Whole, 2), (XBZRLE, 0)] {
            println!("{zero_pages:?} {contents:?} {channels} channels");
            let encoding = Encoding { zero_pages, contents };
            // Nobody writes one of them meanwhile.
            let mut pair = begin_with(Limits { encoding, ..Limits::default() }, false, channels, |_, _| ());
            completed(&mut pair);
            let ram = pair.leaving.report().ram;
            assert_eq!(ram.duplicate, if seen { zeros } else { 0 }, "{ram:?}");
        }
    }
}

#[test]
fn the_room_for_sent_pages_can_be_changed_on_the_way() {
    if denied() {
        return;
    }
    let encoding = |pages: u64| Encoding {
        contents: PageEncoding::Xbzrle { cache: pages * PAGE_SIZE as u64 },
        ..Encoding::default()
    };
    let downtime = Duration::from_secs(60);
    let slow = Limits { bandwidth: 4 << 20, encoding: encoding(4096), downtime, ..Limits::default() };
    let mut pair = begin_with(slow, false, 0, |_, _| ());
    pair.source_watch.until(&[Status::Active]);
    for pages in [64, 8192, 2048] {
        pair.leaving.set_limits(Limits { encoding: encoding(pages), ..slow });
        while pair.leaving.report().deltas.is_none_or(|deltas| deltas.cache_size != pages * PAGE_SIZE as u64) {
            std::thread::yield_now();
        }
    }
    pair.leaving.set_limits(Limits { bandwidth: 0, encoding: encoding(2048), ..slow });
    live_on(&pair, 5);
    completed(&mut pair);
}

#[test]
fn a_destination_of_a_time_before_is_refused_before_anything_moves() {
    let before = Features::POSTCOPY.and(Features::MULTIFD);
    for (contents, sentence) in [
        (XBZRLE, "takes no XBZRLE pages"),
        (PageEncoding::Compressed(Compression::Zstd(1)), "takes no compressed pages"),
    ] {
        let (source, destination) = (TestGuest::new(&BLOCKS, true), TestGuest::new(&BLOCKS, false));
        let address = UnixAddress(socket_path());
        let listener = Box::new(Listener::unix(&address).unwrap());
        let (watch, other) = (Watch::new(), Watch::new());
        let mut arriving = destination::start_with(destination, listener, other, only(before)).unwrap();
        let encoding = Encoding { contents, ..Encoding::default() };
        let limits = Limits { encoding, ..Limits::default() };
        let mut leaving = source::start(source.clone(), Arc::new(address), limits, watch.clone()).unwrap();
        assert_eq!(watch.until(&[Status::Completed, Status::Failed]), Status::Failed);
        leaving.join();
        let error = leaving.report().error.unwrap();
        assert!(error.contains(sentence), "{error}");
        assert!(source.is_running());
        arriving.abandon();
    }
}
