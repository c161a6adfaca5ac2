//! CPUID features by name, and which of them a host lacks.
//!
//! A guest goes on using what it was shown when it booted, so a destination must have every feature bit
//! that the source's guest was shown; it may have more.

use kvm_bindings::kvm_cpuid_entry2;

/// One CPUID register that holds feature bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureWord {
    /// Its name in a configuration, as in `cpuid.7.0.ebx`.
    pub key: &'static str,
    /// The bits.
    pub bits: u32,
}

#[derive(Clone, Copy)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}
use Register::{Eax, Ebx, Ecx, Edx};

struct Layout {
    key: &'static str,
    function: u32,
    index: u32,
    register: Register,
    /// Bits that tell the state of the running system and not what the processor can do.
    dynamic: u32,
    /// `bit name` pairs.
    names: &'static [(u32, &'static str)],
}

const fn layout(
    key: &'static str,
    function: u32,
    index: u32,
    register: Register,
    dynamic: u32,
    names: &'static [(u32, &'static str)],
) -> Layout {
    Layout { key, function, index, register, dynamic, names }
}

/// The words that are compared. Names are those of Linux's /proc/cpuinfo.
const WORDS: &[Layout] = &[
    layout("cpuid.1.ecx", 1, 0, Ecx, 1 << 27, LEAF1_ECX),
    layout("cpuid.1.edx", 1, 0, Edx, 0, LEAF1_EDX),
    layout("cpuid.6.eax", 6, 0, Eax, 0, &[(2, "arat")]),
    layout("cpuid.7.0.ebx", 7, 0, Ebx, 0, LEAF7_EBX),
    layout("cpuid.7.0.ecx", 7, 0, Ecx, 1 << 4, LEAF7_ECX),
    layout("cpuid.7.0.edx", 7, 0, Edx, 0, LEAF7_EDX),
    layout("cpuid.7.1.eax", 7, 1, Eax, 0, &[(4, "avx_vnni"), (5, "avx512_bf16")]),
    layout("cpuid.d.0.eax", 0xd, 0, Eax, 0, XSTATE),
    layout("cpuid.d.1.eax", 0xd, 1, Eax, 0, &[(0, "xsaveopt"), (1, "xsavec"), (3, "xsaves")]),
    layout("cpuid.40000001.eax", 0x4000_0001, 0, Eax, 0, KVM),
    layout("cpuid.80000001.ecx", 0x8000_0001, 0, Ecx, 0, EXTENDED1_ECX),
    layout("cpuid.80000001.edx", 0x8000_0001, 0, Edx, 0, EXTENDED1_EDX),
    layout("cpuid.80000007.edx", 0x8000_0007, 0, Edx, 0, &[(8, "constant_tsc")]),
    layout("cpuid.80000008.ebx", 0x8000_0008, 0, Ebx, 0, &[(0, "clzero"), (12, "ibpb"), (24, "amd_ssbd")]),
];

