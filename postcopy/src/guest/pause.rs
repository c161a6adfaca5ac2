//! The lock in the door: the right to start a paused guest again is a value, and there is one of
//! it.
//!
//! ```text
//!  PauseLock::pause ──> PausedGuest ──hand_over──> HandedOver ──departed──> ConfirmedRemote
//!                         │  ^  ^                      │
//!        PauseLock::resume│  │  └─────not_started──────┘
//!                         v  │
//!                      (runs)└── dropped: back to the lock, whose owner resumes the guest
//! ```
//!
//! Only [`PauseLock::pause`] gives a [`Pausing`], and only a [`Pausing`] becomes a
//! [`PausedGuest`], so nobody can make the right up. A [`PausedGuest`] that is dropped, by an early
//! return or a panic, goes back to its lock. The owner of the lock keeps it outside the code that
//! may panic, and resumes the guest with [`PauseLock::take_back`]. Dropping is no assertion for
//! that reason: a panic in a destructor would end the process, and the guest with it.

use std::sync::{Arc, PoisonError};

use super::GuestError;
use crate::host::{Mutex, MutexGuard};
use crate::logging as log;

/// A guest that can be stopped and started.
pub trait PausableGuest: Send + Sync {
    /// The guest may be paused soon, and still runs. Work that would take long while it is paused,
    /// such as writing its disk caches out, should be done now as far as possible. May take long.
    /// Called once a pass, before the pages that are left are counted; without a pass before the
    /// pause (postcopy at once), just before the pause.
    fn prepare_pause(&self) {}

    /// Stops every vCPU and device thread, and answers [`Pausing::paused`] with whether the guest
    /// ran. An error means that the guest is as it was before the call.
    fn pause(&self, pausing: Pausing) -> Result<PausedGuest, GuestError>;

    /// Undoes [`PausableGuest::pause`]: starts the guest if [`PausedGuest::running`]. Where
    /// [`PausedGuest::is_uncertain`] the call of `pause` panicked: then only the implementation can
    /// know whether the guest ran. An error means that the guest stands still here.
    fn resume(&self, guest: PausedGuest) -> Result<(), GuestError>;
}

/// Whether the guest ran before it was paused; `None` where `pause` panicked before it said so.
type Ran = Option<bool>;

/// Where a dropped right comes back to.
#[derive(Debug, Default)]
struct Home(Mutex<Option<Ran>>);

impl Home {
    fn slot(&self) -> MutexGuard<'_, Option<Ran>> {
        // A plain value: as good as before, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.slot().is_some() {
            log::error!("a paused guest was left behind: nobody resumes it");
        }
    }
}

/// The order to stop the guest, given by [`PauseLock::pause`].
#[derive(Debug)]
#[must_use = "the guest is to be stopped"]
pub struct Pausing {
    home: Option<Arc<Home>>,
}

impl Pausing {
    /// The guest stands still now; `ran`: whether it ran before.
    pub fn paused(mut self, ran: bool) -> PausedGuest {
        PausedGuest { ran: Some(ran), home: self.home.take() }
    }
}

impl Drop for Pausing {
    fn drop(&mut self) {
        // A call that returned an error left the guest as it was.
        if let Some(home) = self.home.take().filter(|_| std::thread::panicking()) {
            *home.slot() = Some(None);
        }
    }
}

/// The guest is paused here and may still be resumed here. Whoever holds none cannot resume the
/// guest. Resuming or handing over consumes it; dropping gives it back to its [`PauseLock`].
#[derive(Debug)]
#[must_use = "a paused guest is resumed or handed over"]
pub struct PausedGuest {
    ran: Ran,
    /// `None`: it was consumed.
    home: Option<Arc<Home>>,
}

impl PausedGuest {
    /// Whether the guest ran before it was paused, and so runs again when resumed.
    pub fn running(&self) -> bool {
        self.ran == Some(true)
    }

    /// Whether `pause` panicked before it said whether the guest ran.
    pub fn is_uncertain(&self) -> bool {
        self.ran.is_none()
    }

    /// The last moment: the guest is the destination's from here on, whatever becomes of the
    /// message that says so.
    pub(crate) fn hand_over(mut self) -> HandedOver {
        HandedOver { ran: self.ran, home: self.home.take() }
    }
}

/// Two of the same: for tests that compare actions.
impl PartialEq for PausedGuest {
    fn eq(&self, other: &Self) -> bool {
        self.ran == other.ran
    }
}

impl Eq for PausedGuest {}

impl Drop for PausedGuest {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            *home.slot() = Some(self.ran);
        }
    }
}

