//! The registers of a vCPU that begins at a PVH entry point.

use kvm_bindings::kvm_segment;

use super::msrs::entry;
use crate::kvm::{KvmError, VcpuHandle};

/// Protection enabled, and the bit that is always one.
const CR0: u64 = 1 | 1 << 4;

/// Puts a freshly reset vCPU at `entry` as the PVH ABI says (Xen's docs/misc/pvh.pandoc, "x86/HVM direct
/// boot ABI"): 32-bit protected mode, flat segments, paging off, EBX leading to the start info.
pub fn enter_pvh(vcpu: &VcpuHandle, entry: u64, start_info: u64) -> Result<(), KvmError> {
    let mut sregs = vcpu.sregs()?;
    let data = flat(0x10, 0x3);
    sregs.cs = flat(0x08, 0xb);
    sregs.ds = data;
    sregs.es = data;
    sregs.ss = data;
    sregs.tr = kvm_segment { limit: 0x67, type_: 0xb, present: 1, ..Default::default() };
    sregs.cr0 = CR0;
    sregs.cr4 = 0;
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.regs()?;
    regs.rip = entry;
    regs.rbx = start_info;
    regs.rflags = 2;
    vcpu.set_regs(&regs)
}

/// A flat 4 GiB segment of ring 0.
fn flat(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment { base: 0, limit: 0xffff_ffff, selector, type_, present: 1, db: 1, s: 1, g: 1, ..Default::default() }
}

/// Does to a new vCPU what firmware would have done: legacy interrupts and NMI come through the LAPIC, memory
/// is cacheable, string instructions are fast.
pub fn prepare(vcpu: &VcpuHandle) -> Result<(), KvmError> {
    /// Local vector table entries LINT0 and LINT1 and their delivery modes (Intel SDM volume 3A, 11.5.1).
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
