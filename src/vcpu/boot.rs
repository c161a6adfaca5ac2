//! The registers of a vCPU that begins at a PVH entry point.

use kvm_bindings::kvm_segment;

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
    sregs.tr = kvm_segment {
        limit: 0x67,
        type_: 0xb,
        present: 1,
        ..Default::default()
    };
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
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}
