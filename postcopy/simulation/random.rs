//! A small pseudo-random sequence, and the one that the schedule is drawn from.

use std::cell::{Cell, RefCell};

thread_local! {
    static SCALE: Cell<u64> = const { Cell::new(1) };
    static SEQUENCE: RefCell<Random> = RefCell::new(Random::new(0));
}

/// A number below `limit`, from the schedule's own sequence.
pub fn random(limit: u64) -> u64 {
    SEQUENCE.with_borrow_mut(|sequence| sequence.below(limit))
}

/// The number that the engine means for guests of gigabytes, for this schedule's guest.
pub fn scaled(number: u64) -> u64 {
    (number / SCALE.get()).max(1)
}

/// What the engine means for guests of gigabytes is so many times smaller from here on.
pub fn scale_down(by: u64) {
    SCALE.set(by);
}

/// The schedule is drawn from this seed from here on.
pub(super) fn begin(seed: u64) {
    SEQUENCE.set(Random::new(seed));
}

#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn step(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.step() % limit
    }

    pub fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }

    /// Small numbers as often as large ones.
    pub fn spread(&mut self, doublings: u64) -> u64 {
        let limit = 1 << self.below(doublings + 1);
        self.below(limit)
    }
}
