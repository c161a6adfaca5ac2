//! Identity page tables for RAM above the four GiB that boot.s maps. Ring 3 may write them:
//! everything is user memory.

use crate::extents::{Extents, PAGE_SIZE};

const GIB: u64 = 1 << 30;
const LARGE_PAGE: u64 = 2 << 20;
/// The GiBs that boot.s has mapped.
const MAPPED: u64 = 4;
/// One third-level table: RAM above this is not used.
pub const HIGHEST: u64 = 512 * GIB;

const TABLE: u64 = 0x27; // accessed, user, writable, present
const LEAF: u64 = 0xe7; // and large, dirty

unsafe extern "C" {
    static mut level3: [u64; 512];
}

/// Maps all of RAM, with tables taken from its low end. A table is filled before it is hung in: no
/// CPU has an entry to flush, and a host that traps writes to live page tables traps one a GiB.
pub fn map(ram: &mut Extents) -> Result<(), &'static str> {
    for gib in MAPPED..ram.end().div_ceil(GIB) {
        let table = ram.take(PAGE_SIZE).ok_or("no RAM for page tables")?;
        let entries = unsafe { &mut *(table as *mut [u64; 512]) };
        for (i, entry) in (0..).zip(entries.iter_mut()) {
            *entry = (gib * GIB + i * LARGE_PAGE) | LEAF;
        }
        unsafe { (&raw mut level3).cast::<u64>().add(gib as usize).write_volatile(table | TABLE) };
    }
    Ok(())
}
