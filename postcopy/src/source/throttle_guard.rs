//! [`ThrottleGuard`]: a guest's throttle in the hands of a migration. Whatever becomes of that, the
//! guest has its time back.

use std::sync::Arc;

use crate::guest::SourceGuest;
use crate::logging as log;
use crate::throttle::Throttle;

/// See the module. Dropped, it lets the guest go.
pub(super) struct ThrottleGuard {
    guest: Arc<dyn SourceGuest>,
    throttle: Throttle,
}

impl ThrottleGuard {
    /// Not throttled yet.
    pub fn new(guest: Arc<dyn SourceGuest>) -> Self {
        Self { guest, throttle: Throttle::NONE }
    }

    /// Throttles it so from now on. Cheap where nothing changes.
    pub fn set(&mut self, throttle: Throttle) {
        if self.throttle != throttle {
            log::info!("the guest's vCPUs rest for {throttle} of the time (before: {})", self.throttle);
            self.throttle = throttle;
            self.guest.throttle(throttle);
        }
    }
}

impl Drop for ThrottleGuard {
    fn drop(&mut self) {
        self.set(Throttle::NONE);
    }
}
