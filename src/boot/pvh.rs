//! Loading a kernel the PVH way (Xen's docs/misc/pvh.pandoc): the segments where the ELF says, and
//! a start info with memory map, command line and initrd.

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{Bytes, GuestAddress};

use super::config::BootConfig;
use super::elf::{Elf, Fault, Segment};
use super::image::KernelImage;
use super::layout::{ACPI, COMMAND_LINE, COMMAND_LINE_LIMIT, HOLE, MEMORY_MAP, MODULES, START_INFO};
use super::memory_map::memory_map;
use super::place::{Initrd, load_initrd, place, write_command_line, zero};
use super::{BootError, EntryPoint};
use crate::kvm::GuestRam;

/// The start info's magic number: "xEn3" with the top bit set.
const MAGIC: u32 = 0x336e_c578;

/// Loads `kernel` and what goes with it: what the image says is zero is zeroed.
pub(super) fn load(kernel: &KernelImage, boot: &BootConfig, ram: &GuestRam) -> Result<EntryPoint, BootError> {
    let (address, end) = load_kernel(kernel, ram)?;
    write_command_line(&boot.cmdline, COMMAND_LINE_LIMIT - 1, ram.memory())?;
    let initrd = boot.initrd.as_ref().map(|path| load_initrd(path, ram, end, HOLE)).transpose()?;
    write_start_info(ram, initrd)?;
    Ok(EntryPoint::Pvh { address, start_info: START_INFO })
}

/// Loads the segments; the result is the entry point and where the kernel ends in low RAM.
fn load_kernel(kernel: &KernelImage, ram: &GuestRam) -> Result<(u64, u64), BootError> {
    let fault = |fault| kernel.fault(fault);
    let image = Elf::read(&kernel.bytes).map_err(fault)?;
    // Said before anything is: an ordinary program does not fit either, and more memory would not
    // help it.
    let entry = image.pvh_entry().map_err(fault)?.ok_or_else(|| kernel.without_note())?;
    let segments = image.segments().map_err(fault)?;
    let mut kernel_end = 0;
    for Segment { address, memory_bytes, .. } in &segments {
        let end = place(*address, *memory_bytes, ram).map_err(|why| BootError::KernelDoesNotFit {
            name: kernel.name.clone(),
            start: *address,
            end: address.saturating_add(*memory_bytes),
            why,
        })?;
        if end <= HOLE {
            kernel_end = kernel_end.max(end);
        }
    }
    if !segments.iter().any(|it| (it.address..it.address + it.memory_bytes).contains(&entry)) {
        return Err(fault(Fault::Damaged(format!("its PVH note names an entry in none of its segments, {entry:#x}"))));
    }
    for segment in &segments {
        ram.memory().write_slice(segment.contents, GuestAddress(segment.address))?;
        let rest = segment.address + segment.contents.len() as u64;
        zero(rest, segment.address + segment.memory_bytes, ram.memory())?;
    }
    Ok((entry, kernel_end))
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
mod tests;
