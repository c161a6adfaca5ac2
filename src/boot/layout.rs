//! Where things are in guest-physical memory.
//!
//! ```text
//!       0  .. 640 KiB      RAM: what a kernel is handed over at its start in it
//! 640 KiB  .. 1 MiB        reserved, as on a PC (backed by RAM nevertheless); the ACPI tables in its last 128 KiB
//!   1 MiB  .. 3 GiB        RAM: the kernel where its headers say, the initrd at the end
//!   3 GiB  .. 4 GiB        the hole: I/O APIC, LAPIC, KVM's own pages, devices
//!   4 GiB  ..              the rest of RAM
//! ```

use std::ops::Range;

use crate::kvm::RamRange;

/// Where the hole begins.
pub(super) const HOLE: u64 = 3 << 30;
/// Where RAM goes on after the hole.
pub const RAM_ABOVE_HOLE: u64 = 4 << 30;

/// Conventional memory's end.
pub(super) const LOW_END: u64 = 640 << 10;
/// Where extended memory begins.
pub(super) const HIGH_START: u64 = 1 << 20;
/// Where the ACPI tables are, the RSDP first. A PC's firmware has it here too, and kernels that are
/// not told look here.
pub(super) const ACPI: Range<u64> = 0xe_0000..HIGH_START;
/// What a kernel is handed over, and its first page tables: everything that follows lies in here.
pub(super) const HAND_OVER: Range<u64> = START_INFO..COMMAND_LINE + COMMAND_LINE_LIMIT as u64;
/// The PVH start info.
pub(super) const START_INFO: u64 = 0x6000;
/// Its list of modules.
pub(super) const MODULES: u64 = 0x6800;
/// Its memory map.
pub(super) const MEMORY_MAP: u64 = 0x7000;
/// The segment descriptors of a kernel that starts in long mode.
pub(super) const GDT: u64 = 0x8000;
/// Linux's boot parameters, one page.
pub(super) const ZERO_PAGE: u64 = 0x9000;
/// The page tables of a kernel that starts in long mode, six pages.
pub(super) const PAGE_TABLES: u64 = 0xa000;
/// The command line.
pub(super) const COMMAND_LINE: u64 = 0x2_0000;
/// The longest command line, with its NUL.
pub(super) const COMMAND_LINE_LIMIT: usize = 64 << 10;

/// The blocks of a guest with that many bytes of RAM.
pub fn ram_ranges(bytes: u64) -> Vec<RamRange> {
    let low = RamRange { name: "ram.low", guest_address: 0, bytes: bytes.min(HOLE) };
    let high = RamRange { name: "ram.high", guest_address: RAM_ABOVE_HOLE, bytes: bytes - low.bytes };
    let mut ranges = vec![low, high];
    ranges.retain(|range| range.bytes > 0);
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_leaves_the_hole_out() {
        let sizes = |bytes| -> Vec<_> {
            let ranges = ram_ranges(bytes);
            ranges.iter().map(|range| (range.guest_address, range.bytes)).collect()
        };
        assert_eq!(sizes(16 << 20), [(0, 16 << 20)]);
        assert_eq!(sizes(3 << 30), [(0, 3 << 30)]);
        assert_eq!(sizes((3 << 30) + (2 << 20)), [(0, 3 << 30), (4 << 30, 2 << 20)]);
        assert_eq!(sizes(6 << 30), [(0, 3 << 30), (4 << 30, 3 << 30)]);
    }
}
