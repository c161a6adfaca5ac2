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

/// A row of [`ROWS`].
struct Row {
    /// QEMU's name.
    name: &'static str,
    kind: Kind,
    /// Whether it can change while a migration is under way: it does not say how the guest comes or
    /// goes.
    live: bool,
}

/// What there is of a capability.
#[derive(Clone, Copy)]
enum Kind {
    /// It is built, and on or off at first.
    Switch(Capability, bool),
    /// It is how this program works, so it is always on.
    AlwaysOn(Capability),
    /// QEMU has it and this program does not: it is shown, and always off.
    Absent,
    /// QEMU had it once: it is not shown, and refused by name.
    Removed,
}

const fn switch(name: &'static str, capability: Capability, on: bool) -> Row {
    Row { name, kind: Kind::Switch(capability, on), live: false }
}

const fn row(name: &'static str, kind: Kind) -> Row {
    Row { name, kind, live: false }
}

/// All capabilities, in QEMU's order, which is the order in which they are shown.
static ROWS: [Row; 24] = [
    switch("xbzrle", Capability::Xbzrle, false),
    row("rdma-pin-all", Kind::Absent),
    switch("auto-converge", Capability::AutoConverge, false),
    Row { live: true, ..switch("events", Capability::Events, false) },
    switch("postcopy-ram", Capability::PostcopyRam, true),
    row("x-colo", Kind::Absent),
    switch("release-ram", Capability::ReleaseRam, false),
    row("return-path", Kind::AlwaysOn(Capability::ReturnPath)),
    switch("pause-before-switchover", Capability::PauseBeforeSwitchover, false),
    switch("multifd", Capability::Multifd, true),
    row("dirty-bitmaps", Kind::Absent),
    switch("postcopy-blocktime", Capability::PostcopyBlocktime, true),
    Row { live: true, ..switch("late-block-activate", Capability::LateBlockActivate, false) },
    switch("x-ignore-shared", Capability::IgnoreShared, false),
    switch("validate-uuid", Capability::ValidateUuid, false),
    switch("background-snapshot", Capability::BackgroundSnapshot, false),
    row("zero-copy-send", Kind::Absent),
    row("postcopy-preempt", Kind::AlwaysOn(Capability::PostcopyPreempt)),
    row("switchover-ack", Kind::Absent),
    switch("dirty-limit", Capability::DirtyLimit, false),
    switch("mapped-ram", Capability::MappedRam, false),
    switch("zero-blocks", Capability::ZeroBlocks, true),
    row("compress", Kind::Removed),
    row("block", Kind::Removed),
];

impl Row {
    const fn capability(&self) -> Option<Capability> {
        match self.kind {
            Kind::Switch(capability, _) | Kind::AlwaysOn(capability) => Some(capability),
            Kind::Absent | Kind::Removed => None,
        }
    }
}

impl Capability {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        ROWS.iter().filter_map(Row::capability)
    }

    /// QEMU's capabilities that are not built here. Those that it still has are shown, and are
    /// always off.
    pub fn unsupported() -> impl Iterator<Item = &'static str> {
        ROWS.iter().filter(|it| it.capability().is_none()).map(|it| it.name)
    }

    fn row(self) -> &'static Row {
        // Each has a row, which a test holds; the first stands for one without.
        ROWS.iter().find(|it| it.capability() == Some(self)).unwrap_or(&ROWS[0])
    }

    /// QEMU's name.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// All names that are built.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::all().map(Self::name)
    }

    /// Whether it is how this program works.
    fn is_always_on(self) -> bool {
        matches!(self.row().kind, Kind::AlwaysOn(_))
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Finds a capability: `None` for a name that QEMU does not know either.
    pub fn find(name: &str) -> Option<Result<Self, SettingError>> {
        let row = ROWS.iter().find(|it| it.name == name)?;
        Some(row.capability().ok_or(SettingError::CapabilityUnsupported(row.name)))
    }

    /// The capability that is to be switched `on` or off: `Ok(None)` where it is not built and is
    /// to be off, which it is.
    pub fn to_switch(name: &str, on: bool) -> Option<Result<Option<Self>, SettingError>> {
        match ROWS.iter().find(|it| it.name == name)?.kind {
            Kind::Absent if !on => Some(Ok(None)),
            _ => Some(Self::find(name)?.map(Some)),
        }
    }
}

