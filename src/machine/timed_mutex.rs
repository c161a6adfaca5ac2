//! [`TimedMutex`]: one thing that many want to work with, one after the other, and for which not
//! everybody waits for ever.
//!
//! A mutex of the standard library cannot be waited for with a limit. A monitor must: who has the
//! turn may itself wait for a page of a migration, and the order that brings the page may be the
//! monitor's next.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// See the module's text.
pub(super) struct TimedMutex<T> {
    taken: Mutex<bool>,
    given_back: Condvar,
    /// Never waited for: only who has the turn locks it.
    subject: Mutex<T>,
}

/// Somebody's turn; dropping it gives it back.
pub(super) struct TimedMutexGuard<'a, T> {
    // In this order: the subject is free before the next one's turn begins.
    subject: MutexGuard<'a, T>,
    _end: End<'a>,
}

struct End<'a> {
    taken: &'a Mutex<bool>,
    given_back: &'a Condvar,
}

impl<T> TimedMutex<T> {
    pub fn new(subject: T) -> Self {
        Self { taken: Mutex::new(false), given_back: Condvar::new(), subject: Mutex::new(subject) }
    }

    /// Waits for the turn.
    pub fn take(&self) -> TimedMutexGuard<'_, T> {
        let mut taken = lock(&self.taken);
        while *taken {
            taken = self.given_back.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        self.begin(taken)
    }

    /// Waits for the turn, for `patience` at most.
    pub fn lock_within(&self, patience: Duration) -> Option<TimedMutexGuard<'_, T>> {
        let deadline = Instant::now() + patience;
        let mut taken = lock(&self.taken);
        while *taken {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            taken = self.given_back.wait_timeout(taken, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(self.begin(taken))
    }

    fn begin(&self, mut taken: MutexGuard<'_, bool>) -> TimedMutexGuard<'_, T> {
        *taken = true;
        drop(taken);
        TimedMutexGuard { subject: lock(&self.subject), _end: End { taken: &self.taken, given_back: &self.given_back } }
    }
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        *lock(self.taken) = false;
        self.given_back.notify_one();
    }
}

impl<T> Deref for TimedMutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.subject
    }
}

impl<T> DerefMut for TimedMutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.subject
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_and_a_turn_given_back_is_the_next_ones() {
        let turns = TimedMutex::new(1);
        let mut first = turns.take();
        *first += 1;
        assert!(turns.lock_within(Duration::from_millis(5)).is_none());
        std::thread::scope(|scope| {
            let next = scope.spawn(|| *turns.lock_within(Duration::from_secs(20)).unwrap());
            let one_more = scope.spawn(|| *turns.take());
            drop(first);
            assert_eq!((next.join().unwrap(), one_more.join().unwrap()), (2, 2));
        });
        assert_eq!(*turns.take(), 2);
    }
}
