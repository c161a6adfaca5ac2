//! Which CPUID registers hold features, and the names of their bits.
//!
//! Places are those of the Intel SDM (volume 2A, CPUID), the AMD APM (volume 3, appendix E) and,
//! for KVM's own leaf, the kernel's Documentation/virt/kvm/x86/cpuid.rst. Names are those of
//! Linux's /proc/cpuinfo, save `sse3` (there: `pni`); bits that it does not show have QEMU's names.

use kvm_bindings::kvm_cpuid_entry2;

/// A register of a CPUID leaf.
#[derive(Clone, Copy)]
pub(super) enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}
use Register::{Eax, Ebx, Ecx, Edx};

impl Register {
    pub(super) fn of(self, leaf: &kvm_cpuid_entry2) -> u32 {
        match self {
            Eax => leaf.eax,
            Ebx => leaf.ebx,
            Ecx => leaf.ecx,
            Edx => leaf.edx,
        }
    }

    pub(super) fn of_mut(self, leaf: &mut kvm_cpuid_entry2) -> &mut u32 {
        match self {
            Eax => &mut leaf.eax,
            Ebx => &mut leaf.ebx,
            Ecx => &mut leaf.ecx,
            Edx => &mut leaf.edx,
        }
    }
}

/// One register that holds features.
pub(super) struct Word {
    /// Its name in a configuration.
    pub key: &'static str,
    pub function: u32,
    pub index: u32,
    pub register: Register,
    /// Bits that tell the state of the running system and not what the processor can do.
    pub dynamic: u32,
    /// `bit name` pairs.
    pub names: &'static [(u8, &'static str)],
    /// Whether `--cpu` may name the bits. Those of XSAVE's components follow from other features.
    pub named_by_user: bool,
}

const fn word(
    key: &'static str,
    function: u32,
    index: u32,
    register: Register,
    names: &'static [(u8, &'static str)],
) -> Word {
    Word { key, function, index, register, dynamic: 0, names, named_by_user: true }
}

/// How many there are.
pub(super) const COUNT: usize = 17;

/// All of them.
pub(super) const WORDS: [Word; COUNT] = [
    Word { dynamic: 1 << 27, ..word("cpuid.1.ecx", 1, 0, Ecx, LEAF1_ECX) },
    word("cpuid.1.edx", 1, 0, Edx, LEAF1_EDX),
    word("cpuid.6.eax", 6, 0, Eax, &[(2, "arat")]),
    word("cpuid.7.0.ebx", 7, 0, Ebx, LEAF7_EBX),
    Word { dynamic: 1 << 4, ..word("cpuid.7.0.ecx", 7, 0, Ecx, LEAF7_ECX) },
    word("cpuid.7.0.edx", 7, 0, Edx, LEAF7_EDX),
    word("cpuid.7.1.eax", 7, 1, Eax, LEAF7_1_EAX),
    word("cpuid.7.1.edx", 7, 1, Edx, LEAF7_1_EDX),
    word("cpuid.7.2.edx", 7, 2, Edx, LEAF7_2_EDX),
    Word { named_by_user: false, ..word("cpuid.d.0.eax", 0xd, 0, Eax, XSTATE) },
    word("cpuid.d.1.eax", 0xd, 1, Eax, &[(0, "xsaveopt"), (1, "xsavec"), (2, "xgetbv1"), (3, "xsaves"), (4, "xfd")]),
    word("cpuid.40000001.eax", 0x4000_0001, 0, Eax, KVM),
    word("cpuid.80000001.ecx", 0x8000_0001, 0, Ecx, EXTENDED1_ECX),
    word("cpuid.80000001.edx", 0x8000_0001, 0, Edx, EXTENDED1_EDX),
    word("cpuid.80000007.edx", 0x8000_0007, 0, Edx, &[(8, "constant_tsc")]),
    word("cpuid.80000008.ebx", 0x8000_0008, 0, Ebx, EXTENDED8_EBX),
    word("cpuid.80000021.eax", 0x8000_0021, 0, Eax, EXTENDED21_EAX),
];

