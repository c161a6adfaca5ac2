//! Capabilities by QEMU's names.

use super::setting::SettingError;

/// What a migration may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// `postcopy-ram`: the destination may run before all pages are there.
    pub postcopy_ram: bool,
    /// `events`: emit MIGRATION and MIGRATION_PASS events.
    pub events: bool,
    /// `postcopy-blocktime`: measure how long vCPUs wait for pages.
    pub postcopy_blocktime: bool,
    /// `multifd`: the pages of a guest that leaves go on [`Parameters::multifd_channels`](super::parameters::Parameters::multifd_channels) at once. One that arrives comes on as many as its source
    /// opens.
    pub multifd: bool,
    /// `pause-before-switchover`: the guest that was paused to leave waits for `migrate_continue`, its state not yet saved.
    pub pause_before_switchover: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            postcopy_ram: true,
            events: false,
            postcopy_blocktime: true,
            multifd: true,
            pause_before_switchover: false,
        }
    }
}

/// A capability that this program has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// See [`Capabilities::postcopy_ram`].
    PostcopyRam,
    /// Always on: the destination always answers.
    ReturnPath,
    /// See [`Capabilities::events`].
    Events,
    /// Always on: demand pages always have a channel of their own.
    PostcopyPreempt,
    /// See [`Capabilities::postcopy_blocktime`].
    PostcopyBlocktime,
    /// See [`Capabilities::multifd`].
    Multifd,
    /// See [`Capabilities::pause_before_switchover`].
    PauseBeforeSwitchover,
}

impl Capability {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 7] = [
        Self::PostcopyRam,
        Self::ReturnPath,
        Self::Events,
        Self::PostcopyPreempt,
        Self::PostcopyBlocktime,
        Self::Multifd,
        Self::PauseBeforeSwitchover,
    ];

    /// QEMU's capabilities that are not built here.
    pub const UNSUPPORTED: [&'static str; 17] = [
        "xbzrle",
        "rdma-pin-all",
        "auto-converge",
        "zero-blocks",
        "compress",
        "x-colo",
        "release-ram",
        "dirty-bitmaps",
        "late-block-activate",
        "x-ignore-shared",
        "validate-uuid",
        "background-snapshot",
        "zero-copy-send",
        "switchover-ack",
        "dirty-limit",
        "mapped-ram",
        "block",
    ];

    /// QEMU's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PostcopyRam => "postcopy-ram",
            Self::ReturnPath => "return-path",
            Self::Events => "events",
            Self::PostcopyPreempt => "postcopy-preempt",
            Self::PostcopyBlocktime => "postcopy-blocktime",
            Self::Multifd => "multifd",
            Self::PauseBeforeSwitchover => "pause-before-switchover",
        }
    }

    /// Finds a capability: `None` for a name that QEMU does not know either.
    pub fn find(name: &str) -> Option<Result<Self, SettingError>> {
        if let Some(found) = Self::ALL.into_iter().find(|it| it.name() == name) {
            return Some(Ok(found));
        }
        let known = Self::UNSUPPORTED.into_iter().find(|it| *it == name)?;
        Some(Err(SettingError::CapabilityUnsupported(known)))
    }
}

impl Capabilities {
    /// Whether `capability` is on.
    pub const fn get(&self, capability: Capability) -> bool {
        match capability {
            Capability::PostcopyRam => self.postcopy_ram,
            Capability::ReturnPath | Capability::PostcopyPreempt => true,
            Capability::Events => self.events,
            Capability::PostcopyBlocktime => self.postcopy_blocktime,
            Capability::Multifd => self.multifd,
            Capability::PauseBeforeSwitchover => self.pause_before_switchover,
        }
    }

    /// Switches `capability`.
    pub fn set(&mut self, capability: Capability, on: bool) -> Result<(), SettingError> {
        match capability {
            Capability::PostcopyRam => self.postcopy_ram = on,
            Capability::Events => self.events = on,
            Capability::PostcopyBlocktime => self.postcopy_blocktime = on,
            Capability::Multifd => self.multifd = on,
            Capability::PauseBeforeSwitchover => self.pause_before_switchover = on,
            Capability::ReturnPath | Capability::PostcopyPreempt if on => {}
            Capability::ReturnPath | Capability::PostcopyPreempt => {
                return Err(SettingError::AlwaysOn(capability.name()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_always_on_cannot_be_switched_off() {
        let mut all = Capabilities::default();
        all.set(Capability::ReturnPath, true).unwrap();
        assert_eq!(all.set(Capability::PostcopyPreempt, false), Err(SettingError::AlwaysOn("postcopy-preempt")));
    }

    #[test]
    fn names_are_known_supported_or_neither() {
        assert_eq!(Capability::find("events"), Some(Ok(Capability::Events)));
        assert!(matches!(Capability::find("xbzrle"), Some(Err(_))));
        assert_eq!(Capability::find("warp"), None);
    }
}
