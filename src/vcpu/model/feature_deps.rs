//! Which feature needs which: a guest that is shown one without the other would believe in a
//! processor that there is not, and programs that look only at the one would crash.

use crate::vcpu::features::{Feature, FeatureSet};

/// `features, what each of them needs`. Transitive: what a needed feature needs is not repeated.
const NEEDS: &[(&[&str], &[&str])] = &[
    (&["fxsr_opt"], &["fxsr"]),
    (&["sse"], &["fxsr"]),
    (&["sse2"], &["sse"]),
    (&["sse3", "aes", "pclmulqdq", "sha_ni", "gfni", "sse4a"], &["sse2"]),
    (&["ssse3"], &["sse3"]),
    (&["sse4_1"], &["ssse3"]),
    (&["sse4_2"], &["sse4_1"]),
    (&["mmxext", "3dnow"], &["mmx"]),
    (&["3dnowext"], &["3dnow"]),
    (&["xsaveopt", "xsavec", "xgetbv1", "xfd", "pku", "mpx", "xsaveerptr"], &["xsave"]),
    (&["xsaves"], &["xsavec"]),
    (&["amx_tile"], &["xfd"]),
    (&["amx_bf16", "amx_int8", "amx_fp16", "amx_complex"], &["amx_tile"]),
    (&["avx"], &["xsave", "sse4_2"]),
    (&["avx2", "fma", "f16c", "xop", "fma4"], &["avx"]),
    (&["vaes"], &["avx", "aes"]),
    (&["vpclmulqdq"], &["avx", "pclmulqdq"]),
    (
        &[
            "avx_vnni",
            "avx_ifma",
            "avx_vnni_int8",
            "avx_vnni_int16",
            "avx_ne_convert",
            "sha512",
            "sm3",
            "sm4",
            "avx512f",
        ],
        &["avx2"],
    ),
    (
        &["avx512dq", "avx512ifma", "avx512pf", "avx512er", "avx512cd", "avx512bw", "avx512vl", "avx512_vpopcntdq"],
        &["avx512f"],
    ),
    (&["avx512_4vnniw", "avx512_4fmaps", "avx512_vp2intersect", "avx512_vnni", "avx10"], &["avx512f"]),
    (&["avx512vbmi", "avx512_vbmi2", "avx512_bitalg", "avx512_bf16", "avx512_fp16"], &["avx512bw"]),
    (&["sgx_lc"], &["sgx"]),
    (&["invpcid"], &["pcid"]),
    (&["kvmclock2"], &["kvmclock"]),
    (&["kvmclock_stable"], &["kvmclock2"]),
    (&["kvm_asyncpf_int", "kvm_asyncpf_vmexit"], &["kvm_asyncpf"]),
    (&["kvm_pv_tlb_flush", "kvm_pv_sched_yield"], &["kvm_steal_time"]),
];

/// `features` and all that they need.
pub fn with_needed(features: &FeatureSet) -> FeatureSet {
    grow(features, |set, more| {
        pairs().filter(|(dependent, _)| set.has(*dependent)).for_each(|(_, needed)| more.insert(needed));
    })
}

/// `features` and all that need one of them.
pub fn with_dependents(features: &FeatureSet) -> FeatureSet {
    grow(features, |set, more| {
        pairs().filter(|(_, needed)| set.has(*needed)).for_each(|(dependent, _)| more.insert(dependent));
    })
}

/// Grows a set until nothing more comes.
fn grow(features: &FeatureSet, add: impl Fn(&FeatureSet, &mut FeatureSet)) -> FeatureSet {
    let mut set = *features;
    loop {
        let mut more = set;
        add(&set, &mut more);
        if more == set {
            return set;
        }
        set = more;
    }
}

/// Each feature with each that it needs directly.
fn pairs() -> impl Iterator<Item = (Feature, Feature)> {
    let named = |names: &'static [&'static str]| names.iter().filter_map(|name| Feature::named(name));
    NEEDS.iter().flat_map(move |(dependents, needed)| {
        named(dependents).flat_map(move |one| named(needed).map(move |it| (one, it)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::model::Level;

    #[test]
    fn every_name_exists() {
        for name in NEEDS.iter().flat_map(|(dependents, needed)| dependents.iter().chain(*needed)) {
            assert!(Feature::named(name).is_some(), "{name}");
        }
    }

    #[test]
    fn what_is_taken_takes_along_what_needs_it() {
        let gone = |name| with_dependents(&FeatureSet::named(&[name]));
        for (name, along, stays) in [
            (
                "avx",
                &["avx2", "fma", "f16c", "avx512f", "avx512_vnni", "vaes"][..],
                &["xsave", "sse4_2", "bmi1", "aes"][..],
            ),
            ("xsave", &["xsaveopt", "avx", "avx512vl", "pku", "amx_int8"], &["sse4_2", "fxsr"]),
            ("avx512f", &["avx512dq", "avx512_fp16", "avx512_vpopcntdq", "avx512_bf16"], &["avx2", "avx_vnni", "vaes"]),
            ("sse3", &["ssse3", "sse4_2", "avx2"], &["sse2", "aes"]),
            ("kvmclock", &["kvmclock2", "kvmclock_stable"], &["kvm_pv_eoi"]),
            ("nx", &[], &["lm"]),
        ] {
            let gone = gone(name);
            assert!(along.iter().all(|it| gone.shows(it)), "{name}: {:?}", gone.names());
            assert!(!stays.iter().any(|it| gone.shows(it)), "{name}: {:?}", gone.names());
        }
    }

    #[test]
    fn all_of_avx512_goes_with_its_foundation() {
        let gone = with_dependents(&FeatureSet::named(&["avx512f"]));
        for word in &crate::vcpu::cpuid_bits::WORDS {
            for (_, name) in word.names.iter().filter(|(_, name)| word.named_by_user && name.starts_with("avx512")) {
                assert!(gone.shows(name), "{name}");
            }
        }
    }

    #[test]
    fn what_is_added_brings_what_it_needs() {
        let set = with_needed(&FeatureSet::named(&["avx512_vnni"]));
        assert!(["avx512f", "avx2", "avx", "xsave", "sse4_2", "ssse3", "fxsr"].iter().all(|it| set.shows(it)));
        assert!(!set.shows("avx512bw") && !set.shows("aes"));
    }

    #[test]
    fn the_baselines_lack_nothing_that_they_need() {
        for level in Level::ALL {
            let set = level.features();
            assert_eq!(with_needed(&set), set);
        }
    }
}
