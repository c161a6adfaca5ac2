//! Loading a kernel the PVH way (Xen's docs/misc/pvh.pandoc): the segments where the ELF says, and a start
//! info with memory map, command line and initrd.

use std::io::Cursor;

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{Error as LoaderError, KernelLoader};
use vm_memory::{Bytes, GuestAddress};

use super::image::{self, KernelImage, Segment};
use super::layout::{COMMAND_LINE, COMMAND_LINE_LIMIT, HIGH_START, LOW_END, MEMORY_MAP, MODULES, START_INFO};
use super::{BootError, ram_ranges};
use crate::config::BootConfig;
use crate::kvm::{GuestMemory, GuestRam};

/// The start info's magic number: "xEn3" with the top bit set.
const MAGIC: u32 = 0x336e_c578;
/// E820 types.
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// Where the first vCPU begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPoint {
    /// The first instruction's guest-physical address.
    pub address: u64,
    /// The start info's guest-physical address, for EBX.
    pub start_info: u64,
}

/// Loads everything that `boot` names into guest RAM. Used for the first boot and for every reset: what
/// the image says is zero is zeroed.
pub fn load(boot: &BootConfig, ram: &GuestRam) -> Result<EntryPoint, BootError> {
    let kernel = KernelImage::read(&boot.kernel)?;
    let memory = ram.memory();
    let low = ram.ranges().first().map_or(0, |range| range.bytes);
    let (address, end) = load_kernel(&kernel, memory, low)?;
    write_command_line(&boot.cmdline, memory)?;
    let initrd = match &boot.initrd {
        Some(path) => Some(load_initrd(path, memory, end, low)?),
        None => None,
    };
    write_start_info(ram, initrd)?;
    Ok(EntryPoint { address, start_info: START_INFO })
}

/// Loads the segments; the result is the entry point and where the kernel ends.
fn load_kernel(kernel: &KernelImage, memory: &GuestMemory, low: u64) -> Result<(u64, u64), BootError> {
    let segments = kernel.segments()?;
    if !kernel.has_pvh_note() {
        // Said before anything is: an ordinary program does not fit either, and more memory would not help it.
        return Err(BootError::NoPvhNote { name: kernel.name.clone() });
    }
    let mut kernel_end = 0;
    for segment in &segments {
        let end = fits(segment, low).ok_or_else(|| BootError::KernelDoesNotFit {
            name: kernel.name.clone(),
            start: segment.address,
            end: segment.address.saturating_add(segment.memory_bytes),
        })?;
        kernel_end = kernel_end.max(end);
    }
    let loaded = Elf::load(memory, None, &mut Cursor::new(&kernel.bytes), None);
    let loaded = loaded.map_err(|source: LoaderError| BootError::Damaged { name: kernel.name.clone(), source })?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(BootError::NoPvhNote { name: kernel.name.clone() });
    };
    for segment in &segments {
        zero_rest(segment, memory)?;
    }
    Ok((entry.0, kernel_end))
}

/// The segment's end, if all of it is inside low RAM and above what `load` puts below 1 MiB or at least
/// does not overlap it.
fn fits(segment: &Segment, low: u64) -> Option<u64> {
    let end = segment.address.checked_add(segment.memory_bytes)?;
    let ours = START_INFO..COMMAND_LINE + COMMAND_LINE_LIMIT as u64;
    let clear = end <= ours.start || segment.address >= ours.end;
    (segment.memory_bytes >= segment.file_bytes && end <= low && clear).then_some(end)
}

/// Zeroes what the image leaves out (.bss). Fresh RAM is zero and stays untouched: nothing is populated.
fn zero_rest(segment: &Segment, memory: &GuestMemory) -> Result<(), BootError> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut page = [0; 4096];
    let end = segment.address + segment.memory_bytes;
    let mut at = segment.address + segment.file_bytes;
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

fn write_command_line(text: &str, memory: &GuestMemory) -> Result<(), BootError> {
    if text.len() >= COMMAND_LINE_LIMIT || text.contains('\0') {
        return Err(BootError::CommandLine { bytes: text.len(), limit: COMMAND_LINE_LIMIT - 1 });
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    memory.write_slice(&bytes, GuestAddress(COMMAND_LINE))?;
    Ok(())
}

/// Puts the initrd at the end of low RAM, page-aligned; where and how long it is.
fn load_initrd(
    path: &std::path::Path,
    memory: &GuestMemory,
    kernel_end: u64,
    low: u64,
) -> Result<(u64, u64), BootError> {
    let bytes = image::read("initrd", path)?;
    let length = bytes.len() as u64;
    let address = low
        .checked_sub(length)
        .map(|address| address & !0xfff)
        .filter(|address| *address >= kernel_end.max(HIGH_START))
        .ok_or_else(|| BootError::InitrdDoesNotFit { name: path.display().to_string(), bytes: bytes.len() })?;
    memory.write_slice(&bytes, GuestAddress(address))?;
    Ok((address, length))
}

fn write_start_info(ram: &GuestRam, initrd: Option<(u64, u64)>) -> Result<(), BootError> {
    let map = memory_map(ram.bytes());
    let info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        nr_modules: initrd.map_or(0, |_| 1),
        modlist_paddr: initrd.map_or(0, |_| MODULES),
        cmdline_paddr: COMMAND_LINE,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    let mut params = BootParams::new(&info, GuestAddress(START_INFO));
    params.set_sections(&map, GuestAddress(MEMORY_MAP));
    if let Some((paddr, size)) = initrd {
        let module = hvm_modlist_entry { paddr, size, ..Default::default() };
        params.set_modules(&[module], GuestAddress(MODULES));
    }
    PvhBootConfigurator::write_bootparams(&params, ram.memory()).map_err(BootError::StartInfo)
}

/// What the guest is told of its memory.
fn memory_map(bytes: u64) -> Vec<hvm_memmap_table_entry> {
    let entry = |addr, end: u64, type_| hvm_memmap_table_entry { addr, size: end - addr, type_, reserved: 0 };
    let mut map = vec![entry(0, LOW_END, RAM), entry(LOW_END, HIGH_START, RESERVED)];
    for range in ram_ranges(bytes) {
        let start = range.guest_address.max(HIGH_START);
        map.push(entry(start, range.guest_address + range.bytes, RAM));
    }
    map
}

#[cfg(test)]
#[path = "pvh_tests.rs"]
mod tests;
