//! Leaf 0xd: which extended registers there are and where XSAVE puts them.
//!
//! The processor lays the area out, no hypervisor can change that, and layouts differ: AMD's `pku`
//! lies elsewhere on each of its generations. So sizes and places always come from the host, and
//! two hosts must agree on those that a guest uses.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use crate::vcpu::features::FeatureSet;

const LEAF: u32 = 0xd;
/// The x87 and SSE registers, which are always there.
const LEGACY: u32 = 0b11;
/// The legacy area and the header, in bytes: where the other components begin at the earliest
/// (Intel SDM volume 1, 13.4).
const LEGACY_BYTES: u32 = 576;
/// In a component's ECX: it is in IA32_XSS and not in XCR0.
const SUPERVISOR: u32 = 1;
/// In a component's ECX: it begins at a multiple of 64 in the compacted layout.
const ALIGNED: u32 = 2;
/// In 0xd.1's EAX: XSAVEC or XSAVES, which use the compacted layout.
const COMPACTS: u32 = 1 << 1 | 1 << 3;

/// The component numbers and the feature without which each is not shown (Intel SDM volume 1,
/// 13.1).
const COMPONENTS: &[(u32, &str)] = &[
    (2, "avx"),
    (3, "mpx"),
    (4, "mpx"),
    (5, "avx512f"),
    (6, "avx512f"),
    (7, "avx512f"),
    (8, "intel_pt"),
    (9, "pku"),
    (11, "shstk"),
    (12, "shstk"),
    (17, "amx_tile"),
    (18, "amx_tile"),
];

/// Puts leaf 0xd into `leaves` as it belongs to `features`, or takes it out; `host` has the
/// components. Components that are not in the table stay if `keep_unknown`.
pub fn fit(leaves: &mut Vec<kvm_cpuid_entry2>, host: &[kvm_cpuid_entry2], features: &FeatureSet, keep_unknown: bool) {
    leaves.retain(|leaf| leaf.function != LEAF);
    if !features.shows("xsave") {
        return;
    }
    let wanted = |leaf: &&kvm_cpuid_entry2| match COMPONENTS.iter().find(|(number, _)| *number == leaf.index) {
        Some((_, feature)) => features.shows(feature) && (leaf.ecx & SUPERVISOR == 0 || features.shows("xsaves")),
        None => keep_unknown,
    };
    let components: Vec<_> = components(host).filter(wanted).copied().collect();
    let mask = |supervisor| {
        let kind = components.iter().filter(|leaf| leaf.ecx & SUPERVISOR == supervisor);
        kind.filter_map(|leaf| 1u64.checked_shl(leaf.index)).fold(0, |mask, bit| mask | bit)
    };
    let (user, supervisor) = (mask(0) | u64::from(LEGACY), mask(SUPERVISOR));
    let end = |leaf: &kvm_cpuid_entry2| leaf.ebx.saturating_add(leaf.eax);
    let ends = components.iter().filter(|leaf| leaf.ecx & SUPERVISOR == 0).map(end);
    let bytes = ends.max().unwrap_or(0).max(LEGACY_BYTES);
    let instructions = host.iter().find(|leaf| (leaf.function, leaf.index) == (LEAF, 1)).map_or(0, |leaf| leaf.eax);
    let compacted = if instructions & COMPACTS != 0 { compacted(&components) } else { 0 };
    leaves.push(entry(0, [user as u32, bytes, bytes, (user >> 32) as u32]));
    leaves.push(entry(1, [instructions, compacted, supervisor as u32, (supervisor >> 32) as u32]));
    leaves.extend(components);
}

/// How many bytes all components take without gaps.
fn compacted(components: &[kvm_cpuid_entry2]) -> u32 {
    components.iter().fold(LEGACY_BYTES, |end, leaf| {
        let start = if leaf.ecx & ALIGNED != 0 { end.next_multiple_of(64) } else { end };
        start.saturating_add(leaf.eax)
    })
}

fn entry(index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    let flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    kvm_cpuid_entry2 { function: LEAF, index, flags, eax, ebx, ecx, edx, ..Default::default() }
}

fn components(cpuid: &[kvm_cpuid_entry2]) -> impl Iterator<Item = &kvm_cpuid_entry2> {
    cpuid.iter().filter(|leaf| leaf.function == LEAF && (2..63).contains(&leaf.index) && leaf.eax != 0)
}

/// The layout as words: `NUMBER:BYTES@OFFSET` for each component that XCR0 may switch on.
pub fn xsave_layout(cpuid: &[kvm_cpuid_entry2]) -> Vec<String> {
    let user = components(cpuid).filter(|leaf| leaf.ecx & SUPERVISOR == 0);
    user.map(|leaf| format!("{}:{}@{}", leaf.index, leaf.eax, leaf.ebx)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server of Intel's with everything but AMX.
    fn host() -> Vec<kvm_cpuid_entry2> {
        vec![
            entry(0, [0x2e7, 0xa88, 0xa88, 0]),
            entry(1, [0xf, 0xa88, 0x1800, 0]),
            entry(2, [256, 576, 0, 0]),
            entry(5, [64, 1088, 0, 0]),
            entry(6, [512, 1152, 0, 0]),
            entry(7, [1024, 1664, 0, 0]),
            entry(9, [8, 2696, 0, 0]),
            entry(11, [16, 0, SUPERVISOR, 0]),
            entry(19, [128, 2704, ALIGNED, 0]),
        ]
    }

    fn fitted(features: &[&str], keep_unknown: bool) -> Vec<kvm_cpuid_entry2> {
        let mut leaves = host();
        fit(&mut leaves, &host(), &FeatureSet::named(features), keep_unknown);
        leaves
    }

    fn registers(leaves: &[kvm_cpuid_entry2], index: u32) -> Option<[u32; 4]> {
        leaves.iter().find(|leaf| leaf.index == index).map(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx])
    }

    #[test]
    fn sizes_are_those_of_the_components_that_are_shown() {
        for (features, mask, bytes) in [
            (&["xsave"][..], 0b11, 576),
            (&["xsave", "avx"], 0b111, 832),
            (&["xsave", "avx", "avx512f"], 0xe7, 2688),
            (&["xsave", "avx", "pku"], 0x207, 2704),
        ] {
            assert_eq!(registers(&fitted(features, false), 0), Some([mask, bytes, bytes, 0]), "{features:?}");
        }
        assert!(fitted(&["avx"], false).is_empty());
    }

    #[test]
    fn components_come_and_go_with_their_feature() {
        let leaves = fitted(&["xsave", "avx"], false);
        assert!(registers(&leaves, 2).is_some() && registers(&leaves, 5).is_none() && registers(&leaves, 19).is_none());
        assert_eq!(registers(&fitted(&["xsave"], true), 0), Some([1 << 19 | 3, 2832, 2832, 0]));
    }

    #[test]
    fn the_compacted_size_counts_supervisor_state_and_alignment() {
        let leaves = fitted(&["xsave", "avx", "xsaves", "shstk"], true);
        // 576 + 256 of avx + 16 of shadow stacks, then 128 at the next multiple of 64.
        assert_eq!(registers(&leaves, 1), Some([0xf, 896 + 128, 1 << 11, 0]));
        assert_eq!(registers(&fitted(&["xsave", "shstk"], false), 1), Some([0xf, 576, 0, 0]));
    }

    #[test]
    fn the_layout_in_words() {
        assert_eq!(
            xsave_layout(&fitted(&["xsave", "avx", "shstk", "xsaves", "pku"], false)),
            ["2:256@576", "9:8@2696"]
        );
    }
}
