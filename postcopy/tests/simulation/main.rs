//! Both sides of a migration as they ship, under a virtual clock: threads are fibers that take
//! turns as a seed says, sockets, userfaultfd and missing pages are modelled (`simulation/`), and
//! so is the guest.
//!
//! Each schedule is drawn from a seed: when the guest writes, what the user does, where the link is
//! cut, what the destination refuses, which thread dies. A failed schedule prints its seed;
//! `WHIMBREL_SEED=n` plays that one alone, `WHIMBREL_SCHEDULES=n` plays so many of them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod guest;
mod memory;
mod named;
mod plan;
mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::Range;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use plan::Plan;
use whimbrel_postcopy::host::Random;
use world::{End, Outcome, play};

/// A schedule has failed: the others need not be played.
static FAILED: AtomicBool = AtomicBool::new(false);

/// How many are played unless told otherwise.
const SCHEDULES: u64 = 100_000;

/// Called if it is dropped by a panic.
pub struct OnPanic<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for OnPanic<F> {
    fn drop(&mut self) {
        if thread::panicking() {
            (self.0)();
        }
    }
}

thread_local! {
    /// The first panic of the schedule that this thread plays. The engine catches those of its
    /// threads, and those that a schedule plans do not come here.
    pub static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Has panics of simulated threads fail their schedule.
pub fn notice_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICKED.with_borrow_mut(|it| {
                it.get_or_insert_with(|| panic.to_string());
            });
            before(panic);
        }));
    });
    PANICKED.set(None);
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
    released: u64,
    turns: u64,
}

impl Tally {
    fn play(&mut self, seed: u64) {
        let told = OnPanic(|| {
            eprintln!("the schedule is played again by WHIMBREL_SEED={seed}");
            FAILED.store(true, Ordering::Relaxed);
        });
        self.count(play(seed, Plan::draw(&mut Random::new(seed))));
        drop(told);
    }

    fn count(&mut self, outcome: Outcome) {
        *self.ends.entry(outcome.end).or_default() += 1;
        self.recovered += outcome.recovered;
        self.asked_late += outcome.asked_late;
        self.held += outcome.held;
        self.held_in_vain += outcome.held_in_vain;
        self.released += u64::from(outcome.released);
        self.turns += outcome.turns;
    }

    fn add(mut self, other: Self) -> Self {
        other.ends.into_iter().for_each(|(end, count)| *self.ends.entry(end).or_default() += count);
        self.recovered += other.recovered;
        self.asked_late += other.asked_late;
        self.held += other.held;
        self.held_in_vain += other.held_in_vain;
        self.released += other.released;
        self.turns += other.turns;
        self
    }
}

/// Plays them on all processors.
fn play_all(seeds: Range<u64>) -> Tally {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
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
    let tally = play_all(1..schedules + 1);
    println!("{schedules} schedules in {:.1} s: {tally:?}", begun.elapsed().as_secs_f64());
    // Schedules that never get somewhere prove nothing about it.
    let few = schedules / 1000;
    let ends =
        [End::MovedByPrecopy, End::MovedByPostcopy, End::HandedOverAsItIs, End::Cancelled, End::Failed, End::TakenBack];
    for end in ends {
        assert!(tally.ends.get(&end).is_some_and(|&count| count >= few), "too few schedules end as {end:?}: {tally:?}");
    }
    assert!(tally.recovered >= few && tally.asked_late >= few / 10 && tally.released >= few, "{tally:?}");
    assert!(tally.held >= few && tally.held_in_vain >= few, "{tally:?}");
}
