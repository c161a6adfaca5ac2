//! Parts of what is booted, put into guest RAM: where each may be, and its bytes.

use std::path::Path;

use vm_memory::{Bytes, GuestAddress};

use super::error::{BootError, Misfit};
use super::image;
use super::layout::{ACPI, COMMAND_LINE, COMMAND_LINE_LIMIT, HAND_OVER, HIGH_START, HOLE, RAM_ABOVE_HOLE};
use crate::kvm::{GuestMemory, GuestRam, RamRange};

/// What --memory comes in.
const MEMORY_STEP: u64 = 2 << 20;

/// An initrd in guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Initrd {
    pub address: u64,
    pub bytes: u64,
}

/// Where low RAM ends.
pub(super) fn low_end(ram: &GuestRam) -> u64 {
    ram.ranges().first().map_or(0, |range| range.bytes)
}

/// The end of `bytes` from `address`, if they are inside RAM and leave alone what is put below 1
/// MiB.
pub(super) fn place(address: u64, bytes: u64, ram: &GuestRam) -> Result<u64, Misfit> {
    /// The physical addresses that any x86-64 processor has.
    const ADDRESS_SPACE: u64 = 1 << 52;

    let end = address.checked_add(bytes).filter(|end| *end <= ADDRESS_SPACE);
    let end = end.ok_or(Misfit::Beyond { address_space: true })?;
    for (what, kept) in [("what a kernel is handed over", HAND_OVER), ("the ACPI table", ACPI)] {
        if end > kept.start && address < kept.end {
            return Err(Misfit::Kept { what, kept: (kept.start, kept.end) });
        }
    }
    let inside = |range: &RamRange| address >= range.guest_address && end - range.guest_address <= range.bytes;
    if ram.ranges().iter().any(inside) {
        return Ok(end);
    }
    if end <= HOLE {
        Err(Misfit::TooLittle { needed: end.next_multiple_of(MEMORY_STEP) })
    } else if address >= RAM_ABOVE_HOLE {
        Err(Misfit::TooLittle { needed: (end - (RAM_ABOVE_HOLE - HOLE)).next_multiple_of(MEMORY_STEP) })
    } else {
        Err(Misfit::Hole)
    }
}

/// Writes the command line, of at most `limit` bytes without its NUL.
pub(super) fn write_command_line(text: &str, limit: usize, memory: &GuestMemory) -> Result<(), BootError> {
    let limit = limit.min(COMMAND_LINE_LIMIT - 1);
    if text.len() > limit || text.contains('\0') {
        return Err(BootError::CommandLine { bytes: text.len(), limit });
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    memory.write_slice(&bytes, GuestAddress(COMMAND_LINE))?;
    Ok(())
}

/// Puts the initrd page-aligned right below `highest`, or the end of low RAM, above the kernel.
pub(super) fn load_initrd(path: &Path, ram: &GuestRam, kernel_end: u64, highest: u64) -> Result<Initrd, BootError> {
    let contents = image::read("initrd", path)?;
    let bytes = contents.len() as u64;
    let start = kernel_end.max(HIGH_START);
    let limit = low_end(ram).min(highest);
    let place = |limit: u64| limit.checked_sub(bytes).map(|at| at & !0xfff).filter(|at| *at >= start);
    let address = place(limit).ok_or_else(|| {
        let needed = start.next_multiple_of(0x1000).saturating_add(bytes.next_multiple_of(0x1000));
        let more = Some(needed.next_multiple_of(MEMORY_STEP)).filter(|needed| *needed <= HOLE.min(highest));
        BootError::InitrdDoesNotFit { name: path.display().to_string(), bytes: contents.len(), start, limit, more }
    })?;
    ram.memory().write_slice(&contents, GuestAddress(address))?;
    Ok(Initrd { address, bytes })
}

/// Zeroes memory. What is zero already stays untouched: nothing is populated.
pub(super) fn zero(address: u64, end: u64, memory: &GuestMemory) -> Result<(), BootError> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut page = [0; 4096];
    let mut at = address;
    while at < end {
        let count = (4096 - at % 4096).min(end - at) as usize;
        memory.read_slice(&mut page[..count], GuestAddress(at))?;
        if page[..count] != ZEROS[..count] {
            memory.write_slice(&ZEROS[..count], GuestAddress(at))?;
        }
        at += count as u64;
    }
    Ok(())
}
