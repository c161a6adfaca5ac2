//! `--cpu MODEL[,±FEATURE...]`.

use crate::vcpu::{CpuBase, CpuModel, CpuModelError, Feature, FeatureSet, Level, alike};

/// A processor that cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuError {
    /// No such base.
    #[error("'{0}' is not a processor; use host, max, or baseline-v1 to baseline-v4")]
    Model(String),
    /// Neither `+` nor `-`.
    #[error("'{0}' is neither added nor taken away; write +{0} or -{0}")]
    Sign(String),
    /// No such feature.
    #[error("'{name}' is not a feature of a processor; {}", meant(alike))]
    Feature {
        /// What was given.
        name: String,
        /// What may have been meant.
        alike: Vec<&'static str>,
    },
    /// The whole makes no sense.
    #[error(transparent)]
    Choice(#[from] CpuModelError),
}

fn meant(alike: &[&str]) -> String {
    match alike {
        [] => "features have the names that /proc/cpuinfo shows".into(),
        names => format!("did you mean {}?", names.join(", ")),
    }
}

/// The model and its changes. A change is `+NAME` or `-NAME`, or as QEMU also has it `NAME=on` or
/// `NAME=off`.
pub fn cpu(text: &str) -> Result<CpuModel, CpuError> {
    let mut parts = text.split(',');
    let base = base(parts.next().unwrap_or_default())?;
    let (mut added, mut removed) = (FeatureSet::default(), FeatureSet::default());
    for change in parts {
        let (set, name) = if let Some(name) = change.strip_prefix('+').or_else(|| change.strip_suffix("=on")) {
            (&mut added, name)
        } else if let Some(name) = change.strip_prefix('-').or_else(|| change.strip_suffix("=off")) {
            (&mut removed, name)
        } else {
            return Err(CpuError::Sign(change.to_owned()));
        };
        let unknown = || CpuError::Feature { name: name.to_owned(), alike: alike(name) };
        set.insert(Feature::named(name).ok_or_else(unknown)?);
    }
    Ok(CpuModel::new(base, added, removed)?)
}

fn base(text: &str) -> Result<CpuBase, CpuError> {
    let baselines = Level::ALL.map(CpuBase::Baseline);
    let mut all = [CpuBase::Host, CpuBase::Max].into_iter().chain(baselines);
    all.find(|base| base.to_string() == text).ok_or_else(|| CpuError::Model(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(text: &str) -> String {
        cpu(text).map_or_else(|error| error.to_string(), |model| model.to_string())
    }

    #[test]
    fn every_model_and_change_comes_back_as_it_was_given() {
        for text in ["host", "max", "baseline-v1", "baseline-v4", "host,-nx", "baseline-v3,+pcid,+aes,-movbe"] {
            assert_eq!(says(text), text);
        }
        assert_eq!(
            says("baseline-v3,+SHA-NI,sse4a=off,-LZCNT,avx-vnni=on"),
            "baseline-v3,+sha_ni,+avx_vnni,-abm,-sse4a"
        );
        assert_eq!(cpu("host"), Ok(CpuModel::default()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("", "'' is not a processor"),
            ("Skylake", "'Skylake' is not a processor; use host, max, or baseline-v1"),
            ("baseline-v5", "baseline-v1 to baseline-v4"),
            ("host,-nosuch", "'nosuch' is not a feature of a processor; features have the names"),
            ("host,-axv2", "did you mean avx2"),
            ("host,", "''"),
            ("host,avx2", "write +avx2 or -avx2"),
            ("host,+aes,-aes", "'aes' is both added and taken away"),
            ("host,+avx2,-xsave", "the added features need 'xsave', which is taken away"),
            ("host,+svm", "'svm' cannot be added: nested virtualisation"),
            ("baseline-v4,+amx_tile", "does not belong to a baseline"),
            ("host,-lm", "'lm' cannot be taken away: no 64-bit guest"),
            ("host,-ht", "it follows from --cpus"),
        ] {
            assert!(says(text).contains(words), "{text}: {}", says(text));
        }
        // Not there anyway: what is asked for is the case.
        assert_eq!(says("host,-vmx"), "host,-vmx");
    }
}
