//! Two endpoints, no threads, a virtual clock: the real state machines, the real bytes, modelled
//! links and a modelled guest.
//!
//! Each schedule is drawn from a seed: when the guest writes, when the user switches or cancels,
//! where the link is cut, what the destination refuses. A failed schedule prints its seed;
//! `WHIMBREL_SEED=n` plays that one alone, `WHIMBREL_SCHEDULES=n` plays more of them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod destination;
mod link;
mod memory;
mod plan;
mod source;
mod world;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use world::{End, World};

/// A schedule has failed: the others need not be played.
static FAILED: AtomicBool = AtomicBool::new(false);

/// How many are played unless told otherwise.
const SCHEDULES: u64 = 100_000;

/// Tells the seed of the schedule that panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the schedule is played again by WHIMBREL_SEED={}", self.0);
            FAILED.store(true, Ordering::Relaxed);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// What many schedules came to.
#[derive(Debug, Default)]
struct Tally {
    ends: BTreeMap<End, u64>,
    recovered: u64,
    /// Times the source asked a destination that had everything.
    asked_late: u64,
    held: u64,
    held_in_vain: u64,
}

impl Tally {
    fn play(&mut self, seed: u64) {
        let told = Seed(seed);
        let mut world = World::new(seed);
        *self.ends.entry(world.play()).or_default() += 1;
        self.recovered += world.recovered;
        self.asked_late += world.asked_late;
        self.held += world.held;
        self.held_in_vain += world.held_in_vain;
        drop(told);
    }

    fn add(mut self, other: Self) -> Self {
        other.ends.into_iter().for_each(|(end, count)| *self.ends.entry(end).or_default() += count);
        self.recovered += other.recovered;
        self.asked_late += other.asked_late;
        self.held += other.held;
        self.held_in_vain += other.held_in_vain;
        self
    }
}

/// Plays them on all processors.
fn play(seeds: Range<u64>) -> Tally {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        let players: Vec<_> = (0..processors)
            .map(|first| {
                let mine = seeds.clone().skip(first).step_by(processors);
                scope.spawn(|| {
                    let mut tally = Tally::default();
                    mine.take_while(|_| !FAILED.load(Ordering::Relaxed)).for_each(|seed| tally.play(seed));
                    tally
                })
            })
            .collect();
        let tallies = players.into_iter().map(|player| player.join().expect("a schedule failed"));
        tallies.fold(Tally::default(), Tally::add)
    })
}

#[test]
fn every_schedule_keeps_the_guest_whole_and_single() {
    if let Some(seed) = number("WHIMBREL_SEED") {
        let mut tally = Tally::default();
        tally.play(seed);
        println!("{tally:?}");
        return;
    }
    let schedules = number("WHIMBREL_SCHEDULES").unwrap_or(SCHEDULES);
    let begun = Instant::now();
    let tally = play(1..schedules + 1);
    println!("{schedules} schedules in {:.1} s: {tally:?}", begun.elapsed().as_secs_f64());
    // Schedules that never get somewhere prove nothing about it.
    let few = schedules / 1000;
    for end in [End::MovedByPrecopy, End::MovedByPostcopy, End::Cancelled, End::Failed, End::TakenBack] {
        assert!(tally.ends.get(&end).is_some_and(|&count| count >= few), "too few schedules end as {end:?}: {tally:?}");
    }
    assert!(tally.recovered >= few && tally.asked_late >= few, "{tally:?}");
    assert!(tally.held >= few && tally.held_in_vain >= few, "{tally:?}");
}
