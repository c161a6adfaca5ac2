//! [`GuestCpu`]: a model on a host.

use kvm_bindings::kvm_cpuid_entry2;

use super::feature_deps::{with_dependents, with_needed};
use super::leaves::{baseline, is_amd};
use super::{CpuBase, CpuModel, HostCaps, Level, xsave};
use crate::vcpu::cpuid::guest_cpuid;
use crate::vcpu::features::FeatureSet;

/// In 0x80000001's EDX: the bits in which AMD repeats leaf 1's (AMD APM volume 3, appendix E.4.2).
const AMD_REPEATS: u32 = 0x3ff | 0x3f << 12 | 1 << 23 | 1 << 24;

/// Leaves that describe a feature and nothing else: without it they are empty.
const DETAILS: &[(&str, &[u32])] = &[
    ("sgx", &[0x12]),
    ("intel_pt", &[0x14]),
    ("amx_tile", &[0x1d, 0x1e]),
    ("avx10", &[0x24]),
    ("topoext", &[0x8000_001d, 0x8000_001e]),
];

/// A host that cannot show what a model asks for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("--cpu {model}: this host's KVM cannot offer {}; use --cpu {instead}", missing.join(", "))]
pub struct UnfitHost {
    model: Box<CpuModel>,
    missing: Vec<String>,
    instead: Box<CpuModel>,
}

/// What a guest with a model is shown on a host.
#[derive(Clone, Debug)]
pub struct GuestCpu<'a> {
    model: CpuModel,
    offer: &'a HostCaps,
    features: FeatureSet,
}

impl<'a> GuestCpu<'a> {
    /// Finds out what `model` is on this host.
    ///
    /// # Errors
    /// The host lacks features that the model has or that were added to it.
    pub fn fit(model: CpuModel, offer: &'a HostCaps) -> Result<Self, UnfitHost> {
        let features = wanted(&model, &offer.features());
        let missing = features.without(&offer.features());
        if missing.is_empty() {
            return Ok(Self { model, offer, features });
        }
        Err(UnfitHost { model: model.into(), missing: missing.names(), instead: best(&model, offer).into() })
    }

    /// What CPUID shows on vCPU `index`.
    pub fn leaves(&self, index: u8) -> Vec<kvm_cpuid_entry2> {
        let host = &self.offer.supported;
        let leaves = match self.model.base() {
            CpuBase::Host | CpuBase::Max if self.features == self.offer.features() => return self.offer.leaves(index),
            CpuBase::Host | CpuBase::Max => host.clone(),
            CpuBase::Baseline(level) => baseline(level, host, &self.features),
        };
        let mut leaves = guest_cpuid(&leaves, index, self.offer.vcpus, self.offer.tsc_deadline);
        let of_host = !matches!(self.model.base(), CpuBase::Baseline(_));
        // Some hosts have the leaf and not the feature; a guest of theirs keeps it as it is.
        if !of_host || self.offer.features().shows("xsave") {
            xsave::fit(&mut leaves, host, &self.features, of_host);
        }
        self.features.show_in(&mut leaves);
        for (feature, functions) in DETAILS {
            if !self.features.shows(feature) {
                leaves.iter_mut().filter(|leaf| functions.contains(&leaf.function)).for_each(clear);
            }
        }
        if is_amd(host) {
            repeat_leaf_one(&mut leaves);
        }
        leaves
    }
}

/// The features that a model has where the host offers `offered`.
fn wanted(model: &CpuModel, offered: &FeatureSet) -> FeatureSet {
    let base = match model.base() {
        CpuBase::Host | CpuBase::Max => *offered,
        CpuBase::Baseline(level) => {
            // How many vCPUs there are is not the level's to say.
            let threads = FeatureSet::named(&["ht"]);
            level.features().with(&offered.without(&offered.without(&threads)))
        }
    };
    base.with(&with_needed(model.added())).without(&with_dependents(model.removed()))
}

/// What comes nearest to `model` on this host: the highest baseline that it can show, with what was
/// taken away; else all that it has.
fn best(model: &CpuModel, offer: &HostCaps) -> CpuModel {
    let offered = offer.features();
    let without_additions = |base| CpuModel::new(base, FeatureSet::default(), *model.removed()).unwrap_or_default();
    let CpuBase::Baseline(level) = model.base() else {
        return without_additions(model.base());
    };
    let possible = |base: &CpuBase| {
        let candidate = without_additions(*base);
        wanted(&candidate, &offered).without(&offered).is_empty()
    };
    let lower = Level::ALL.into_iter().rev().filter(|it| *it <= level).map(CpuBase::Baseline);
    without_additions(lower.into_iter().find(possible).unwrap_or(CpuBase::Host))
}

fn clear(leaf: &mut kvm_cpuid_entry2) {
    (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0);
}

/// Has AMD's repetition of leaf 1's features say the same as leaf 1.
fn repeat_leaf_one(leaves: &mut [kvm_cpuid_entry2]) {
    let one = leaves.iter().find(|leaf| leaf.function == 1).map_or(0, |leaf| leaf.edx);
    for leaf in leaves.iter_mut().filter(|leaf| leaf.function == 0x8000_0001) {
        leaf.edx = leaf.edx & !AMD_REPEATS | one & AMD_REPEATS;
    }
}
