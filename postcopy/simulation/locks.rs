//! Locks that let another fiber run while they are taken.

use std::cell::Cell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LockResult, TryLockError, TryLockResult};

use crossbeam_channel::{Receiver, TryRecvError};

use super::{block, fiber, point};

#[derive(Default)]
pub struct Mutex<T>(std::sync::Mutex<T>);

pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    inner: std::sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    fn attempt(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(inner) => Some(MutexGuard { mutex: self, inner }),
            Err(TryLockError::Poisoned(poisoned)) => Some(MutexGuard { mutex: self, inner: poisoned.into_inner() }),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Never poisoned: the engine takes a poisoned lock for as good as before.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        point();
        loop {
            if let Some(guard) = self.attempt() {
                return Ok(guard);
            }
            assert!(fiber().is_some(), "a lock is held by a fiber that is suspended");
            block(None, &|| self.attempt().is_some());
        }
    }

    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        point();
        self.attempt().ok_or(TryLockError::WouldBlock)
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[derive(Debug, Default)]
pub struct Condvar(AtomicU64);

impl Condvar {
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub fn notify_all(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        point();
    }

    pub fn wait_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'a, T>> {
        while condition(&mut guard) {
            let (mutex, seen) = (guard.mutex, self.0.load(Ordering::SeqCst));
            drop(guard);
            block(None, &|| self.0.load(Ordering::SeqCst) != seen);
            guard = mutex.lock().expect("never poisoned");
        }
        Ok(guard)
    }
}

/// Waits for the next of what others send; `None` when nobody can any more.
pub fn next<T>(from: &Receiver<T>) -> Option<T> {
    point();
    let taken = Cell::new(None);
    let has_come = || {
        let before = taken.take();
        let result = match before {
            None => from.try_recv(),
            Some(result) => result,
        };
        let come = !matches!(result, Err(TryRecvError::Empty));
        taken.set(come.then_some(result));
        come
    };
    if !has_come() {
        block(None, &has_come);
    }
    taken.take().and_then(Result::ok)
}
