//! Loading a bzImage by Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst): the
//! compressed kernel where it prefers to be, and the boot parameters ("zero page") with memory map,
//! command line, initrd and the way to ACPI.
//!
//! The kernel is entered in long mode, 512 bytes behind its start, so its real-mode setup code
//! never runs. It unpacks itself within the `init_size` bytes that its header asks for.

use linux_loader::loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, boot_e820_entry, boot_params, setup_header};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::config::BootConfig;
use super::error::Misfit;
use super::image::KernelImage;
use super::layout::{ACPI, COMMAND_LINE, GDT, PAGE_TABLES, RAM_ABOVE_HOLE, ZERO_PAGE};
use super::memory_map::memory_map;
use super::place::{Initrd, load_initrd, place, write_command_line};
use super::{BootError, EntryPoint};
use crate::kvm::{GuestMemory, GuestRam};

/// The descriptors: two that nobody uses, then flat 64-bit code (`__BOOT_CS`, 0x10) and flat data
/// (`__BOOT_DS`, 0x18).
const DESCRIPTORS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
/// The offset of the descriptors' last byte, as the processor wants it.
pub const GDT_LIMIT: u16 = (size_of_val(&DESCRIPTORS) - 1) as u16;

/// Where the header is in the image.
const HEADER: usize = 0x1f1;
/// The first version of the protocol with a 64-bit entry that the header tells of.
const OLDEST: u16 = 0x020c;
/// The 64-bit entry, from the kernel's start.
const ENTRY: u64 = 0x200;
/// Nobody whom the kernel knows.
const UNKNOWN_LOADER: u8 = 0xff;
/// How much the page tables map: four page directories of 2 MiB pages.
const DIRECTORIES: u64 = 4;

/// A bzImage, its header checked against its length.
struct Parts<'a> {
    header: setup_header,
    /// The kernel alone, without setup code and what may follow, such as a signature.
    kernel: &'a [u8],
}

/// Loads `kernel` and what goes with it.
pub(super) fn load(kernel: &KernelImage, boot: &BootConfig, ram: &GuestRam) -> Result<EntryPoint, BootError> {
    let memory = ram.memory();
    let Parts { header, kernel: code } = parts(kernel)?;
    let start = header.pref_address;
    let needed = (code.len() as u64).max(header.init_size.into());
    // The page tables map no more than 4 GiB.
    let end =
        if start >= RAM_ABOVE_HOLE { Err(Misfit::Beyond { address_space: false }) } else { place(start, needed, ram) };
    let end = end.map_err(|why| BootError::KernelDoesNotFit {
        name: kernel.name.clone(),
        start,
        end: start.saturating_add(needed),
        why,
    })?;
    memory.write_slice(code, GuestAddress(start))?;
    write_command_line(&boot.cmdline, header.cmdline_size as usize, memory)?;
    // The highest address that the initrd's last byte may have.
    let highest = u64::from(header.initrd_addr_max) + 1;
    let initrd = boot.initrd.as_ref().map(|path| load_initrd(path, ram, end, highest)).transpose()?;
    memory.write_obj(boot_parameters(header, ram.bytes(), initrd), GuestAddress(ZERO_PAGE))?;
    write_long_mode(memory)?;
    Ok(EntryPoint::Linux64 { address: start + ENTRY, zero_page: ZERO_PAGE, page_tables: PAGE_TABLES, gdt: GDT })
}

/// Checks the header.
fn parts(kernel: &KernelImage) -> Result<Parts<'_>, BootError> {
    let name = || kernel.name.clone();
    let bytes = kernel.bytes.as_slice();
    let cut_off = |wanted: u64| BootError::CutOff { name: name(), bytes: bytes.len() as u64, wanted };
    let mut header = setup_header::default();
    let end = HEADER + size_of::<setup_header>();
    header.as_mut_slice().copy_from_slice(bytes.get(HEADER..end).ok_or_else(|| cut_off(end as u64))?);
    if header.version < OLDEST || header.loadflags & LOADED_HIGH == 0 || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(BootError::No64BitEntry { name: name() });
    }
    // Zero means four for the sake of very old kernels; the boot sector is not counted. `syssize`
    // counts units of 16 bytes, rounded up: of the last one, only what the file has is there.
    // Builders that leave it out mean the rest of the file.
    let sectors = if header.setup_sects == 0 { 4 } else { usize::from(header.setup_sects) };
    let setup = (sectors + 1) * 512;
    let rest = bytes.get(setup..).ok_or_else(|| cut_off(setup as u64 + ENTRY))?;
    let told = u64::from(header.syssize) * 16;
    let length = if told == 0 { rest.len() as u64 } else { told.min(rest.len() as u64) };
    if told.saturating_sub(length) >= 16 {
        return Err(cut_off(setup as u64 + told));
    }
    if length <= ENTRY {
        return Err(BootError::Damaged {
            name: name(),
            what: format!("its kernel has {length} bytes and no 64-bit entry"),
        });
    }
    Ok(Parts { header, kernel: &rest[..length as usize] })
}

/// The zero page: the image's own header with the loader's part filled in, memory map and RSDP.
fn boot_parameters(header: setup_header, ram_bytes: u64, initrd: Option<Initrd>) -> boot_params {
    let mut params = boot_params { hdr: header, acpi_rsdp_addr: ACPI.start, ..Default::default() };
    params.hdr.type_of_loader = UNKNOWN_LOADER;
    params.hdr.cmd_line_ptr = COMMAND_LINE as u32;
    if let Some(initrd) = initrd {
        params.hdr.ramdisk_image = initrd.address as u32;
        params.ext_ramdisk_image = (initrd.address >> 32) as u32;
        params.hdr.ramdisk_size = initrd.bytes as u32;
        params.ext_ramdisk_size = (initrd.bytes >> 32) as u32;
    }
    let map = memory_map(ram_bytes);
    for (entry, it) in params.e820_table.iter_mut().zip(&map) {
        *entry = boot_e820_entry { addr: it.address, size: it.bytes, r#type: it.kind as u32 };
    }
    params.e820_entries = map.len() as u8;
    params
}

/// Writes the descriptors and page tables that map the first 4 GiB to themselves.
fn write_long_mode(memory: &GuestMemory) -> Result<(), BootError> {
    /// Entries: present and writable; a whole 2 MiB page.
    const TABLE: u64 = 0b11;
    const HUGE: u64 = TABLE | 1 << 7;

    for (at, descriptor) in DESCRIPTORS.iter().enumerate() {
        memory.write_obj(*descriptor, GuestAddress(GDT + at as u64 * 8))?;
    }
    let (pointers, directories) = (PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000);
    let mut pages = vec![0u64; 512 * (2 + DIRECTORIES as usize)];
    pages[0] = pointers | TABLE;
    for number in 0..DIRECTORIES {
        pages[512 + number as usize] = (directories + number * 0x1000) | TABLE;
    }
    for (number, entry) in pages[1024..].iter_mut().enumerate() {
        *entry = (number as u64) << 21 | HUGE;
    }
    let bytes: Vec<u8> = pages.into_iter().flat_map(u64::to_le_bytes).collect();
    memory.write_slice(&bytes, GuestAddress(PAGE_TABLES))?;
    Ok(())
}

#[cfg(test)]
mod tests;
