//! The registers of a vCPU that begins at a kernel's entry point.

use kvm_bindings::{kvm_dtable, kvm_segment};

use super::msrs::entry;
use crate::kvm::{KvmError, VcpuHandle};

/// Control registers and EFER (Intel SDM volume 3A, 2.5 and 4.1): protection, the bit that is
/// always one, paging; physical address extension; long mode enabled and active.
const CR0_PROTECTION: u64 = 1 | 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
/// Of the flags only the bit that is always one: interrupts are off.
const RFLAGS: u64 = 2;

/// Segment types: code and data, readable, writable and accessed already; a task state segment in
/// use.
const CODE: u8 = 0xb;
const DATA: u8 = 0x3;
const TASK: kvm_segment = kvm_segment {
    base: 0,
    limit: 0x67,
    selector: 0,
    type_: 0xb,
    present: 1,
    dpl: 0,
    db: 0,
    s: 0,
    l: 0,
    g: 0,
    avl: 0,
    unusable: 0,
    padding: 0,
};

/// Puts a freshly reset vCPU at `entry` as the PVH ABI says (Xen's docs/misc/pvh.pandoc, "x86/HVM
/// direct boot ABI"): 32-bit protected mode, flat segments, paging off, EBX leading to the start
/// info.
pub fn enter_pvh(vcpu: &VcpuHandle, entry: u64, start_info: u64) -> Result<(), KvmError> {
    let mut sregs = vcpu.sregs()?;
    let data = flat(0x10, DATA);
    sregs.cs = flat(0x08, CODE);
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    sregs.tr = TASK;
    sregs.cr0 = CR0_PROTECTION;
    sregs.cr4 = 0;
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.regs()?;
    regs.rip = entry;
    regs.rbx = start_info;
    regs.rflags = RFLAGS;
    vcpu.set_regs(&regs)
}

/// What a vCPU that begins in long mode finds in memory; guest-physical addresses.
#[derive(Clone, Copy, Debug)]
pub struct LongMode {
    /// The page tables.
    pub page_tables: u64,
    /// The segment descriptors.
    pub gdt: u64,
    /// The offset of their last byte.
    pub gdt_limit: u16,
}

/// Puts a freshly reset vCPU at `entry` as Linux's 64-bit boot protocol says
/// (Documentation/arch/x86/boot.rst): long mode, flat segments `__BOOT_CS` and `__BOOT_DS`,
/// interrupts off, RSI leading to the boot parameters.
pub fn enter_linux64(vcpu: &VcpuHandle, entry: u64, zero_page: u64, tables: LongMode) -> Result<(), KvmError> {
    const BOOT_CS: u16 = 0x10;
    const BOOT_DS: u16 = 0x18;

    let mut sregs = vcpu.sregs()?;
    let data = flat(BOOT_DS, DATA);
    sregs.cs = kvm_segment { l: 1, db: 0, ..flat(BOOT_CS, CODE) };
    (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
    sregs.tr = TASK;
    sregs.gdt = kvm_dtable { base: tables.gdt, limit: tables.gdt_limit, ..Default::default() };
    sregs.cr0 = CR0_PROTECTION | CR0_PAGING;
    sregs.cr3 = tables.page_tables;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LONG_MODE;
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.regs()?;
    regs.rip = entry;
    regs.rsi = zero_page;
    regs.rflags = RFLAGS;
    vcpu.set_regs(&regs)
}

/// A flat 4 GiB segment of ring 0.
fn flat(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment { base: 0, limit: 0xffff_ffff, selector, type_, present: 1, db: 1, s: 1, g: 1, ..Default::default() }
}

/// Does to a new vCPU what firmware would have done: legacy interrupts and NMI come through the
/// LAPIC, memory is cacheable, string instructions are fast.
pub fn prepare(vcpu: &VcpuHandle) -> Result<(), KvmError> {
    /// Local vector table entries LINT0 and LINT1 and their delivery modes (Intel SDM volume 3A,
    /// 11.5.1).
    const LINT0: usize = 0x350;
    const LINT1: usize = 0x360;
    const EXTERNAL: u32 = 7 << 8;
    const NMI: u32 = 4 << 8;
    /// IA32_MTRR_DEF_TYPE: enabled, write-back. IA32_MISC_ENABLE: fast strings.
    const MTRR_DEFAULT: (u32, u64) = (0x2ff, 1 << 11 | 6);
    const MISC_ENABLE: (u32, u64) = (0x1a0, 1);

    let mut lapic = vcpu.lapic()?;
    for (register, value) in [(LINT0, EXTERNAL), (LINT1, NMI)] {
        let slots = lapic.regs[register..register + 4].iter_mut();
        for (slot, byte) in slots.zip(value.to_le_bytes()) {
            *slot = byte as std::os::raw::c_char;
        }
    }
    vcpu.set_lapic(&lapic)?;
    for (index, value) in [MTRR_DEFAULT, MISC_ENABLE] {
        if vcpu.set_msrs(&[entry(index, value)])? != 1 {
            log::debug!("MSR {index:#x} cannot be set on this host");
        }
    }
    Ok(())
}