/// The guest has been handed over: it must never run here again, unless the destination says that
/// it never started it.
#[derive(Debug)]
pub struct HandedOver {
    ran: Ran,
    home: Option<Arc<Home>>,
}

/// The destination said that the guest is its own: nothing it may say later brings it back.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfirmedRemote(());

impl HandedOver {
    /// The destination said that the guest is its own.
    pub(crate) fn departed(self) -> ConfirmedRemote {
        ConfirmedRemote(())
    }

    /// The destination said in so many words that it did not and will not start the guest.
    pub(crate) fn not_started(self) -> PausedGuest {
        PausedGuest { ran: self.ran, home: self.home }
    }
}

/// Pauses and resumes one guest. Whoever drives a migration or a snapshot owns it, outside the code
/// that may panic.
#[derive(Debug, Default)]
pub struct PauseLock {
    home: Arc<Home>,
}

impl PauseLock {
    /// Stops the guest.
    pub fn pause(&self, guest: &(impl PausableGuest + ?Sized)) -> Result<PausedGuest, GuestError> {
        guest.pause(Pausing { home: Some(self.home.clone()) })
    }

    /// Starts the guest, if it ran. The right is consumed by the attempt: an implementation that
    /// panics is not called again.
    pub fn resume(&self, guest: &(impl PausableGuest + ?Sized), mut paused: PausedGuest) -> Result<(), GuestError> {
        paused.home = None;
        guest.resume(paused)
    }

    /// Resumes the guest if the right to do so was dropped; whether it was. An error of the guest
    /// goes to the log: nobody else is there to hear it.
    pub fn take_back(&self, guest: &(impl PausableGuest + ?Sized)) -> bool {
        let dropped = self.home.slot().take();
        let Some(ran) = dropped else { return false };
        if let Err(error) = self.resume(guest, PausedGuest { ran, home: None }) {
            log::error!("the guest could not be resumed: {error}");
        }
        true
    }
}

/// A right to resume no guest, for tests of state machines.
#[cfg(test)]
pub(crate) fn paused_for_test(ran: bool) -> PausedGuest {
    PausedGuest { ran: Some(ran), home: None }
}

#[cfg(test)]
#[allow(clippy::panic, clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// What a guest without vCPUs was told.
    #[derive(Default)]
    struct Door {
        panics: bool,
        refuses: bool,
        resumed: Mutex<Vec<Ran>>,
    }

    impl PausableGuest for Door {
        fn pause(&self, pausing: Pausing) -> Result<PausedGuest, GuestError> {
            assert!(!self.panics, "it panics while it stops");
            if self.refuses { Err("it will not".into()) } else { Ok(pausing.paused(true)) }
        }
        fn resume(&self, guest: PausedGuest) -> Result<(), GuestError> {
            self.resumed.lock().unwrap().push(guest.ran);
            Ok(())
        }
    }

    impl Door {
        fn resumed(&self) -> Vec<Ran> {
            self.resumed.lock().unwrap().clone()
        }
    }

    #[test]
    fn a_right_that_is_dropped_resumes_the_guest_once_and_one_that_was_used_never_again() {
        let (lock, door) = (PauseLock::default(), Door::default());
        drop(lock.pause(&door).unwrap());
        assert!(lock.take_back(&door));
        assert!(!lock.take_back(&door));
        assert_eq!(door.resumed(), [Some(true)]);
        lock.resume(&door, lock.pause(&door).unwrap()).unwrap();
        assert!(!lock.take_back(&door));
        assert_eq!(door.resumed(), [Some(true); 2]);
    }

    #[test]
    fn after_the_hand_over_nothing_comes_back_unless_the_destination_never_started_it() {
        let (lock, door) = (PauseLock::default(), Door::default());
        drop(lock.pause(&door).unwrap().hand_over());
        assert!(!lock.take_back(&door));
        let _ = lock.pause(&door).unwrap().hand_over().departed();
        assert!(!lock.take_back(&door));
        drop(lock.pause(&door).unwrap().hand_over().not_started());
        assert!(lock.take_back(&door));
        assert_eq!(door.resumed(), [Some(true)]);
    }

    #[test]
    fn a_pause_that_panics_is_undone_and_one_that_fails_needs_no_undoing() {
        let (lock, door) = (PauseLock::default(), Door { panics: true, ..Door::default() });
        catch_unwind(AssertUnwindSafe(|| lock.pause(&door))).unwrap_err();
        assert!(lock.take_back(&door));
        assert_eq!(door.resumed(), [None], "how it was before is for the guest to know");
        let refuses = Door { refuses: true, ..Door::default() };
        lock.pause(&refuses).unwrap_err();
        assert!(!lock.take_back(&refuses));
    }
}