const LEAF1_ECX: &[(u8, &str)] = &[
    (0, "sse3"),
    (1, "pclmulqdq"),
    (3, "monitor"),
    (5, "vmx"),
    (9, "ssse3"),
    (12, "fma"),
    (13, "cx16"),
    (15, "pdcm"),
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
const LEAF1_EDX: &[(u8, &str)] = &[
    (0, "fpu"),
    (1, "vme"),
    (2, "de"),
    (3, "pse"),
    (4, "tsc"),
    (5, "msr"),
    (6, "pae"),
    (7, "mce"),
    (8, "cx8"),
    (9, "apic"),
    (11, "sep"),
    (12, "mtrr"),
    (13, "pge"),
    (14, "mca"),
    (15, "cmov"),
    (16, "pat"),
    (17, "pse36"),
    (19, "clflush"),
    (23, "mmx"),
    (24, "fxsr"),
    (25, "sse"),
    (26, "sse2"),
    (27, "ss"),
    (28, "ht"),
];
const LEAF7_EBX: &[(u8, &str)] = &[
    (0, "fsgsbase"),
    (1, "tsc_adjust"),
    (2, "sgx"),
    (3, "bmi1"),
    (4, "hle"),
    (5, "avx2"),
    (6, "fdp_excptn_only"),
    (7, "smep"),
    (8, "bmi2"),
    (9, "erms"),
    (10, "invpcid"),
    (11, "rtm"),
    (13, "zero_fcs_fds"),
    (14, "mpx"),
    (16, "avx512f"),
    (17, "avx512dq"),
    (18, "rdseed"),
    (19, "adx"),
    (20, "smap"),
    (21, "avx512ifma"),
    (23, "clflushopt"),
    (24, "clwb"),
    (25, "intel_pt"),
    (26, "avx512pf"),
    (27, "avx512er"),
    (28, "avx512cd"),
    (29, "sha_ni"),
    (30, "avx512bw"),
    (31, "avx512vl"),
];
const LEAF7_ECX: &[(u8, &str)] = &[
    (1, "avx512vbmi"),
    (2, "umip"),
    (3, "pku"),
    (5, "waitpkg"),
    (6, "avx512_vbmi2"),
    (7, "shstk"),
    (8, "gfni"),
    (9, "vaes"),
    (10, "vpclmulqdq"),
    (11, "avx512_vnni"),
    (12, "avx512_bitalg"),
    (14, "avx512_vpopcntdq"),
    (16, "la57"),
    (22, "rdpid"),
    (24, "bus_lock_detect"),
    (25, "cldemote"),
    (27, "movdiri"),
    (28, "movdir64b"),
    (30, "sgx_lc"),
    (31, "pks"),
];
const LEAF7_EDX: &[(u8, &str)] = &[
    (2, "avx512_4vnniw"),
    (3, "avx512_4fmaps"),
    (4, "fsrm"),
    (8, "avx512_vp2intersect"),
    (10, "md_clear"),
    (14, "serialize"),
    (16, "tsxldtrk"),
    (20, "ibt"),
    (22, "amx_bf16"),
    (23, "avx512_fp16"),
    (24, "amx_tile"),
    (25, "amx_int8"),
    (26, "spec_ctrl"),
    (27, "stibp"),
    (28, "flush_l1d"),
    (29, "arch_capabilities"),
    (30, "core_capability"),
    (31, "ssbd"),
];
const LEAF7_1_EAX: &[(u8, &str)] = &[
    (0, "sha512"),
    (1, "sm3"),
    (2, "sm4"),
    (4, "avx_vnni"),
    (5, "avx512_bf16"),
    (7, "cmpccxadd"),
    (10, "fzrm"),
    (11, "fsrs"),
    (12, "fsrc"),
    (21, "amx_fp16"),
    (23, "avx_ifma"),
    (26, "lam"),
];
const LEAF7_1_EDX: &[(u8, &str)] = &[
    (4, "avx_vnni_int8"),
    (5, "avx_ne_convert"),
    (8, "amx_complex"),
    (10, "avx_vnni_int16"),
    (14, "prefetchiti"),
    (19, "avx10"),
];
const LEAF7_2_EDX: &[(u8, &str)] =
    &[(0, "intel_psfd"), (1, "ipred_ctrl"), (2, "rrsba_ctrl"), (3, "ddpd_u"), (4, "bhi_ctrl"), (5, "mcdt_no")];
const XSTATE: &[(u8, &str)] = &[
    (2, "avx state"),
    (3, "mpx bounds state"),
    (4, "mpx configuration state"),
    (5, "avx512 mask state"),
    (6, "avx512 state"),
    (7, "avx512 upper state"),
    (9, "pku state"),
    (17, "amx configuration state"),
    (18, "amx tile state"),
];
const KVM: &[(u8, &str)] = &[
    (0, "kvmclock"),
    (1, "kvm_nopiodelay"),
    (3, "kvmclock2"),
    (4, "kvm_asyncpf"),
    (5, "kvm_steal_time"),
    (6, "kvm_pv_eoi"),
    (7, "kvm_pv_unhalt"),
    (9, "kvm_pv_tlb_flush"),
    (10, "kvm_asyncpf_vmexit"),
    (11, "kvm_pv_ipi"),
    (12, "kvm_poll_control"),
    (13, "kvm_pv_sched_yield"),
    (14, "kvm_asyncpf_int"),
    (15, "kvm_msi_ext_dest_id"),
    (24, "kvmclock_stable"),
];
const EXTENDED1_ECX: &[(u8, &str)] = &[
    (0, "lahf_lm"),
    (2, "svm"),
    (4, "cr8_legacy"),
    (5, "abm"),
    (6, "sse4a"),
    (7, "misalignsse"),
    (8, "3dnowprefetch"),
    (9, "osvw"),
    (11, "xop"),
    (16, "fma4"),
    (21, "tbm"),
    (22, "topoext"),
    (23, "perfctr_core"),
];
const EXTENDED1_EDX: &[(u8, &str)] = &[
    (11, "syscall"),
    (20, "nx"),
    (22, "mmxext"),
    (25, "fxsr_opt"),
    (26, "pdpe1gb"),
    (27, "rdtscp"),
    (29, "lm"),
    (30, "3dnowext"),
    (31, "3dnow"),
];
const EXTENDED8_EBX: &[(u8, &str)] = &[
    (0, "clzero"),
    (2, "xsaveerptr"),
    (9, "wbnoinvd"),
    (12, "ibpb"),
    (14, "ibrs"),
    (15, "amd_stibp"),
    (17, "stibp_always_on"),
    (24, "amd_ssbd"),
    (25, "virt_ssbd"),
    (26, "amd_no_ssb"),
    (28, "amd_psfd"),
    (29, "btc_no"),
];
const EXTENDED21_EAX: &[(u8, &str)] =
    &[(0, "no_nested_data_bp"), (2, "lfence_always_serializing"), (6, "null_sel_clr_base"), (8, "auto_ibrs")];

/// Other names that users bring along: of /proc/cpuinfo, QEMU, compilers and the vendors' manuals.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("pni", "sse3"),
    ("pclmuldq", "pclmulqdq"),
    ("cmpxchg16b", "cx16"),
    ("cmpxchg8b", "cx8"),
    ("tsc_deadline", "tsc_deadline_timer"),
    ("htt", "ht"),
    ("clfsh", "clflush"),
    ("clfl", "clflush"),
    ("sha", "sha_ni"),
    ("ibrs_ibpb", "spec_ctrl"),
    ("xd", "nx"),
    ("i64", "lm"),
    ("1gb_pages", "pdpe1gb"),
    ("lahf", "lahf_lm"),
    ("lzcnt", "abm"),
    ("invtsc", "constant_tsc"),
    ("nonstop_tsc", "constant_tsc"),
    ("kvmclock_stable_bit", "kvmclock_stable"),
    ("cet_ss", "shstk"),
    ("cet_ibt", "ibt"),
    ("core_capabilities", "core_capability"),
];
