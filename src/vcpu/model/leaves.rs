//! The leaves of a baseline: apart from the vendor, and what only the host can know, the same on
//! every host.
//!
//! The signature is family 15, model 6, stepping 1. Systems look at it for errata and work-arounds;
//! family 15 exists at both vendors (a Pentium 4, an Athlon 64), has none that matters under KVM,
//! and is what hypervisors' neutral processors have long said.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::Level;
use super::host_caps::{physical_bits, vendor};
use crate::vcpu::features::FeatureSet;

const SIGNATURE: u32 = 0xf61;
/// Guest-physical address bits: what each server processor has at least.
const PHYSICAL_BITS: u32 = 40;
/// Bytes in a cache line.
const LINE: u32 = 64;

/// Leaf 4 and AMD's 0x8000001d: type, level, ways, sets.
const CACHES: [[u32; 4]; 4] = [[1, 1, 8, 64], [2, 1, 8, 64], [3, 2, 16, 1024], [3, 3, 16, 16384]];

/// Whether a vendor's processors are laid out as AMD's.
pub fn is_amd(cpuid: &[kvm_cpuid_entry2]) -> bool {
    matches!(vendor(cpuid).as_str(), "AuthenticAMD" | "HygonGenuine")
}

/// The leaves of `level` with no feature shown yet, in the shape of KVM_GET_SUPPORTED_CPUID's
/// answer. `features` are those that will be.
pub fn baseline(level: Level, host: &[kvm_cpuid_entry2], features: &FeatureSet) -> Vec<kvm_cpuid_entry2> {
    let amd = is_amd(host);
    let [_, vendor_b, vendor_c, vendor_d] =
        host.iter().find(|leaf| leaf.function == 0).map_or([0; 4], |leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]);
    let basic = if features.shows("xsave") { 0xd } else { 0xb };
    let mut leaves = vec![
        leaf(0, [basic, vendor_b, vendor_c, vendor_d]),
        leaf(1, [SIGNATURE, (LINE / 8) << 8, 0, 0]),
        leaf(6, [0; 4]),
    ];
    leaves.extend((0..=2).map(|index| indexed(7, index, [if index == 0 { 2 } else { 0 }, 0, 0, 0])));
    if !amd {
        // "Leaf 4 describes the caches."
        leaves.push(leaf(2, [0x00ff_0001, 0, 0, 0]));
        leaves.extend(caches(4));
    }
    // "KVMKVMKVM", and that 0x40000001 is the last of them.
    leaves.push(leaf(0x4000_0000, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]));
    leaves.push(leaf(0x4000_0001, [0; 4]));
    let vendor_again = if amd { [vendor_b, vendor_c, vendor_d] } else { [0; 3] };
    leaves.extend(extended(level, amd, vendor_again, host, features));
    leaves
}

/// The leaves from 0x80000000 on.
fn extended(
    level: Level,
    amd: bool,
    [vendor_b, vendor_c, vendor_d]: [u32; 3],
    host: &[kvm_cpuid_entry2],
    features: &FeatureSet,
) -> Vec<kvm_cpuid_entry2> {
    let topology = features.shows("topoext");
    let mut leaves = vec![
        leaf(0x8000_0001, [if amd { SIGNATURE } else { 0 }, 0, 0, 0]),
        // The second level: 1 MiB, 16 ways. The third, which only AMD tells here: 16 MiB, 16 ways.
        leaf(
            0x8000_0006,
            [0, 0, 1024 << 16 | 8 << 12 | 1 << 8 | LINE, if amd { 32 << 18 | 8 << 12 | 1 << 8 | LINE } else { 0 }],
        ),
        leaf(0x8000_0007, [0; 4]),
        leaf(0x8000_0008, [addresses(host, features), 0, 0, 0]),
        leaf(0x8000_0021, [0; 4]),
    ];
    if amd {
        // The first level, data and instructions: 32 KiB, 8 ways.
        let first = 32 << 24 | 8 << 16 | 1 << 8 | LINE;
        leaves.push(leaf(0x8000_0005, [0, 0, first, first]));
    }
    if topology {
        leaves.extend(caches(0x8000_001d));
        leaves.push(leaf(0x8000_001e, [0; 4]));
    }
    leaves.extend((0x8000_0002..).zip(brand(level)).map(|(function, registers)| leaf(function, registers)));
    // Without a feature in its leaf there is no reason to go beyond the common ones.
    let beyond = FeatureSet::of(&[leaf(0x8000_0021, [!0, 0, 0, 0])]);
    let last = match features.without(&beyond) == *features {
        false => 0x8000_0021,
        true if topology => 0x8000_001e,
        true => 0x8000_0008,
    };
    leaves.retain(|leaf| leaf.function <= last);
    leaves.insert(0, leaf(0x8000_0000, [last, vendor_b, vendor_c, vendor_d]));
    leaves
}

/// Leaf 0x80000008's EAX: physical and linear address bits. A host with fewer physical ones shows
/// those.
fn addresses(host: &[kvm_cpuid_entry2], features: &FeatureSet) -> u32 {
    let linear = if features.shows("la57") { 57 } else { 48 };
    PHYSICAL_BITS.min(physical_bits(host)) | linear << 8
}

/// The caches, in the format that leaf 4 and 0x8000001d share; who shares them is put in with the
/// vCPU.
fn caches(function: u32) -> Vec<kvm_cpuid_entry2> {
    const SELF_INITIALISING: u32 = 1 << 8;
    let cache = |[kind, level, ways, sets]: [u32; 4]| {
        [kind | level << 5 | SELF_INITIALISING, (ways - 1) << 22 | (LINE - 1), sets - 1, 0]
    };
    let all = CACHES.into_iter().map(cache).chain([[0; 4]]);
    (0..).zip(all).map(|(index, registers)| indexed(function, index, registers)).collect()
}

/// What /proc/cpuinfo calls the model name: 48 bytes in three leaves.
fn brand(level: Level) -> [[u32; 4]; 3] {
    let mut bytes = [0; 48];
    for (byte, letter) in bytes.iter_mut().zip(format!("Whimbrel baseline x86-64-{level}").bytes()) {
        *byte = letter;
    }
    let (words, _) = bytes.as_chunks::<4>();
    let word = |at: usize| words.get(at).map_or(0, |bytes| u32::from_le_bytes(*bytes));
    std::array::from_fn(|leaf| std::array::from_fn(|register| word(leaf * 4 + register)))
}

fn leaf(function: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() }
}

fn indexed(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { index, flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX, ..leaf(function, registers) }
}