/// What a migration may use: which capabilities are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u32);

impl Default for Capabilities {
    fn default() -> Self {
        let on = ROWS.iter().filter_map(|row| match row.kind {
            Kind::Switch(capability, true) | Kind::AlwaysOn(capability) => Some(capability.bit()),
            _ => None,
        });
        Self(on.fold(0, |all, bit| all | bit))
    }
}

impl Capabilities {
    /// What is shown, in QEMU's order: names, and whether they are on.
    pub fn shown(self) -> impl Iterator<Item = (&'static str, bool)> {
        let shown = ROWS.iter().filter(|row| !matches!(row.kind, Kind::Removed));
        shown.map(move |row| (row.name, row.capability().is_some_and(|it| self.get(it))))
    }

    /// Whether `other` can take the place of this one while a migration is under way.
    pub fn differs_live_only(self, other: Self) -> bool {
        let fixed = ROWS.iter().filter(|row| !row.live).filter_map(Row::capability);
        fixed.into_iter().all(|it| self.get(it) == other.get(it))
    }

    /// Whether `capability` is on.
    pub const fn get(self, capability: Capability) -> bool {
        self.0 & capability.bit() != 0
    }

    /// Switches `capability`.
    pub fn set(&mut self, capability: Capability, on: bool) -> Result<(), SettingError> {
        if capability.is_always_on() && !on {
            return Err(SettingError::AlwaysOn(capability.name()));
        }
        *self = self.with_it(capability, on);
        Ok(())
    }

    /// The same, but `capability` on or off. One that is always on stays so.
    pub fn with_it(self, capability: Capability, on: bool) -> Self {
        match on || capability.is_always_on() {
            true => Self(self.0 | capability.bit()),
            false => Self(self.0 & !capability.bit()),
        }
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
        for capability in Capability::all() {
            let first = Capabilities::default();
            let (mut all, on) = (first, !first.get(capability));
            if all.set(capability, on).is_err() {
                continue;
            }
            assert_eq!(all.get(capability), on, "{}", capability.name());
            assert_eq!(first.with_it(capability, on), all);
            assert!(Capability::all().all(|it| it == capability || all.get(it) == first.get(it)));
        }
    }

    /// Management tools set all that is listed, and most of it to off.
    #[test]
    fn what_is_not_built_is_shown_and_off_and_can_be_switched_off_only() {
        let shown: Vec<_> = Capabilities::default().shown().collect();
        assert!(Capability::all().all(|it| shown.iter().any(|(name, _)| *name == it.name())));
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
    fn each_has_one_row() {
        let rows: Vec<_> = Capability::all().map(|it| it as u32).collect();
        assert_eq!(rows.len(), 17);
        assert!((0..17).all(|it| rows.contains(&it)));
        assert!(Capability::all().all(|it| Capability::find(it.name()) == Some(Ok(it))));
    }

    #[test]
    fn what_says_how_the_guest_goes_is_not_live() {
        let first = Capabilities::default();
        let live = |it: &Capability| first.differs_live_only(first.with_it(*it, !first.get(*it)));
        let always = Capability::all().filter(|it| !it.is_always_on());
        assert_eq!(always.filter(live).collect::<Vec<_>>(), [Capability::Events, Capability::LateBlockActivate]);
    }

    #[test]
    fn names_are_known_supported_or_neither() {
        assert_eq!(Capability::find("events"), Some(Ok(Capability::Events)));
        assert!(matches!(Capability::find("compress"), Some(Err(_))));
        assert_eq!(Capability::find("warp"), None);
    }
}
