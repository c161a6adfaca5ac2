//! The pages that a vCPU cannot do without in its first moments: where it stands and where its
//! stack, its tables, its clocks and what its registers point to are, with the page tables that
//! lead there; and what lies around its code. Each that is missing at a postcopy's destination
//! would be fetched after the one before it, while the guest stands still.

use std::collections::BTreeSet;

use kvm_bindings::{kvm_regs, kvm_sregs};
use vm_memory::{Bytes, GuestAddress};
use whimbrel_postcopy::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};

use super::Machine;
use crate::vcpu::paravirtual_pages;

const PAGING: u64 = 1 << 31;
const FIVE_LEVELS: u64 = 1 << 12;
const LONG_MODE: u64 = 1 << 10;
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// How many pages before and behind a vCPU's code are likely to be touched soon: the rest of the
/// loop that it is in, and what that calls.
const BEFORE: u64 = 8;
const BEHIND: u64 = 24;

impl Machine {
    /// Those pages of all vCPUs that stand still; each once, those first that are needed first. One
    /// that runs is the sign that the guest has stayed here meanwhile: waiting for it would be
    /// waiting for ever.
    pub(super) fn first_pages(&self) -> Vec<PageRun> {
        let memory = self.ram.memory();
        let read = |address: u64| memory.read_obj::<u64>(GuestAddress(address)).ok();
        let (mut addresses, mut around) = (Vec::new(), Vec::new());
        for vcpu in self.vcpus.iter() {
            let Some(handle) = vcpu.try_lock() else { continue };
            if let (Ok(regs), Ok(sregs)) = (handle.regs(), handle.sregs()) {
                of_vcpu(&regs, &sregs, read, &mut addresses);
                around_code(&regs, &sregs, read, &mut around);
            }
            addresses.extend(paravirtual_pages(&handle));
        }
        let pages =
            |addresses: Vec<u64>| addresses.into_iter().map(|it| it / PAGE_SIZE as u64).collect::<BTreeSet<_>>();
        let (first, then) = (pages(addresses), pages(around));
        let in_order = first.iter().chain(then.difference(&first));
        in_runs(in_order.filter_map(|page| self.page_at(page * PAGE_SIZE as u64)))
    }

    /// The page of RAM at a guest-physical address.
    fn page_at(&self, address: u64) -> Option<PageRun> {
        (0..).zip(self.ram.ranges()).find_map(|(block, range)| {
            let offset = address.checked_sub(range.guest_address).filter(|offset| *offset < range.bytes)?;
            Some(PageRun::single(BlockId(block), PageIndex(offset / PAGE_SIZE as u64)))
        })
    }
}

/// Appends the guest-physical addresses that one vCPU needs. `read` reads eight bytes of
/// guest-physical memory.
fn of_vcpu(regs: &kvm_regs, sregs: &kvm_sregs, read: impl Fn(u64) -> Option<u64> + Copy, found: &mut Vec<u64>) {
    let long = sregs.efer & LONG_MODE != 0;
    let base = |base: u64| if long { 0 } else { base };
    let page = PAGE_SIZE as u64;
    let code = base(sregs.cs.base).wrapping_add(regs.rip);
    let stack = base(sregs.ss.base).wrapping_add(regs.rsp);
    let linear = [
        code,
        code.wrapping_add(page),
        // What was pushed last, and what will be pushed next.
        stack,
        stack.wrapping_sub(page),
        sregs.idt.base,
        sregs.gdt.base,
        sregs.tr.base,
        sregs.gs.base,
        sregs.fs.base,
    ];
    // Much of what code touches next a register points to. A number that is no pointer costs a page
    // that is not needed.
    let pointers = [
        regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp, regs.r8, regs.r9, regs.r10, regs.r11,
        regs.r12, regs.r13, regs.r14, regs.r15,
    ];
    for address in linear.into_iter().chain(pointers) {
        walk(address, sregs, read, found);
    }
}

/// Appends the guest-physical addresses of what lies around the vCPU's code.
fn around_code(regs: &kvm_regs, sregs: &kvm_sregs, read: impl Fn(u64) -> Option<u64> + Copy, found: &mut Vec<u64>) {
    let base = if sregs.efer & LONG_MODE != 0 { 0 } else { sregs.cs.base };
    let page = PAGE_SIZE as u64;
    let first = base.wrapping_add(regs.rip).wrapping_sub(BEFORE * page);
    let mut way = Vec::new();
    for number in 0..BEFORE + BEHIND {
        way.clear();
        walk(first.wrapping_add(number * page), sregs, read, &mut way);
        // The way there is the code's own, as a rule.
        found.extend(way.pop());
    }
}

