//! [`Interface`]: one card, as the monitor and the card's own thread share it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Announcements, MacAddr, Schedule, TooManyAnnouncements};

/// What `info network` shows of a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceInfo {
    /// Its name in the monitor: `net0`, `net1`, in the order of the command line.
    pub name: String,
    /// The interface's name on the host.
    pub tap: String,
    /// The address that the guest has now.
    pub mac: MacAddr,
}

/// One card. Its locks are held for moments only, never while guest memory is touched.
#[derive(Debug)]
pub struct Interface {
    name: String,
    tap: String,
    mac: Mutex<MacAddr>,
    announcements: Mutex<Announcements>,
    wake: EventFd,
}

impl Interface {
    /// A card that is called `name` here and whose other end is the host's interface `tap`.
    pub fn new(name: String, tap: String, mac: MacAddr) -> std::io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self { name, tap, mac: Mutex::new(mac), announcements: Mutex::default(), wake })
    }

    /// Its name in the monitor.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is to be shown of it.
    pub fn info(&self) -> InterfaceInfo {
        InterfaceInfo { name: self.name.clone(), tap: self.tap.clone(), mac: self.mac() }
    }

    /// The address that the guest has now.
    pub fn mac(&self) -> MacAddr {
        *lock(&self.mac)
    }

    /// Another address: the guest set it, or brought it along.
    pub fn set_mac(&self, mac: MacAddr) {
        *lock(&self.mac) = mac;
    }

    /// Begins an announcement; the card's thread makes its rounds.
    pub fn announce(&self, id: &str, schedule: Schedule) -> Result<(), TooManyAnnouncements> {
        lock(&self.announcements).start(id, schedule, Instant::now())?;
        self.wake();
        Ok(())
    }

    /// Ends all announcements: the guest is elsewhere.
    pub fn fall_silent(&self) {
        lock(&self.announcements).clear();
        self.wake();
    }

    /// For the card's thread: whether a round is to be made now, and when to ask again.
    pub fn round(&self, now: Instant) -> (bool, Option<Instant>) {
        let mut announcements = lock(&self.announcements);
        (announcements.take(now), announcements.next())
    }

    /// Readable when [`Self::round`] is to be asked again, whatever it said before. The card's
    /// thread reads it.
    pub fn waker(&self) -> &EventFd {
        &self.wake
    }

    fn wake(&self) {
        // It fails only when it has been written 2^64 - 2 times without being read: then it is
        // readable anyway.
        let _ = self.wake.write(1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_wakes_the_thread_that_makes_it() {
        let mac: MacAddr = "52:54:00:00:00:01".parse().unwrap();
        let card = Interface::new("net0".to_owned(), "tap0".to_owned(), mac).unwrap();
        assert!(card.waker().read().is_err());
        assert_eq!(card.round(Instant::now()), (false, None));

        card.announce("", Schedule::default()).unwrap();
        assert_eq!(card.waker().read().unwrap(), 1);
        let now = Instant::now();
        let (due, next) = card.round(now);
        assert!(due && next == Some(now + Schedule::default().initial));

        card.fall_silent();
        assert_eq!(card.waker().read().unwrap(), 1);
        assert_eq!(card.round(now + Schedule::default().max), (false, None));
    }
}
