//! Loading a kernel the PVH way (Xen's docs/misc/pvh.pandoc): the segments where the ELF says, and a start
//! info with memory map, command line and initrd.

use std::io::Cursor;

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{Error as LoaderError, KernelLoader};
use vm_memory::{Bytes, GuestAddress};

use super::elf::{self, Segment};
use super::image::KernelImage;
use super::layout::{ACPI, COMMAND_LINE, COMMAND_LINE_LIMIT, MEMORY_MAP, MODULES, START_INFO};
use super::load::{Initrd, fits, load_initrd, low_end, write_command_line};
use super::memory_map::memory_map;
use super::{BootError, EntryPoint};
use crate::config::BootConfig;
use crate::kvm::{GuestMemory, GuestRam};

/// The start info's magic number: "xEn3" with the top bit set.
const MAGIC: u32 = 0x336e_c578;

/// Loads `kernel` and what goes with it: what the image says is zero is zeroed.
pub(super) fn load(kernel: &KernelImage, boot: &BootConfig, ram: &GuestRam) -> Result<EntryPoint, BootError> {
    let memory = ram.memory();
    let low = low_end(ram);
    let (address, end) = load_kernel(kernel, memory, low)?;
    write_command_line(&boot.cmdline, COMMAND_LINE_LIMIT - 1, memory)?;
    let initrd = boot.initrd.as_ref().map(|path| load_initrd(path, memory, end, low)).transpose()?;
    write_start_info(ram, initrd)?;
    Ok(EntryPoint::Pvh { address, start_info: START_INFO })
}

/// Loads the segments; the result is the entry point and where the kernel ends.
fn load_kernel(kernel: &KernelImage, memory: &GuestMemory, low: u64) -> Result<(u64, u64), BootError> {
    let name = || kernel.name.clone();
    let segments = elf::segments(&kernel.bytes).ok_or_else(|| BootError::NotOurElf { name: name() })?;
    if !elf::has_pvh_note(&kernel.bytes).unwrap_or(false) {
        // Said before anything is: an ordinary program does not fit either, and more memory would not help it.
        return Err(BootError::NoPvhNote { name: name() });
    }
    let mut kernel_end = 0;
    for segment in &segments {
        let end =
            fits(segment.address, segment.memory_bytes, low).filter(|_| segment.memory_bytes >= segment.file_bytes);
        let end = end.ok_or_else(|| BootError::KernelDoesNotFit {
            name: name(),
            start: segment.address,
            end: segment.address.saturating_add(segment.memory_bytes),
        })?;
        kernel_end = kernel_end.max(end);
    }
    let loaded = Elf::load(memory, None, &mut Cursor::new(&kernel.bytes), None);
    let loaded = loaded.map_err(|source: LoaderError| BootError::Damaged { name: name(), source })?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(BootError::NoPvhNote { name: name() });
    };
    for segment in &segments {
        zero_rest(segment, memory)?;
    }
    Ok((entry.0, kernel_end))
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

fn write_start_info(ram: &GuestRam, initrd: Option<Initrd>) -> Result<(), BootError> {
    let map: Vec<_> = memory_map(ram.bytes())
        .iter()
        .map(|it| hvm_memmap_table_entry { addr: it.address, size: it.bytes, type_: it.kind as u32, reserved: 0 })
        .collect();
    let info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        nr_modules: initrd.map_or(0, |_| 1),
        modlist_paddr: initrd.map_or(0, |_| MODULES),
        cmdline_paddr: COMMAND_LINE,
        rsdp_paddr: ACPI.start,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    let mut params = BootParams::new(&info, GuestAddress(START_INFO));
    params.set_sections(&map, GuestAddress(MEMORY_MAP));
    if let Some(initrd) = initrd {
        let module = hvm_modlist_entry { paddr: initrd.address, size: initrd.bytes, ..Default::default() };
        params.set_modules(&[module], GuestAddress(MODULES));
    }
    PvhBootConfigurator::write_bootparams(&params, ram.memory()).map_err(BootError::StartInfo)
}

#[cfg(test)]
#[path = "pvh_tests.rs"]
mod tests;
