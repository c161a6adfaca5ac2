//! Models on hosts that exist only here.

use kvm_bindings::kvm_cpuid_entry2;

use super::*;
use crate::vcpu::cpuid_bits::WORDS;
use crate::vcpu::features::{Feature, FeatureSet};

fn leaf(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
}

const INTEL: [u32; 4] = [0x20, 0x756e_6547, 0x6c65_746e, 0x4965_6e69];
const AMD: [u32; 4] = [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65];

/// A host of that vendor with so many address bits, with a level's features and `more`, of two
/// vCPUs.
fn host(vendor: [u32; 4], bits: u32, level: Level, more: &[&str]) -> HostCaps {
    let mut leaves = vec![
        leaf(0, 0, vendor),
        leaf(1, 0, [0x806f8, 0x0800, 0, 0]),
        leaf(2, 0, [1, 2, 3, 4]),
        leaf(4, 0, [0x121, 0x02c0_003f, 0x3f, 0]),
        leaf(0xb, 0, [0; 4]),
        leaf(0xd, 2, [256, 576, 0, 0]),
        leaf(0xd, 5, [64, 1088, 0, 0]),
        leaf(0xd, 6, [512, 1152, 0, 0]),
        leaf(0xd, 7, [1024, 1664, 0, 0]),
        leaf(0xd, 9, [8, 2696, 0, 0]),
        leaf(0x14, 0, [1, 2, 3, 4]),
        leaf(0x15, 0, [2, 100, 0, 0]),
        leaf(0x4000_0000, 0, [0x4000_0001, 1, 2, 3]),
        leaf(0x8000_0000, 0, [0x8000_0021, 0, 0, 0]),
        leaf(0x8000_0002, 0, [0x4141_4141; 4]),
        leaf(0x8000_0008, 0, [bits | 48 << 8, 0, 0, 0]),
    ];
    let known = |leaves: &[kvm_cpuid_entry2], function, index| {
        leaves.iter().any(|leaf| (leaf.function, leaf.index) == (function, index))
    };
    for word in &WORDS {
        if !known(&leaves, word.function, word.index) {
            leaves.push(leaf(word.function, word.index, [0; 4]));
        }
    }
    let features = level.features().with(&FeatureSet::named(more));
    features.show_in(&mut leaves);
    let one = leaves[1].edx;
    for leaf in &mut leaves {
        match (leaf.function, leaf.index) {
            (0xd, 0) => leaf.eax = 0x2e7,
            (0x8000_0001, _) if vendor == AMD => leaf.edx |= one & 0x0183_f3ff,
            _ => {}
        }
    }
    HostCaps::new(leaves, 2, true)
}

fn model(base: CpuBase, added: &[&str], removed: &[&str]) -> CpuModel {
    CpuModel::new(base, FeatureSet::named(added), FeatureSet::named(removed)).unwrap()
}

fn shown(model: CpuModel, offer: &HostCaps) -> Vec<kvm_cpuid_entry2> {
    GuestCpu::fit(model, offer).unwrap().leaves(1)
}

