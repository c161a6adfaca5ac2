//! Two endpoints, no threads, a virtual clock: the real state machines, the real bytes, modelled links and a modelled guest.
//!
//! Each schedule is drawn from a seed: when the guest writes, when the user switches or cancels, where the link is cut, what
//! the destination refuses. A failed schedule prints its seed; `WHIMBREL_SEED=n` plays that one alone,
//! `WHIMBREL_SCHEDULES=n` plays more of them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod destination;
mod link;
mod memory;
mod plan;
mod source;
mod world;

use std::collections::BTreeMap;

use world::{End, World};

/// Tells the seed of the schedule that panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the schedule is played again by WHIMBREL_SEED={}", self.0);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[test]
fn every_schedule_keeps_the_guest_whole_and_single() {
    let seeds = match number("WHIMBREL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..number("WHIMBREL_SCHEDULES").unwrap_or(5000) + 1,
    };
    let alone = seeds.end - seeds.start == 1;
    let mut ends: BTreeMap<End, u64> = BTreeMap::new();
    let mut rejoined = 0;
    for seed in seeds.clone() {
        let told = Seed(seed);
        let mut world = World::new(seed);
        *ends.entry(world.play()).or_default() += 1;
        rejoined += world.rejoined;
        drop(told);
    }
    println!("{ends:?}, {rejoined} rejoins");
    if !alone {
        // Schedules that never get somewhere prove nothing about it.
        let few = (seeds.end - seeds.start) / 1000;
        for end in [End::MovedByPrecopy, End::MovedByPostcopy, End::Cancelled, End::Failed, End::LastWordLost] {
            assert!(ends.get(&end).is_some_and(|&count| count >= few), "too few schedules end as {end:?}: {ends:?}");
        }
        assert!(rejoined >= few);
    }
}