/// Pages that follow each other as one run.
fn in_runs(pages: impl Iterator<Item = PageRun>) -> Vec<PageRun> {
    let mut runs: Vec<PageRun> = Vec::new();
    for page in pages {
        match runs.last_mut() {
            Some(last) if last.block == page.block && last.end() == page.start => last.count += 1,
            _ => runs.push(page),
        }
    }
    runs
}

/// Appends what leads to a linear address, and what is there. Only for 64-bit and unpaged code:
/// others fetch their pages as they need them.
fn walk(linear: u64, sregs: &kvm_sregs, read: impl Fn(u64) -> Option<u64>, found: &mut Vec<u64>) {
    if sregs.cr0 & PAGING == 0 {
        return found.push(linear);
    }
    if sregs.efer & LONG_MODE == 0 {
        return;
    }
    let mut table = sregs.cr3 & ADDRESS;
    let levels = if sregs.cr4 & FIVE_LEVELS != 0 { 5 } else { 4 };
    for level in (0..levels).rev() {
        let shift = 12 + 9 * level;
        found.push(table);
        let Some(entry) = read(table + (linear >> shift & 0x1ff) * 8).filter(|entry| entry & PRESENT != 0) else {
            return;
        };
        if (1..3).contains(&level) && entry & LARGE != 0 {
            let inside = (1 << shift) - 1;
            return found.push(entry & ADDRESS & !inside | linear & inside);
        }
        table = entry & ADDRESS;
    }
    found.push(table);
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::kvm::zeroed;

    fn sregs(cr0: u64, efer: u64, cr3: u64) -> kvm_sregs {
        kvm_sregs { cr0, efer, cr3, ..zeroed() }
    }

    fn walked(linear: u64, sregs: &kvm_sregs, memory: &[(u64, u64)]) -> Vec<u64> {
        let memory: HashMap<_, _> = memory.iter().copied().collect();
        let mut found = Vec::new();
        walk(linear, sregs, |address| memory.get(&address).copied(), &mut found);
        found
    }

    #[test]
    fn four_levels_lead_to_a_page() {
        let paged = sregs(PAGING, LONG_MODE, 0x1000 | 0x18);
        // Indices 1, 2, 3, 4.
        let linear = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 0x123;
        let memory = [(0x1008, 0x2003), (0x2010, 0x3003), (0x3018, 0x4003), (0x4020, 0x8000_0000_0000_5003)];
        assert_eq!(walked(linear, &paged, &memory), [0x1000, 0x2000, 0x3000, 0x4000, 0x5000]);
    }

    #[test]
    fn a_large_page_ends_the_walk_and_a_missing_one_too() {
        let paged = sregs(PAGING, LONG_MODE, 0x1000);
        let memory = [(0x1000, 0x2003), (0x2000, 0x3003), (0x3008, 0x60_0000 | LARGE | 3)];
        assert_eq!(walked(0x21_2345, &paged, &memory), [0x1000, 0x2000, 0x3000, 0x61_2345]);
        assert_eq!(walked(0x40_0000, &paged, &memory), [0x1000, 0x2000, 0x3000]);
        let gigabyte = [(0x1000, 0x2003), (0x2000, 0x4000_0000 | LARGE | 3)];
        assert_eq!(walked(0x21_2345, &paged, &gigabyte), [0x1000, 0x2000, 0x4021_2345]);
    }

    #[test]
    fn without_paging_an_address_is_itself() {
        assert_eq!(walked(0xfff0, &sregs(0, 0, 0), &[]), [0xfff0]);
        // 32-bit paging.
        assert_eq!(walked(0xfff0, &sregs(PAGING, 0, 0x1000), &[]), [0u64; 0]);
    }

    #[test]
    fn what_lies_around_the_code_comes_along() {
        let regs = kvm_regs { rip: 0x10_0123, ..zeroed() };
        let mut found = Vec::new();
        around_code(&regs, &sregs(0, 0, 0), |_| None, &mut found);
        let pages: Vec<u64> = found.iter().map(|address| address >> 12).collect();
        assert_eq!(pages, (0x100 - BEFORE..0x100 + BEHIND).collect::<Vec<_>>());
        let single = |page| PageRun::single(BlockId(0), PageIndex(page));
        let runs = in_runs([single(3), single(4), single(9), single(8), single(9)].into_iter());
        assert_eq!(runs.iter().map(|run| (run.start.0, run.count)).collect::<Vec<_>>(), [(3, 2), (9, 1), (8, 2)]);
    }

    #[test]
    fn a_vcpu_needs_its_code_and_stack() {
        let regs = kvm_regs { rip: 0x7c00, rsp: 0x9000, ..zeroed() };
        let mut found = Vec::new();
        of_vcpu(&regs, &sregs(0, 0, 0), |_| None, &mut found);
        assert_eq!(found[..4], [0x7c00, 0x8c00, 0x9000, 0x8000]);
    }
}
