//! What a guest is told of its memory, whichever way it is booted.

use super::layout::{HIGH_START, LOW_END};
use super::ram_ranges;

/// What a stretch of guest-physical memory is for. The values are those of E820, which PVH uses
/// too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    /// The guest's to use.
    Ram = 1,
    /// Not the guest's. The ACPI tables lie in one of these.
    Reserved = 2,
}

/// A stretch of guest-physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub address: u64,
    pub bytes: u64,
    pub kind: Kind,
}

/// The map of a guest with `bytes` of RAM, in ascending order.
pub(super) fn memory_map(bytes: u64) -> Vec<Stretch> {
    let stretch = |address, end: u64, kind| Stretch { address, bytes: end - address, kind };
    let mut map = vec![stretch(0, LOW_END, Kind::Ram), stretch(LOW_END, HIGH_START, Kind::Reserved)];
    for range in ram_ranges(bytes) {
        let start = range.guest_address.max(HIGH_START);
        map.push(stretch(start, range.guest_address + range.bytes, Kind::Ram));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::Kind::{Ram, Reserved};
    use super::*;

    #[test]
    fn it_has_the_hole() {
        let map: Vec<_> = memory_map(5 << 30).iter().map(|it| (it.address, it.address + it.bytes, it.kind)).collect();
        assert_eq!(
            map,
            [(0, 0xa_0000, Ram), (0xa_0000, 0x10_0000, Reserved), (0x10_0000, 3 << 30, Ram), (4 << 30, 6 << 30, Ram)]
        );
    }
}
