//! [`CpuModel`]: what `--cpu` says, whatever host it will be on.

use std::fmt;

use super::Level;
use super::feature_deps::with_needed;
use crate::vcpu::features::{Feature, FeatureSet};

/// Where a model begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuBase {
    /// Everything that the host's KVM can show.
    #[default]
    Host,
    /// The same: under KVM there is nothing beyond `host`.
    Max,
    /// A level of the x86-64 psABI, the same on every host.
    Baseline(Level),
}

/// A processor for a guest: a base, features more, features less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuModel {
    base: CpuBase,
    added: FeatureSet,
    removed: FeatureSet,
}

/// A choice that is wrong on every host.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuModelError {
    /// In and out.
    #[error("the feature '{0}' is both added and taken away; give it once")]
    Twice(String),
    /// In, but not what it needs.
    #[error("the added features need '{0}', which is taken away; leave one of the two out")]
    Needed(String),
    /// Not the user's to change.
    #[error("the feature '{name}' cannot be {}: {reason}", if *added { "added" } else { "taken away" })]
    Fixed {
        /// Which.
        name: String,
        /// Whether it was to be added.
        added: bool,
        /// Why.
        reason: &'static str,
    },
}

/// Features that are not there for a reason that is not the host's.
const NEVER_ADDED: &[(&[&str], &str)] = &[
    (&["vmx", "svm"], "nested virtualisation is not offered, for its state does not migrate"),
    (&["pdcm", "perfctr_core"], "the performance counters are not offered, for their state does not migrate"),
    (&["ht"], "it follows from --cpus"),
];
/// Features whose further leaves differ from host to host.
const NOT_ON_A_BASELINE: (&[&str], &str) = (
    &["sgx", "intel_pt", "amx_tile", "amx_bf16", "amx_int8", "amx_fp16", "amx_complex", "avx10"],
    "what it can do differs from host to host, so it does not belong to a baseline; use --cpu host",
);
/// Features that cannot go.
const NEVER_REMOVED: &[(&[&str], &str)] = &[
    (&["fpu", "tsc", "msr", "pae", "cx8", "apic", "syscall", "lm"], "no 64-bit guest runs without it"),
    (&["ht"], "it follows from --cpus"),
];

impl CpuModel {
    /// `base` with the features `added` and what they need, and without those `removed` and what
    /// needs them. Where a host cannot show that, [`super::GuestCpu::fit`] says so.
    pub fn new(base: CpuBase, added: FeatureSet, removed: FeatureSet) -> Result<Self, CpuModelError> {
        let first = |set: FeatureSet| set.iter().next().map(Feature::name);
        let common = |one: &FeatureSet, other: &FeatureSet| one.without(&one.without(other));
        if let Some(name) = first(common(&added, &removed)) {
            return Err(CpuModelError::Twice(name));
        }
        if let Some(name) = first(common(&with_needed(&added), &removed)) {
            return Err(CpuModelError::Needed(name));
        }
        let unportable = matches!(base, CpuBase::Baseline(_)).then_some(&NOT_ON_A_BASELINE);
        for (set, added, rules) in
            [(&added, true, NEVER_ADDED.iter().chain(unportable)), (&removed, false, NEVER_REMOVED.iter().chain(None))]
        {
            for (names, reason) in rules {
                if let Some(name) = first(common(set, &FeatureSet::named(names))) {
                    return Err(CpuModelError::Fixed { name, added, reason });
                }
            }
        }
        Ok(Self { base, added, removed })
    }

    /// Where it begins.
    pub fn base(&self) -> CpuBase {
        self.base
    }

    /// What was added, by name.
    pub(super) fn added(&self) -> &FeatureSet {
        &self.added
    }

    /// What was taken away, by name.
    pub(super) fn removed(&self) -> &FeatureSet {
        &self.removed
    }
}

impl fmt::Display for CpuBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Max => f.write_str("max"),
            Self::Baseline(level) => write!(f, "baseline-{level}"),
        }
    }
}

/// As `--cpu` takes it.
impl fmt::Display for CpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.base)?;
        self.added.iter().try_for_each(|feature| write!(f, ",+{}", feature.name()))?;
        self.removed.iter().try_for_each(|feature| write!(f, ",-{}", feature.name()))
    }
}
