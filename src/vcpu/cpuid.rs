//! The CPUID leaves of each vCPU: what the host's KVM supports, with the guest's own topology.
//!
//! One package, one core a vCPU, one thread a core. Nested virtualisation and the performance
//! monitoring unit are not offered: their state is not migrated.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Which bits are where (Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E).
const LEAF1_ECX_VMX: u32 = 1 << 5;
const LEAF1_ECX_PDCM: u32 = 1 << 15;
const LEAF1_ECX_TSC_DEADLINE: u32 = 1 << 24;
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
const LEAF1_EDX_HTT: u32 = 1 << 28;
const EXTENDED1_ECX_SVM: u32 = 1 << 2;
const EXTENDED1_ECX_PERFCTR_CORE: u32 = 1 << 23;

/// The leaves that vCPU `index` of `count` shows, out of those that the host's KVM supports.
pub fn guest_cpuid(supported: &[kvm_cpuid_entry2], index: u8, count: u8, tsc_deadline: bool) -> Vec<kvm_cpuid_entry2> {
    let highest = supported.iter().find(|entry| entry.function == 0).map_or(0, |entry| entry.eax);
    let hidden = |function| matches!(function, 0xa | 0xb | 0x1f | 0x8000_000a | 0x8000_0022);
    let mut leaves: Vec<_> = supported.iter().filter(|entry| !hidden(entry.function)).copied().collect();
    for leaf in &mut leaves {
        adapt(leaf, index, count, tsc_deadline);
    }
    if highest >= 0xb {
        leaves.extend(topology(index, count));
    }
    leaves
}

/// Puts this vCPU's part into one leaf.
fn adapt(leaf: &mut kvm_cpuid_entry2, index: u8, count: u8, tsc_deadline: bool) {
    let others = u32::from(count) - 1;
    match leaf.function {
        1 => {
            leaf.ebx = leaf.ebx & 0xffff | u32::from(count) << 16 | u32::from(index) << 24;
            leaf.ecx &= !(LEAF1_ECX_VMX | LEAF1_ECX_PDCM | LEAF1_ECX_TSC_DEADLINE);
            leaf.ecx |= LEAF1_ECX_HYPERVISOR;
            if tsc_deadline {
                leaf.ecx |= LEAF1_ECX_TSC_DEADLINE;
            }
            leaf.edx &= !LEAF1_EDX_HTT;
            if count > 1 {
                leaf.edx |= LEAF1_EDX_HTT;
            }
        }
        4 if leaf.eax & 0x1f != 0 => {
            leaf.eax = sharing(leaf.eax, others) & 0x03ff_ffff | others << 26;
        }
        0x8000_001d if leaf.eax & 0x1f != 0 => leaf.eax = sharing(leaf.eax, others),
        0x8000_0001 => leaf.ecx &= !(EXTENDED1_ECX_SVM | EXTENDED1_ECX_PERFCTR_CORE),
        0x8000_0008 => {
            leaf.ecx = leaf.ecx & !0xf0ff | others | id_bits(count) << 12;
        }
        0x8000_001e => {
            leaf.eax = index.into();
            leaf.ebx = index.into();
            leaf.ecx = 0;
        }
        _ => {}
    }
}

/// A cache leaf's EAX with the number of vCPUs that share the cache: the third level by all, others
/// by none.
fn sharing(eax: u32, others: u32) -> u32 {
    let level = eax >> 5 & 7;
    let sharers = if level >= 3 { others } else { 0 };
    eax & !(0xfff << 14) | sharers << 14
}

/// How many bits of an APIC id tell the vCPUs apart.
fn id_bits(count: u8) -> u32 {
    u32::from(count).next_power_of_two().trailing_zeros()
}

/// Leaf 0xb: the thread level, the core level, and the end.
fn topology(index: u8, count: u8) -> [kvm_cpuid_entry2; 3] {
    const THREAD: u32 = 1;
    const CORE: u32 = 2;
    let level = |number: u32, shift: u32, vcpus: u32, kind: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index: number,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: vcpus,
        ecx: number | kind << 8,
        edx: index.into(),
        ..Default::default()
    };
    [level(0, 0, 1, THREAD), level(1, id_bits(count), count.into(), CORE), level(2, 0, 0, 0)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn host() -> Vec<kvm_cpuid_entry2> {
        vec![
            leaf(0, 0, [0x1f, 0, 0, 0]),
            leaf(1, 0, [0x806f8, 0x1740_0800, LEAF1_ECX_VMX | LEAF1_ECX_PDCM | 1, 0x1000_0001]),
            leaf(4, 0, [1 | 1 << 5 | 1 << 14 | 7 << 26, 0, 0, 0]),
            leaf(4, 3, [3 | 3 << 5 | 127 << 14 | 63 << 26, 0, 0, 0]),
            leaf(0xa, 0, [5, 5, 5, 5]),
            leaf(0xb, 0, [1, 2, 0x100, 9]),
            leaf(0x1f, 0, [1, 2, 0x100, 9]),
            leaf(0x8000_0001, 0, [0, 0, EXTENDED1_ECX_SVM | EXTENDED1_ECX_PERFCTR_CORE | 1, 0]),
        ]
    }

    fn find(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *leaves.iter().find(|leaf| leaf.function == function && leaf.index == index).unwrap()
    }

    #[test]
    fn leaf_one_tells_the_vcpu_and_hides_nesting_and_counters() {
        let leaves = guest_cpuid(&host(), 2, 4, true);
        let one = find(&leaves, 1, 0);
        assert_eq!(one.ebx, 2 << 24 | 4 << 16 | 0x0800);
        assert_eq!(one.ecx, 1 | LEAF1_ECX_HYPERVISOR | LEAF1_ECX_TSC_DEADLINE);
        assert_eq!(one.edx, 1 | LEAF1_EDX_HTT);
        assert_eq!(find(&leaves, 0x8000_0001, 0).ecx, 1);
        assert_eq!(find(&guest_cpuid(&host(), 0, 1, false), 1, 0).edx, 1);
    }

    #[test]
    fn caches_are_shared_at_the_third_level_only() {
        let leaves = guest_cpuid(&host(), 0, 4, true);
        assert_eq!(find(&leaves, 4, 0).eax, 1 | 1 << 5 | 3 << 26);
        assert_eq!(find(&leaves, 4, 3).eax, 3 | 3 << 5 | 3 << 14 | 3 << 26);
    }

    #[test]
    fn topology_is_the_guests_own() {
        let leaves = guest_cpuid(&host(), 5, 6, true);
        assert_eq!(find(&leaves, 0xb, 1).eax, 3);
        assert_eq!(find(&leaves, 0xb, 1).ebx, 6);
        assert_eq!(find(&leaves, 0xb, 0).edx, 5);
        assert_eq!(find(&leaves, 0xb, 2).ecx, 2);
        assert!(!leaves.iter().any(|leaf| matches!(leaf.function, 0x1f | 0xa)));
    }
}
