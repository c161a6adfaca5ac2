//! What a migration's two ends must agree on.

use std::fmt;
use std::sync::atomic::Ordering;

use kvm_bindings::kvm_cpuid_entry2;
use whimbrel_postcopy::guest::Configuration;
use whimbrel_postcopy::logging as log;
use whimbrel_postcopy::ram::PAGE_SIZE;

use super::machine::Processor;
use super::saved::same_rate;
use super::{Machine, chipset, clock};
use crate::size::exact_size;
use crate::vcpu::{FeatureWord, VcpuState, feature_words, missing_features, physical_bits, vendor, xsave_layout};

const MEMORY: &str = "memory";
const VCPUS: &str = "vcpus";
/// Only where the source wants it checked.
const UUID: &str = "uuid";
const PAGE: &str = "page-size";
const TSC: &str = "tsc-khz";
const VENDOR: &str = "cpu.vendor";
const PHYSICAL: &str = "cpu.physical-bits";
/// Where XSAVE puts each component: the processor's to say, so a guest that knows one layout cannot
/// use another.
const XSAVE: &str = "cpu.xsave";
/// Before a device's name; the value is its layout's version.
const DEVICE: &str = "device.";
/// Before a disk's number and what the guest knows of it.
const DISK: &str = "disk.";
/// Before a CPUID word's place; the value is its bits in hexadecimal.
const CPUID: &str = "cpuid.";

/// Everything in which this host differs from what the source's guest needs. Both sides show it, so
/// it says which is which.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", Differences(.0))]
pub struct ConfigurationError(Vec<String>);

struct Differences<'a>(&'a [String]);

impl fmt::Display for Differences<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// The facts of one machine that the other end asks for.
struct Facts {
    pairs: Configuration,
    /// What the host can show.
    offered: Vec<FeatureWord>,
    /// What the machine was started to show, and how that was said.
    chosen: (String, Vec<FeatureWord>),
    tsc_control: bool,
    uuid: Option<String>,
}

impl Machine {
    /// This machine with the processor that its guest is shown. A guest that came from another host
    /// brought its own.
    pub(super) fn describe(&self) -> Configuration {
        let mut pairs = match self.vcpus.first() {
            Some(first) => self.describe_with(&first.cpuid()),
            None => self.describe_with(&[]),
        };
        if let Some(uuid) = self.identity.uuid.filter(|_| self.identity.is_told.load(Ordering::Relaxed)) {
            pairs.push((UUID.into(), uuid.to_string()));
        }
        pairs
    }

    /// This machine with the processor that these leaves show.
    fn describe_with(&self, shown: &[kvm_cpuid_entry2]) -> Configuration {
        let mut pairs: Configuration = vec![
            (MEMORY.into(), self.memory_size().to_string()),
            (VCPUS.into(), self.vcpus.len().to_string()),
            (PAGE.into(), PAGE_SIZE.to_string()),
            (TSC.into(), self.processor.guest_tsc_khz.load(Ordering::Relaxed).to_string()),
            (VENDOR.into(), vendor(shown)),
            (PHYSICAL.into(), physical_bits(shown).to_string()),
            (XSAVE.into(), xsave_layout(shown).join(" ")),
        ];
        let mut device = |name: &str, version: u32| {
            pairs.push((format!("{DEVICE}{name}"), version.to_string()));
        };
        device(clock::SECTION, clock::VERSION);
        device("vcpu", VcpuState::VERSION);
        for (name, _) in chipset::SECTIONS {
            device(name, chipset::VERSION);
        }
        for saved in &self.devices {
            match saved.instance() {
                0 => device(saved.name(), saved.version()),
                instance => device(&format!("{}.{instance}", saved.name()), saved.version()),
            }
        }
        for (number, disk) in self.disks().into_iter().enumerate() {
            // The path is each host's own business. Which size it has shows when the destination
            // opens it.
            for (key, value) in [
                ("format", disk.config.format.name()),
                ("readonly", if disk.config.read_only { "on" } else { "off" }),
                ("serial", disk.config.serial.as_str()),
            ] {
                pairs.push((format!("{DISK}{number}.{key}"), value.to_owned()));
            }
        }
        for word in feature_words(shown) {
            pairs.push((word.key.into(), format!("{:#x}", word.bits)));
        }
        pairs
    }

    pub(super) fn compare(&self, source: &Configuration) -> Result<(), ConfigurationError> {
        // What the host can show, not what this machine was started with, nor a guest that was here
        // before: the guest that arrives brings its own leaves.
        let Processor { offered, chosen, model, .. } = &self.processor;
        let here = Facts {
            pairs: self.describe_with(offered),
            offered: feature_words(offered),
            chosen: (model.to_string(), feature_words(chosen)),
            tsc_control: self.vm.capabilities().tsc_control,
            uuid: self.identity.uuid.map(|uuid| uuid.to_string()),
        };
        here.check(source)
    }
}

/// What a host with these facts says of a source's.
#[cfg(feature = "fuzzing")]
pub(super) fn check(here: &Configuration, source: &Configuration) -> Result<(), ConfigurationError> {
    let words = vec![FeatureWord { key: "cpuid.7.0.ebx", bits: 0x28 }];
    let chosen = ("host".into(), words.clone());
    Facts { pairs: here.clone(), offered: words, chosen, tsc_control: false, uuid: None }.check(source)
}

impl Facts {
    fn get(&self, key: &str) -> Option<&str> {
        get(&self.pairs, key)
    }

