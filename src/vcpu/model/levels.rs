//! The baselines: the micro-architecture levels of the x86-64 psABI (section "Machine Type"), with
//! what a 64-bit system under KVM needs beside them.

use std::fmt;

use crate::vcpu::features::FeatureSet;

/// A micro-architecture level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every 64-bit processor.
    V1,
    /// Nehalem, Jaguar and later (about 2009).
    V2,
    /// Haswell, Excavator and later (about 2013).
    V3,
    /// Skylake-SP, Zen 4.
    V4,
}

/// What every baseline has beside its level, because a 64-bit kernel under KVM counts on it. All of
/// it has been on every 64-bit processor or in KVM since Linux 5.8, so it excludes no host.
/// Features that come and go between generations are left out, however useful: those against
/// speculation, too, which differ from host to host.
const PLATFORM: &[&str] = &[
    "de",
    "pse",
    "tsc",
    "msr",
    "pae",
    "mce",
    "apic",
    "sep",
    "mtrr",
    "pge",
    "mca",
    "pat",
    "pse36",
    "clflush",
    "nx",
    "lm",
    // KVM emulates these three whatever the processor is.
    "x2apic",
    "tsc_deadline_timer",
    "hypervisor",
    // The LAPIC timer is KVM's and never stops.
    "arat",
    "kvmclock",
    "kvm_nopiodelay",
    "kvmclock2",
    "kvm_asyncpf",
    "kvm_pv_eoi",
    "kvm_pv_unhalt",
    "kvm_pv_ipi",
    "kvm_asyncpf_int",
    "kvmclock_stable",
];

/// The psABI's table: what each level adds to the one before. `OSFXSR` and `OSXSAVE` there are the
/// operating system's part of `fxsr` and `xsave`; `sce` is `syscall`, `lzcnt` is `abm`.
const LEVELS: [(Level, &[&str]); 4] = [
    (Level::V1, &["cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse", "sse2"]),
    (Level::V2, &["cx16", "lahf_lm", "popcnt", "sse3", "sse4_1", "sse4_2", "ssse3"]),
    (Level::V3, &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"]),
    (Level::V4, &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
];

impl Level {
    /// All, the least first.
    pub const ALL: [Self; 4] = [Self::V1, Self::V2, Self::V3, Self::V4];

    /// Its features and what every baseline has.
    pub fn features(self) -> FeatureSet {
        LEVELS
            .iter()
            .filter(|(level, _)| *level <= self)
            .fold(FeatureSet::named(PLATFORM), |set, (_, names)| set.with(&FeatureSet::named(names)))
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::V3 => "v3",
            Self::V4 => "v4",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::features::Feature;

    #[test]
    fn every_name_exists() {
        for name in LEVELS.iter().flat_map(|(_, names)| *names).chain(PLATFORM) {
            assert!(Feature::named(name).is_some(), "{name}");
        }
    }

    #[test]
    fn each_level_contains_the_one_before_and_stops_where_it_should() {
        for pair in Level::ALL.windows(2) {
            let (less, more) = (pair[0].features(), pair[1].features());
            assert!(less.without(&more).is_empty() && !more.without(&less).is_empty());
        }
        assert!(!Level::V1.features().shows("sse3") && Level::V2.features().shows("sse4.2"));
        assert!(!Level::V2.features().shows("xsave") && Level::V3.features().shows("lzcnt"));
        assert!(!Level::V3.features().shows("avx512f") && Level::V4.features().shows("avx512vl"));
    }
}
