//! The source gives pages back to the host once the destination has them, and nothing of the guest
//! is lost by it.

use std::sync::atomic::Ordering;

use whimbrel_postcopy::ram::PageIndex;
use whimbrel_postcopy::source::{Limits, Policy};
use whimbrel_postcopy::stats::Status;

use crate::common::TestGuest;
use crate::{BLOCKS, begin_with, completed, denied, live_on};

fn limits(passes: u32, postcopy_bandwidth: u64) -> Limits {
    Limits { policy: Policy::AfterPasses(passes), release: true, postcopy_bandwidth, ..Limits::default() }
}

/// How many pages of the guest hold something here.
fn left(guest: &TestGuest) -> usize {
    let block =
        |(block, pages): (usize, &u64)| (0..*pages).filter(|page| !guest.ram[block].is_zero(PageIndex(*page))).count();
    BLOCKS.iter().enumerate().map(block).sum()
}

#[test]
fn nothing_is_left_of_a_guest_that_went_and_it_is_whole_there() {
    if denied() {
        return;
    }
    for (passes, tcp, multifd) in [(0, false, 0), (1, true, 0), (0, true, 2), (1, false, 2)] {
        println!("passes {passes}, tcp {tcp}, multifd {multifd}");
        let mut pair = begin_with(limits(passes, 40 << 20), tcp, multifd, |_, _| ());
        live_on(&pair, u64::from(passes) + 3);
        completed(&mut pair);
        assert_eq!(left(&pair.source), 0);
    }
}

/// A recovery goes by what the destination has, and only that was let go of.
#[test]
fn a_link_that_breaks_after_pages_are_gone_is_joined_again() {
    if denied() {
        return;
    }
    let pair = begin_with(limits(1, 1 << 20), false, 0, |_, _| ());
    let before = left(&pair.source);
    let end = std::thread::scope(|scope| {
        let (source, destination, application) =
            (pair.source.clone(), pair.destination.clone(), pair.application.clone());
        let watch = pair.source_watch.clone();
        // Where the guest runs on it asks for all of its pages at once: that waits until some were
        // given back.
        let (broken, begins) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            let mut begun = false;
            let mut random = crate::common::Random(4);
            let ended = || watch.seen().last().is_some_and(|status| status.is_ended());
            while !ended() {
                source.step(|| application.visit(&source, &mut random));
                begun = begun || begins.try_recv().is_ok();
                if begun {
                    destination.step(|| application.visit(&destination, &mut random));
                }
            }
        });
        pair.source_watch.until(&[Status::PostcopyActive]);
        while left(&pair.source) > before * 3 / 4 {
            std::thread::yield_now();
        }
        let handed_over = pair.source.handed_over.load(Ordering::SeqCst);
        assert!(!handed_over, "it was over before anything was given back");
        pair.leaving.break_link();
        broken.send(()).unwrap();
        crate::recovery::survive(pair)
    });
    assert_eq!(end, crate::recovery::End::Joined);
}