const LEAF1_ECX: &[(u32, &str)] = &[
    (0, "sse3"),
    (1, "pclmulqdq"),
    (9, "ssse3"),
    (12, "fma"),
    (13, "cx16"),
    (17, "pcid"),
    (19, "sse4_1"),
    (20, "sse4_2"),
    (21, "x2apic"),
    (22, "movbe"),
    (23, "popcnt"),
    (24, "tsc_deadline_timer"),
    (25, "aes"),
    (26, "xsave"),
    (28, "avx"),
    (29, "f16c"),
    (30, "rdrand"),
    (31, "hypervisor"),
];
const LEAF1_EDX: &[(u32, &str)] = &[
    (0, "fpu"),
    (4, "tsc"),
    (5, "msr"),
    (6, "pae"),
    (8, "cx8"),
    (9, "apic"),
    (13, "pge"),
    (15, "cmov"),
    (16, "pat"),
    (19, "clflush"),
    (23, "mmx"),
    (24, "fxsr"),
    (25, "sse"),
    (26, "sse2"),
    (28, "ht"),
];
const LEAF7_EBX: &[(u32, &str)] = &[
    (0, "fsgsbase"),
    (1, "tsc_adjust"),
    (3, "bmi1"),
    (4, "hle"),
    (5, "avx2"),
    (7, "smep"),
    (8, "bmi2"),
    (9, "erms"),
    (10, "invpcid"),
    (11, "rtm"),
    (16, "avx512f"),
    (17, "avx512dq"),
    (18, "rdseed"),
    (19, "adx"),
    (20, "smap"),
    (21, "avx512ifma"),
    (23, "clflushopt"),
    (24, "clwb"),
    (28, "avx512cd"),
    (29, "sha_ni"),
    (30, "avx512bw"),
    (31, "avx512vl"),
];
const LEAF7_ECX: &[(u32, &str)] = &[
    (1, "avx512vbmi"),
    (2, "umip"),
    (3, "pku"),
    (5, "waitpkg"),
    (6, "avx512_vbmi2"),
    (8, "gfni"),
    (9, "vaes"),
    (10, "vpclmulqdq"),
    (11, "avx512_vnni"),
    (12, "avx512_bitalg"),
    (14, "avx512_vpopcntdq"),
    (16, "la57"),
    (22, "rdpid"),
    (27, "movdiri"),
    (28, "movdir64b"),
];
const LEAF7_EDX: &[(u32, &str)] = &[
    (4, "fsrm"),
    (10, "md_clear"),
    (14, "serialize"),
    (20, "ibt"),
    (22, "amx_bf16"),
    (23, "avx512_fp16"),
    (24, "amx_tile"),
    (25, "amx_int8"),
    (26, "spec_ctrl"),
    (27, "stibp"),
    (28, "flush_l1d"),
    (29, "arch_capabilities"),
    (31, "ssbd"),
];
const XSTATE: &[(u32, &str)] = &[
    (2, "avx state"),
    (5, "avx512 mask state"),
    (6, "avx512 state"),
    (7, "avx512 upper state"),
    (9, "pku state"),
    (17, "amx configuration state"),
    (18, "amx tile state"),
];
const KVM: &[(u32, &str)] = &[
    (0, "kvmclock"),
    (3, "kvmclock2"),
    (4, "kvm_asyncpf"),
    (5, "kvm_steal_time"),
    (6, "kvm_pv_eoi"),
    (7, "kvm_pv_unhalt"),
    (9, "kvm_pv_tlb_flush"),
    (11, "kvm_pv_ipi"),
    (12, "kvm_poll_control"),
    (13, "kvm_pv_sched_yield"),
    (14, "kvm_asyncpf_int"),
    (24, "kvmclock_stable"),
];
const EXTENDED1_ECX: &[(u32, &str)] = &[
    (0, "lahf_lm"),
    (4, "cr8_legacy"),
    (5, "abm"),
    (6, "sse4a"),
    (7, "misalignsse"),
    (8, "3dnowprefetch"),
    (11, "xop"),
    (16, "fma4"),
    (22, "topoext"),
];
const EXTENDED1_EDX: &[(u32, &str)] = &[(11, "syscall"), (20, "nx"), (26, "pdpe1gb"), (27, "rdtscp"), (29, "lm")];

/// The feature words of what a vCPU is shown; those that are zero are left out.
pub fn feature_words(cpuid: &[kvm_cpuid_entry2]) -> Vec<FeatureWord> {
    let word = |layout: &Layout| {
        let leaf = cpuid.iter().find(|leaf| leaf.function == layout.function && leaf.index == layout.index)?;
        let bits = match layout.register {
            Eax => leaf.eax,
            Ebx => leaf.ebx,
            Ecx => leaf.ecx,
            Edx => leaf.edx,
        } & !layout.dynamic;
        (bits != 0).then_some(FeatureWord { key: layout.key, bits })
    };
    WORDS.iter().filter_map(word).collect()
}

/// The names of the bits in `wanted` that word `key` does not have in `here`; bits without a name are
/// named by their place.
pub fn missing_features(key: &str, wanted: u32, here: &[FeatureWord]) -> Vec<String> {
    let have = here.iter().find(|word| word.key == key).map_or(0, |word| word.bits);
    let names = WORDS.iter().find(|layout| layout.key == key).map_or(&[][..], |layout| layout.names);
    let missing = wanted & !have;
    (0..32)
        .filter(|bit| missing & (1 << bit) != 0)
        .map(|bit| {
            names
                .iter()
                .find(|(number, _)| *number == bit)
                .map_or_else(|| format!("{key} bit {bit}"), |(_, name)| (*name).into())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_and_dynamic_bits_are_not_features() {
        let leaf = kvm_cpuid_entry2 { function: 7, ebx: 1 << 16, ecx: 1 << 4, ..Default::default() };
        assert_eq!(feature_words(&[leaf]), [FeatureWord { key: "cpuid.7.0.ebx", bits: 1 << 16 }]);
    }

    #[test]
    fn a_missing_feature_has_its_name() {
        let here = [FeatureWord { key: "cpuid.7.0.ebx", bits: 1 << 5 }];
        assert_eq!(
            missing_features("cpuid.7.0.ebx", 1 << 5 | 1 << 16 | 1 << 2, &here),
            ["cpuid.7.0.ebx bit 2", "avx512f"]
        );
        assert!(missing_features("cpuid.7.0.ebx", 1 << 5, &here).is_empty());
        assert_eq!(missing_features("cpuid.99.eax", 1, &here), ["cpuid.99.eax bit 0"]);
    }
}
