//! What the monitor hands over: `hvm_start_info` of the PVH boot protocol (Xen,
//! public/arch-x86/hvm/start_info.h). All of it is read once, before any RAM is put to use.

use core::slice;

use crate::extents::Extents;

const MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;
/// The longest command line that is taken.
const LONGEST_LINE: usize = 2048;

#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[repr(C)]
struct Module {
    address: u64,
    size: u64,
    command_line: u64,
    reserved: u64,
}

#[repr(C)]
struct MemoryRange {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// The hand-over, read.
pub struct Handover {
    /// RAM that nobody uses yet.
    pub ram: Extents,
    /// How many modules there are.
    pub modules: u32,
    /// Bytes in all modules.
    pub module_bytes: u64,
    line: [u8; LONGEST_LINE],
    line_len: usize,
}

impl Handover {
    /// Reads `hvm_start_info` at a physical address. Only RAM from `lowest` to `highest` counts.
    pub fn read(address: u64, lowest: u64, highest: u64) -> Result<Self, &'static str> {
        let info = unsafe { &*(address as *const StartInfo) };
        if info.magic != MAGIC {
            return Err("ebx did not point to an hvm_start_info: boot this by its PVH note");
        }
        if info.version < 1 || info.memory_map == 0 {
            return Err("hvm_start_info has no memory map (version 0): the monitor must give one");
        }
        let mut handover =
            Self { ram: Extents::new(), modules: info.modules, module_bytes: 0, line: [0; LONGEST_LINE], line_len: 0 };
        for range in table::<MemoryRange>(info.memory_map, info.memory_map_entries) {
            if range.kind == RAM {
                handover.ram.push(range.address.max(lowest), range.address.saturating_add(range.size).min(highest));
            }
        }
        for module in table::<Module>(info.module_list, info.modules) {
            handover.ram.cut(module.address, module.address.saturating_add(module.size));
            handover.module_bytes += module.size;
        }
        if info.command_line != 0 {
            handover.read_line(info.command_line as *const u8)?;
        }
        Ok(handover)
    }

    fn read_line(&mut self, text: *const u8) -> Result<(), &'static str> {
        for i in 0..LONGEST_LINE {
            self.line[i] = unsafe { text.add(i).read() };
            if self.line[i] == 0 {
                self.line_len = i;
                return Ok(());
            }
        }
        Err("the command line is longer than 2047 bytes")
    }

    /// The command line.
    pub fn line(&self) -> Result<&str, &'static str> {
        str::from_utf8(&self.line[..self.line_len]).map_err(|_| "the command line is not UTF-8")
    }
}

fn table<T>(address: u64, entries: u32) -> &'static [T] {
    match entries {
        0 => &[],
        n => unsafe { slice::from_raw_parts(address as *const T, n as usize) },
    }
}