    fn check(&self, source: &Configuration) -> Result<(), ConfigurationError> {
        let mut differences = Vec::new();
        let (model, chosen) = &self.chosen;
        let (mut missing, mut left_out) = (Vec::new(), Vec::new());
        for (key, value) in source {
            if key.starts_with(CPUID) {
                match value.strip_prefix("0x").map(|hex| u32::from_str_radix(hex, 16)) {
                    Some(Ok(bits)) => {
                        let lacking = missing_features(key, bits, &self.offered);
                        left_out
                            .extend(missing_features(key, bits, chosen).into_iter().filter(|it| !lacking.contains(it)));
                        missing.extend(lacking);
                    }
                    _ => differences.push(format!("{key} is the unreadable '{value}' on the source")),
                }
            } else if key == UUID {
                match &self.uuid {
                    Some(here) if here == value => {}
                    Some(here) => {
                        differences.push(format!("{key} is {value} on the source and {here} on the destination"))
                    }
                    // As with QEMU: who was given none has nothing to hold against it.
                    None => log::warn!("the guest's uuid is {value}, which is not checked: this machine has no --uuid"),
                }
            } else {
                differences.extend(self.difference(key, value));
            }
        }
        for (key, value) in &self.pairs {
            if !key.starts_with(CPUID) && get(source, key).is_none() {
                differences.push(format!("{key} is {value} on the destination and not there on the source"));
            }
        }
        if !missing.is_empty() {
            let names = missing.join(", ");
            differences.push(format!("the destination's processor lacks the features {names}"));
        }
        if !left_out.is_empty() {
            let names = left_out.join(", ");
            differences.push(format!(
                "the guest was shown {names}, which the destination's '--cpu {model}' leaves out; give it the source's \
                 --cpu, or none, and the guest keeps what it has"
            ));
        }
        if differences.is_empty() { Ok(()) } else { Err(ConfigurationError(differences)) }
    }

    fn difference(&self, key: &str, source: &str) -> Option<String> {
        let Some(here) = self.get(key) else {
            return Some(format!("{key} is {source} on the source and not there on the destination"));
        };
        let fits = match (key, source.parse::<u32>(), here.parse::<u32>()) {
            (TSC, Ok(source), Ok(here)) => self.tsc_control || same_rate(source, here),
            (PHYSICAL, Ok(source), Ok(here)) => here >= source,
            (XSAVE, ..) => source.split_whitespace().all(|part| here.split_whitespace().any(|it| it == part)),
            _ => source == here,
        };
        let told = |value: &str| match (key, value.parse()) {
            (MEMORY, Ok(bytes)) => exact_size(bytes),
            _ => value.to_owned(),
        };
        (!fits).then(|| format!("{key} is {} on the source and {} on the destination", told(source), told(here)))
    }
}

fn get<'a>(pairs: &'a Configuration, key: &str) -> Option<&'a str> {
    pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Configuration {
        list.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    fn word(bits: u32) -> Vec<FeatureWord> {
        vec![FeatureWord { key: "cpuid.7.0.ebx", bits }]
    }

    /// The host has avx2 and bmi1; the machine was started without bmi1.
    fn here() -> Facts {
        Facts {
            pairs: pairs(&[
                (MEMORY, "1024"),
                (VCPUS, "2"),
                (TSC, "2000000"),
                (PHYSICAL, "46"),
                (XSAVE, "2:256@576 9:8@2696"),
                ("device.serial", "1"),
                ("cpuid.7.0.ebx", "0x20"),
            ]),
            offered: word(1 << 5 | 1 << 3),
            chosen: ("host,-bmi1".into(), word(1 << 5)),
            tsc_control: false,
            uuid: Some("6f0e".into()),
        }
    }

    fn with(key: &str, value: &str) -> Configuration {
        let mut source = here().pairs;
        source.retain(|(name, _)| name != key);
        source.push((key.into(), value.into()));
        source
    }

    #[test]
    fn the_same_machine_is_welcome() {
        here().check(&here().pairs).unwrap();
        here().check(&with(TSC, "2000100")).unwrap();
        here().check(&with(PHYSICAL, "39")).unwrap();
        here().check(&with(XSAVE, "")).unwrap();
        here().check(&with(XSAVE, "2:256@576")).unwrap();
        here().check(&with("cpuid.7.0.ebx", "0x0")).unwrap();
        here().check(&with(UUID, "6f0e")).unwrap();
        Facts { uuid: None, ..here() }.check(&with(UUID, "6f0f")).unwrap();
    }

    #[test]
    fn every_difference_is_named() {
        for (key, value, words) in [
            (MEMORY, "2048", "memory is 2K on the source and 1K on the destination"),
            (VCPUS, "1", "vcpus is 1 on the source and 2 on the destination"),
            (TSC, "3000000", "tsc-khz"),
            (PHYSICAL, "52", "physical-bits"),
            (XSAVE, "2:256@576 9:8@832", "cpu.xsave is 2:256@576 9:8@832 on the source"),
            ("device.serial", "2", "device.serial is 2 on the source and 1 on the destination"),
            ("device.disk", "1", "device.disk is 1 on the source and not there on the destination"),
            ("cpuid.7.0.ebx", "0x10028", "lacks the features avx512f; the guest was shown bmi1, which"),
            ("cpuid.7.0.ebx", "0x8", "the destination's '--cpu host,-bmi1' leaves out"),
            ("cpuid.7.0.ebx", "everything", "unreadable"),
            ("cpuid.77.eax", "0x1", "cpuid.77.eax bit 0"),
            (UUID, "6f0f", "uuid is 6f0f on the source and 6f0e on the destination"),
        ] {
            let text = here().check(&with(key, value)).unwrap_err().to_string();
            assert!(text.contains(words), "{text}");
        }
        let mut fewer = here().pairs;
        fewer.retain(|(key, _)| key != "device.serial");
        fewer.push((VCPUS.into(), "2".into()));
        let text = here().check(&fewer).unwrap_err().to_string();
        assert!(text.contains("device.serial is 1 on the destination and not there"), "{text}");
    }
}
