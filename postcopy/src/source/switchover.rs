//! The one-way door: who may start the guest is a value, and there is one of it.

/// The guest is paused here and may still be resumed here.
///
/// Made when the guest is paused; handing the guest over consumes it. Whoever holds none cannot
/// resume the guest.
#[derive(Debug, PartialEq, Eq)]
pub struct PausedGuest {
    running: bool,
}

impl PausedGuest {
    /// The guest was paused just now; `running`: whether it ran before.
    pub(super) fn paused(running: bool) -> Self {
        Self { running }
    }

    /// Whether the guest ran before it was paused, and so runs again when resumed.
    pub fn running(&self) -> bool {
        self.running
    }

    /// The last moment: the guest is the destination's from here on, whatever becomes of the
    /// message that says so.
    pub(super) fn hand_over(self) -> HandedOver {
        HandedOver { running: self.running }
    }
}

/// The guest has been handed over: it must never run here again, unless the destination says that
/// it never started it.
#[derive(Debug, PartialEq, Eq)]
pub struct HandedOver {
    running: bool,
}

/// The destination said that the guest is its own: nothing it may say later brings it back.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfirmedRemote(());

impl HandedOver {
    /// The destination said that the guest is its own.
    pub(super) fn departed(self) -> ConfirmedRemote {
        ConfirmedRemote(())
    }

    /// The destination said in so many words that it did not and will not start the guest.
    pub(super) fn not_started(self) -> PausedGuest {
        PausedGuest { running: self.running }
    }
}
