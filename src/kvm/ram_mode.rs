//! [`RamMode`]: what guest RAM is for.

/// What RAM is for. In all modes but the first, pages are kept: nothing is given back to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RamMode {
    /// The guest is here whole, and nobody else reads its RAM.
    Normal,
    /// A guest arrives, and userfaultfd watches its RAM: a discarded page would be missing again
    /// after it had come, and its source would not have it any more.
    Arriving,
    /// A snapshot of the guest is written while it runs: a discarded page would be missing there.
    Snapshotting,
}
