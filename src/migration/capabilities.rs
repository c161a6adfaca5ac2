//! Capabilities by QEMU's names.

use super::setting::SettingError;

/// A capability that this program has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// The destination may run before all pages are there.
    PostcopyRam,
    /// Always on: the destination always answers.
    ReturnPath,
    /// Emit MIGRATION and MIGRATION_PASS events.
    Events,
    /// Always on: demand pages always have a channel of their own.
    PostcopyPreempt,
    /// Measure how long vCPUs wait for pages.
    PostcopyBlocktime,
    /// The pages of a guest that leaves go on
    /// [`Parameters::multifd_channels`](super::parameters::Parameters::multifd_channels) at once.
    /// One that arrives comes on as many as its source opens.
    Multifd,
    /// A guest that writes faster than it can be sent gets less and less processor time.
    AutoConverge,
    /// The same, but as much less as keeps it at
    /// [`Parameters::vcpu_dirty_limit`](super::parameters::Parameters::vcpu_dirty_limit).
    DirtyLimit,
    /// Precopied pages that went before go as what has changed of them; see
    /// [`Parameters::xbzrle_cache`](super::parameters::Parameters::xbzrle_cache).
    Xbzrle,
    /// Zero pages are looked for: another name for
    /// [`Parameters::zero_pages`](super::parameters::Parameters::zero_pages) being any but `none`.
    ZeroBlocks,
    /// A guest that is written to a stream that goes one way stays, and runs on while it is
    /// written.
    BackgroundSnapshot,
    /// A guest that arrives and does not run at once takes what only one host may have, its disks,
    /// when it is started.
    LateBlockActivate,
    /// The guest that was paused to leave waits for `migrate_continue`, its state not yet saved.
    PauseBeforeSwitchover,
    /// A guest that leaves arrives only at a machine with the same `--uuid`, if that has one.
    ValidateUuid,
    /// A guest that leaves for a file has a place in it for each page. Whoever reads finds that out
    /// from the file.
    MappedRam,
    /// RAM that is shared memory is not sent: the destination, another process of this host, maps
    /// it.
    IgnoreShared,
    /// In postcopy the host gets each page of the source back once the destination has it.
    ReleaseRam,
}

/// What a capability is before anybody says anything.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    On,
    Off,
    /// It is how this program works.
    AlwaysOn,
}

impl Capability {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::PostcopyRam,
        Self::ReturnPath,
        Self::Events,
        Self::PostcopyPreempt,
        Self::PostcopyBlocktime,
        Self::Multifd,
        Self::AutoConverge,
        Self::DirtyLimit,
        Self::Xbzrle,
        Self::ZeroBlocks,
        Self::LateBlockActivate,
        Self::PauseBeforeSwitchover,
        Self::ValidateUuid,
        Self::MappedRam,
        Self::IgnoreShared,
        Self::ReleaseRam,
        Self::BackgroundSnapshot,
    ];

    /// What is shown, in QEMU's order, which lists all that it knows, whatever is built; behind
    /// that what QEMU has no more.
    pub const SHOWN: [&'static str; 22] = [
        "xbzrle",
        "rdma-pin-all",
        "auto-converge",
        "events",
        "postcopy-ram",
        "x-colo",
        "release-ram",
        "return-path",
        "pause-before-switchover",
        "multifd",
        "dirty-bitmaps",
        "postcopy-blocktime",
        "late-block-activate",
        "x-ignore-shared",
        "validate-uuid",
        "background-snapshot",
        "zero-copy-send",
        "postcopy-preempt",
        "switchover-ack",
        "dirty-limit",
        "mapped-ram",
        "zero-blocks",
    ];

    /// QEMU's capabilities that are not built here. Those that it still has are shown, and are
    /// always off.
    pub const UNSUPPORTED: [&'static str; 7] =
        ["rdma-pin-all", "compress", "x-colo", "dirty-bitmaps", "zero-copy-send", "switchover-ack", "block"];

    /// All that is told of it.
    const fn spec(self) -> (&'static str, First) {
        match self {
            Self::PostcopyRam => ("postcopy-ram", First::On),
            Self::ReturnPath => ("return-path", First::AlwaysOn),
            Self::Events => ("events", First::Off),
            Self::PostcopyPreempt => ("postcopy-preempt", First::AlwaysOn),
            Self::PostcopyBlocktime => ("postcopy-blocktime", First::On),
            Self::Multifd => ("multifd", First::On),
            Self::AutoConverge => ("auto-converge", First::Off),
            Self::DirtyLimit => ("dirty-limit", First::Off),
            Self::Xbzrle => ("xbzrle", First::Off),
            Self::ZeroBlocks => ("zero-blocks", First::On),
            Self::LateBlockActivate => ("late-block-activate", First::Off),
            Self::PauseBeforeSwitchover => ("pause-before-switchover", First::Off),
            Self::ValidateUuid => ("validate-uuid", First::Off),
            Self::MappedRam => ("mapped-ram", First::Off),
            Self::IgnoreShared => ("x-ignore-shared", First::Off),
            Self::ReleaseRam => ("release-ram", First::Off),
            Self::BackgroundSnapshot => ("background-snapshot", First::Off),
        }
    }

    /// QEMU's name.
    pub const fn name(self) -> &'static str {
        self.spec().0
    }

    /// All names that are built.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().map(Self::name)
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Finds a capability: `None` for a name that QEMU does not know either.
    pub fn find(name: &str) -> Option<Result<Self, SettingError>> {
        if let Some(found) = Self::ALL.into_iter().find(|it| it.name() == name) {
            return Some(Ok(found));
        }
        let known = Self::UNSUPPORTED.into_iter().find(|it| *it == name)?;
        Some(Err(SettingError::CapabilityUnsupported(known)))
    }

    /// The capability that is to be switched `on` or off: `Ok(None)` where it is not built and is
    /// to be off, which it is.
    pub fn to_switch(name: &str, on: bool) -> Option<Result<Option<Self>, SettingError>> {
        match Self::find(name)? {
            Err(_) if !on && Self::SHOWN.contains(&name) => Some(Ok(None)),
            found => Some(found.map(Some)),
        }
    }
}