fn find(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> Option<[u32; 4]> {
    let leaf = leaves.iter().find(|leaf| (leaf.function, leaf.index) == (function, index))?;
    Some([leaf.eax, leaf.ebx, leaf.ecx, leaf.edx])
}

const V2: CpuBase = CpuBase::Baseline(Level::V2);
const V3: CpuBase = CpuBase::Baseline(Level::V3);

#[test]
fn host_and_max_are_all_that_the_host_offers() {
    let offer = host(INTEL, 46, Level::V4, &["vmx", "aes"]);
    for base in [CpuBase::Host, CpuBase::Max] {
        assert_eq!(shown(model(base, &[], &[]), &offer), offer.leaves(1));
    }
    assert!(!offer.features().shows("vmx") && offer.features().shows("aes"));
    // Adding what is there changes nothing, nor does taking away what is not.
    assert_eq!(shown(model(CpuBase::Host, &["aes"], &["sha_ni"]), &offer), offer.leaves(1));
}

#[test]
fn a_baseline_does_not_tell_one_host_from_another() {
    for vendor in [INTEL, AMD] {
        let new = host(vendor, 52, Level::V4, &["aes", "pku", "la57", "intel_pt", "spec_ctrl", "rdtscp", "auto_ibrs"]);
        let old = host(vendor, 46, Level::V3, &["pcid", "constant_tsc"]);
        for level in [Level::V1, Level::V2, Level::V3] {
            let one = shown(model(CpuBase::Baseline(level), &[], &[]), &new);
            assert_eq!(one, shown(model(CpuBase::Baseline(level), &[], &[]), &old), "{level}");
            let features = FeatureSet::of(&one);
            let expected = level.features();
            assert!(expected.without(&features).is_empty());
            let repeated = |feature: &Feature| feature.name().starts_with("cpuid.80000001.edx bit");
            let of_xsave =
                |feature: &Feature| feature.name().ends_with(" state") || feature.name().starts_with("cpuid.d.0");
            let rest: Vec<_> = features.without(&expected).iter().filter(|it| !repeated(it) && !of_xsave(it)).collect();
            assert_eq!(rest.into_iter().map(Feature::name).collect::<Vec<_>>(), ["ht"]);
        }
    }
}

#[test]
fn a_baseline_says_what_it_is_and_no_more() {
    let leaves = shown(model(V3, &[], &[]), &host(INTEL, 46, Level::V4, &[]));
    assert_eq!(find(&leaves, 0, 0), Some([0xd, INTEL[1], INTEL[2], INTEL[3]]));
    let one = find(&leaves, 1, 0).unwrap();
    assert_eq!((one[0], one[1]), (0xf61, 1 << 24 | 2 << 16 | 0x800));
    let brand: Vec<u8> = (0x8000_0002..=0x8000_0004)
        .flat_map(|function| find(&leaves, function, 0).unwrap())
        .flat_map(u32::to_le_bytes)
        .collect();
    assert_eq!(String::from_utf8(brand).unwrap().trim_end_matches('\0'), "Whimbrel baseline x86-64-v3");
    assert_eq!(find(&leaves, 0x8000_0000, 0), Some([0x8000_0008, 0, 0, 0]));
    assert_eq!(find(&leaves, 0x8000_0008, 0), Some([40 | 48 << 8, 0, 1 | 1 << 12, 0]));
    assert_eq!(find(&leaves, 0xb, 1), Some([1, 2, 0x201, 1]));
    assert_eq!(find(&leaves, 0xd, 0), Some([7, 832, 832, 0]));
    for absent in [(0xd, 5), (0x14, 0), (0x15, 0), (0x8000_0021, 0), (0x8000_001d, 0)] {
        assert_eq!(find(&leaves, absent.0, absent.1), None, "{absent:x?}");
    }
    // The third level of caches is shared by both vCPUs, the others are not.
    assert_eq!(find(&leaves, 4, 3).unwrap()[0] >> 14, 1 << 12 | 1);
    assert_eq!(find(&leaves, 4, 0).unwrap()[0] >> 14, 1 << 12);
    let highest = leaves.iter().filter(|leaf| leaf.function < 0x4000_0000).map(|leaf| leaf.function).max();
    assert_eq!(highest, Some(0xd));
    assert_eq!(shown(model(V2, &[], &[]), &host(INTEL, 46, Level::V4, &[]))[0].eax, 0xb);
}

#[test]
fn address_bits_are_never_more_than_the_hosts() {
    let leaves = shown(model(V2, &["la57"], &[]), &host(INTEL, 39, Level::V2, &["la57"]));
    assert_eq!(find(&leaves, 0x8000_0008, 0).unwrap()[0], 39 | 57 << 8);
}

#[test]
fn amd_repeats_leaf_one_and_describes_its_caches_in_its_own_place() {
    let leaves = shown(model(V2, &["auto_ibrs"], &["pse36"]), &host(AMD, 48, Level::V4, &["auto_ibrs"]));
    assert_eq!(find(&leaves, 4, 0), None);
    assert!(find(&leaves, 0x8000_0005, 0).is_some());
    assert_eq!(find(&leaves, 0x8000_0006, 0).unwrap()[3], 32 << 18 | 8 << 12 | 0x140);
    let (one, extended) = (find(&leaves, 1, 0).unwrap()[3], find(&leaves, 0x8000_0001, 0).unwrap());
    assert_eq!(extended[0], 0xf61);
    assert_eq!(extended[3] & 0x0183_f3ff, one & 0x0183_f3ff);
    assert_eq!(extended[3] & 1 << 17, 0);
    assert_eq!(find(&leaves, 0x8000_0000, 0), Some([0x8000_0021, AMD[1], AMD[2], AMD[3]]));
    assert_eq!(find(&leaves, 0x8000_0021, 0), Some([1 << 8, 0, 0, 0]));

    let topology = shown(model(V2, &["topoext"], &[]), &host(AMD, 48, Level::V4, &["topoext"]));
    assert_eq!(find(&topology, 0x8000_001e, 0), Some([1, 1, 0, 0]));
    assert_eq!(find(&topology, 0x8000_001d, 3).unwrap()[2], 16383);

    let masked = shown(model(CpuBase::Host, &[], &["pse36"]), &host(AMD, 48, Level::V4, &[]));
    assert_eq!(find(&masked, 0x8000_0001, 0).unwrap()[3] & 1 << 17, 0);
}

#[test]
fn what_is_taken_from_the_host_is_gone_with_all_that_hangs_on_it() {
    let offer = host(INTEL, 46, Level::V4, &["avx512_vnni", "pku", "intel_pt", "aes", "vaes"]);
    let leaves = shown(model(CpuBase::Host, &[], &["avx512f", "intel_pt"]), &offer);
    let features = FeatureSet::of(&leaves);
    assert!(!features.shows("avx512f") && !features.shows("avx512_vnni") && features.shows("vaes"));
    assert_eq!(find(&leaves, 0xd, 0), Some([0x207, 2704, 2704, 0]));
    assert_eq!((find(&leaves, 0xd, 6), find(&leaves, 0x14, 0)), (None, Some([0; 4])));
    assert_eq!(xsave_layout(&leaves), ["2:256@576", "9:8@2696"]);
    // The rest is the host's.
    assert_eq!(find(&leaves, 0x8000_0002, 0), Some([0x4141_4141; 4]));
    assert_eq!(find(&leaves, 1, 0).unwrap()[0], 0x806f8);

    let leaves = shown(model(CpuBase::Max, &[], &["xsave"]), &offer);
    let features = FeatureSet::of(&leaves);
    assert!(!features.shows("avx") && !features.shows("pku") && features.shows("aes"));
    assert_eq!(find(&leaves, 0xd, 0), None);
}

#[test]
fn additions_bring_what_they_need() {
    let offer = host(INTEL, 46, Level::V4, &["avx512_vnni"]);
    let features = FeatureSet::of(&shown(model(V2, &["avx512_vnni"], &[]), &offer));
    assert!(features.shows("avx512f") && features.shows("avx2") && !features.shows("bmi2"));
}

#[test]
fn a_host_that_lacks_something_is_told_all_of_it_and_what_would_do() {
    let offer = host(AMD, 48, Level::V2, &[]);
    let says = |model| GuestCpu::fit(model, &offer).unwrap_err().to_string();
    assert_eq!(
        says(model(V3, &["aes"], &["nx", "bmi2"])),
        "--cpu baseline-v3,+aes,-bmi2,-nx: this host's KVM cannot offer fma, movbe, aes, xsave, avx, f16c, bmi1, avx2, abm; \
         use --cpu baseline-v2,-bmi2,-nx"
    );
    assert!(says(model(CpuBase::Host, &["sha_ni"], &[])).ends_with("cannot offer sha_ni; use --cpu host"));
    // One feature of many that the host has not: without it the model fits.
    let all_but = ["avx", "bmi1", "bmi2", "abm", "movbe", "xsave"];
    assert!(GuestCpu::fit(model(V3, &[], &all_but), &offer).is_ok());
    let bare = HostCaps::new(vec![leaf(0, 0, INTEL), leaf(1, 0, [0; 4])], 1, false);
    let error = GuestCpu::fit(model(V2, &[], &[]), &bare).unwrap_err().to_string();
    assert!(error.ends_with("use --cpu host"), "{error}");
}

#[test]
fn the_documentation_lists_what_a_baseline_has() {
    let documentation = include_str!("../../../docs/cpu.md");
    let rows = documentation.lines().filter_map(|line| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let (first, second) = (cells.next()?, cells.next()?);
        ["v1", "v2", "v3", "v4", "platform", "from KVM"].contains(&first).then_some(second)
    });
    let listed: Vec<&str> = rows.flat_map(str::split_whitespace).collect();
    assert!(listed.iter().all(|name| Feature::named(name).is_some()), "{listed:?}");
    assert_eq!(FeatureSet::named(&listed), Level::V4.features());
}
