//! Loading everything that a boot needs into guest RAM.

use std::path::Path;

use vm_memory::{Bytes, GuestAddress};

use super::acpi::{self, Inventory};
use super::image::{self, Format, KernelImage};
use super::layout::{ACPI, COMMAND_LINE, COMMAND_LINE_LIMIT, HAND_OVER, HIGH_START};
use super::{BootError, linux64, pvh};
use crate::config::BootConfig;
use crate::kvm::{GuestMemory, GuestRam};

/// Where and how the first vCPU begins. All addresses are guest-physical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryPoint {
    /// In 32-bit protected mode with paging off, as PVH has it.
    Pvh {
        /// The first instruction.
        address: u64,
        /// The start info, for EBX.
        start_info: u64,
    },
    /// In long mode, as Linux's 64-bit boot protocol has it.
    Linux64 {
        /// The first instruction.
        address: u64,
        /// The boot parameters, for RSI.
        zero_page: u64,
        /// The page tables, for CR3; the first 4 GiB are mapped to themselves.
        page_tables: u64,
        /// The segment descriptors: `__BOOT_CS` and `__BOOT_DS` are where the protocol wants them.
        gdt: u64,
    },
}

/// An initrd in guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Initrd {
    pub address: u64,
    pub bytes: u64,
}

/// Loads everything that `boot` names into guest RAM, and tables that tell it of `inventory`. Used for the first
/// boot and for every reset: nothing that it needs is left as the guest may have changed it.
pub fn load(boot: &BootConfig, ram: &GuestRam, inventory: &Inventory) -> Result<EntryPoint, BootError> {
    let kernel = KernelImage::read(&boot.kernel)?;
    let entry = match kernel.format()? {
        Format::Elf => pvh::load(&kernel, boot, ram)?,
        Format::BzImage => linux64::load(&kernel, boot, ram)?,
    };
    acpi::write(inventory, ram.memory())?;
    Ok(entry)
}

/// Where low RAM ends.
pub(super) fn low_end(ram: &GuestRam) -> u64 {
    ram.ranges().first().map_or(0, |range| range.bytes)
}

/// Whether `bytes` from `address` are inside low RAM, which ends at `low`, and leave alone what is put below
/// 1 MiB; their end.
pub(super) fn fits(address: u64, bytes: u64, low: u64) -> Option<u64> {
    let end = address.checked_add(bytes)?;
    let clear = |ours: &std::ops::Range<u64>| end <= ours.start || address >= ours.end;
    (end <= low && clear(&HAND_OVER) && clear(&ACPI)).then_some(end)
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

/// Puts the initrd page-aligned right below `end`, above the kernel.
pub(super) fn load_initrd(path: &Path, memory: &GuestMemory, kernel_end: u64, end: u64) -> Result<Initrd, BootError> {
    let contents = image::read("initrd", path)?;
    let bytes = contents.len() as u64;
    let address = end
        .checked_sub(bytes)
        .map(|address| address & !0xfff)
        .filter(|address| *address >= kernel_end.max(HIGH_START))
        .ok_or_else(|| BootError::InitrdDoesNotFit { name: path.display().to_string(), bytes: contents.len() })?;
    memory.write_slice(&contents, GuestAddress(address))?;
    Ok(Initrd { address, bytes })
}