/// What is shown: names, and whether they are on.
impl Capabilities {
    /// In QEMU's order.
    pub fn shown(self) -> impl Iterator<Item = (&'static str, bool)> {
        let is_on = move |name: &str| Capability::ALL.into_iter().any(|it| it.name() == name && self.get(it));
        Capability::SHOWN.into_iter().map(move |name| (name, is_on(name)))
    }
}

/// What a migration may use: which capabilities are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u32);

impl Default for Capabilities {
    fn default() -> Self {
        let on = Capability::ALL.into_iter().filter(|it| it.spec().1 != First::Off);
        Self(on.map(Capability::bit).fold(0, |all, bit| all | bit))
    }
}

impl Capabilities {
    /// Whether `capability` is on.
    pub const fn get(self, capability: Capability) -> bool {
        self.0 & capability.bit() != 0
    }

    /// Switches `capability`.
    pub fn set(&mut self, capability: Capability, on: bool) -> Result<(), SettingError> {
        match (capability.spec(), on) {
            ((name, First::AlwaysOn), false) => return Err(SettingError::AlwaysOn(name)),
            (_, true) => self.0 |= capability.bit(),
            (_, false) => self.0 &= !capability.bit(),
        }
        Ok(())
    }

    /// The same, but `capability` on or off. One that is always on stays so.
    pub const fn with_it(self, capability: Capability, on: bool) -> Self {
        match (capability.spec().1, on) {
            (First::AlwaysOn, _) => self,
            (_, true) => Self(self.0 | capability.bit()),
            (_, false) => Self(self.0 & !capability.bit()),
        }
    }

    /// The same, but `capability` as it is in `other`.
    pub const fn with(self, capability: Capability, other: Self) -> Self {
        Self(self.0 & !capability.bit() | other.0 & capability.bit())
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
    fn each_is_switched_alone() {
        for capability in Capability::ALL {
            let first = Capabilities::default();
            let (mut all, on) = (first, !first.get(capability));
            if all.set(capability, on).is_err() {
                continue;
            }
            assert_eq!(all.get(capability), on, "{}", capability.name());
            assert_eq!(first.with(capability, all), all);
            assert!(Capability::ALL.into_iter().all(|it| it == capability || all.get(it) == first.get(it)));
        }
    }

    /// Management tools set all that is listed, and most of it to off.
    #[test]
    fn what_is_not_built_is_shown_and_off_and_can_be_switched_off_only() {
        let shown: Vec<_> = Capabilities::default().shown().collect();
        assert!(Capability::ALL.into_iter().all(|it| shown.iter().any(|(name, _)| *name == it.name())));
        for name in ["rdma-pin-all", "x-colo", "dirty-bitmaps", "zero-copy-send", "switchover-ack"] {
            assert!(shown.contains(&(name, false)), "{name}");
            assert_eq!(Capability::to_switch(name, false), Some(Ok(None)));
            assert!(matches!(Capability::to_switch(name, true), Some(Err(_))), "{name}");
        }
        assert!(matches!(Capability::to_switch("compress", false), Some(Err(_))));
        assert_eq!(Capability::to_switch("xbzrle", false), Some(Ok(Some(Capability::Xbzrle))));
        assert_eq!(Capability::to_switch("warp", false), None);
    }

    #[test]
    fn names_are_known_supported_or_neither() {
        assert_eq!(Capability::find("events"), Some(Ok(Capability::Events)));
        assert!(matches!(Capability::find("compress"), Some(Err(_))));
        assert_eq!(Capability::find("warp"), None);
    }
}
