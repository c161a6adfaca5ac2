//! Registers as text, for the monitor and the log of a guest that died.

use std::fmt::Write;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

use crate::kvm::VcpuHandle;

/// The registers of a stopped vCPU, or why they cannot be read.
pub fn registers(vcpu: &VcpuHandle) -> String {
    match (vcpu.regs(), vcpu.sregs()) {
        (Ok(regs), Ok(sregs)) => text(&regs, &sregs),
        (Err(error), _) | (_, Err(error)) => format!("(unreadable: {error})"),
    }
}

fn text(regs: &kvm_regs, sregs: &kvm_sregs) -> String {
    let mut out = String::new();
    let rows = [
        [("rax", regs.rax), ("rbx", regs.rbx), ("rcx", regs.rcx), ("rdx", regs.rdx)],
        [("rsi", regs.rsi), ("rdi", regs.rdi), ("rbp", regs.rbp), ("rsp", regs.rsp)],
        [("r8", regs.r8), ("r9", regs.r9), ("r10", regs.r10), ("r11", regs.r11)],
        [("r12", regs.r12), ("r13", regs.r13), ("r14", regs.r14), ("r15", regs.r15)],
        [("rip", regs.rip), ("rfl", regs.rflags), ("efer", sregs.efer), ("apic", sregs.apic_base)],
        [("cr0", sregs.cr0), ("cr2", sregs.cr2), ("cr3", sregs.cr3), ("cr4", sregs.cr4)],
    ];
    for row in rows {
        let line = row.map(|(name, value)| format!("{name:>4}={value:016x}"));
        let _ = writeln!(out, "{}", line.join(" "));
    }
    let segments = [
        ("cs", &sregs.cs),
        ("ds", &sregs.ds),
        ("es", &sregs.es),
        ("fs", &sregs.fs),
        ("gs", &sregs.gs),
        ("ss", &sregs.ss),
        ("tr", &sregs.tr),
        ("ldt", &sregs.ldt),
    ];
    for (name, segment) in segments {
        let _ = writeln!(out, "{}", segment_text(name, segment));
    }
    for (name, table) in [("gdt", &sregs.gdt), ("idt", &sregs.idt)] {
        let _ = writeln!(out, "{name:>4}={:016x} limit {:04x}", table.base, table.limit);
    }
    out
}

fn segment_text(name: &str, segment: &kvm_segment) -> String {
    format!(
        "{name:>4}={:04x} base {:016x} limit {:08x} type {:x} dpl {} present {} db {} l {}",
        segment.selector,
        segment.base,
        segment.limit,
        segment.type_,
        segment.dpl,
        segment.present,
        segment.db,
        segment.l
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_is_there() {
        let regs = kvm_regs { rip: 0xdead_beef, r15: 0x15, ..Default::default() };
        let mut sregs = kvm_sregs { cr3: 0x3000, ..Default::default() };
        sregs.cs.selector = 0x10;
        let text = text(&regs, &sregs);
        for wanted in ["rip=00000000deadbeef", "r15=0000000000000015", "cr3=0000000000003000", "cs=0010", "idt="] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
    }
}
