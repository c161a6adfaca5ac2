//! [`Identity`]: which machine a snapshot is of.
//!
//! A machine is known by its UUID and its name. One that has neither is known by how it was
//! started: what it boots and what it has. So it finds its snapshots again when it is started again
//! with the same options; but of two such machines that share a directory at one time only the
//! first is that one, and the other is known to itself alone.

use std::fmt::{self, Write};
use std::fs::File;
use std::path::Path;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::block::lock;
use crate::config::{Kernel, MachineConfig, TapSource};

/// Which machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    name: Option<String>,
    uuid: Option<Uuid>,
    /// How it was started, as a number.
    start: u64,
}

impl Identity {
    /// Of the machine that these options make.
    pub fn of(config: &MachineConfig) -> Self {
        Self { name: config.name.clone(), uuid: config.uuid, start: fingerprint(&description(config)) }
    }

    /// For a machine without a name or UUID: holds the directory as the one that was started so, as
    /// long as the file is open. Where another one has it, this machine becomes one that none has
    /// been before.
    pub fn claim(&mut self, directory: &Path) -> Option<File> {
        if self.name.is_some() || self.uuid.is_some() {
            return None;
        }
        // What is not there cannot be shared either.
        let directory = File::open(directory).ok()?;
        match lock::is_first(&directory, self.start) {
            Ok(true) => Some(directory),
            Ok(false) => {
                log::warn!(
                    "another machine without a name shares these snapshots: this one saves its own, but does not find them again when \
                     it is started again; give each a --name or --uuid"
                );
                let mut bytes = [0; 8];
                // Should there be no chance, its own number is as good as any other that is
                // nobody's.
                let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
                self.start = u64::from_le_bytes(bytes) ^ u64::from(std::process::id());
                None
            }
            Err(error) => {
                log::warn!("the directory of the snapshots cannot be locked: {error}");
                None
            }
        }
    }

    /// As it stands in a snapshot's file.
    pub fn label(&self) -> String {
        let uuid = self.uuid.map(|uuid| uuid.to_string());
        json!({"name": self.name, "uuid": uuid, "start": format!("{:016x}", self.start)}).to_string()
    }

    /// Of what stands in a snapshot's file; `None` if nothing of the kind does.
    pub fn parse(label: &str) -> Option<Self> {
        let label: Value = serde_json::from_str(label).ok()?;
        Some(Self {
            name: label["name"].as_str().map(str::to_owned),
            uuid: label["uuid"].as_str().and_then(|uuid| uuid.parse().ok()),
            start: u64::from_str_radix(label["start"].as_str()?, 16).ok()?,
        })
    }

    /// Whether both are one machine. A UUID says more than a name.
    pub fn is(&self, other: &Self) -> bool {
        match (&self.uuid, &other.uuid, &self.name, &other.name) {
            (Some(ours), Some(theirs), ..) => ours == theirs,
            (_, _, Some(ours), Some(theirs)) => ours == theirs,
            (None, None, None, None) => self.start == other.start,
            _ => false,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, &self.uuid) {
            (Some(name), _) => write!(f, "machine '{}'", name.escape_debug()),
            (None, Some(uuid)) => write!(f, "machine {uuid}"),
            (None, None) => f.write_str("another machine without a name"),
        }
    }
}

/// What makes a machine another one, in words.
fn description(config: &MachineConfig) -> String {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    let mut text = format!("memory={:?} cpus={} cpu={}\n", config.memory, config.vcpus, config.cpu);
    if let Some(boot) = &config.boot {
        let kernel = match &boot.kernel {
            Kernel::File(path) => absolute(path),
            Kernel::BuiltinTest => "builtin:test".to_owned(),
        };
        let initrd = boot.initrd.as_deref().map(absolute);
        let _ = writeln!(text, "kernel={kernel:?} initrd={initrd:?} cmdline={:?}", boot.cmdline);
    }
    let devices = &config.devices;
    for disk in &devices.disks {
        let (path, format) = (absolute(&disk.path), disk.format.name());
        let _ = writeln!(text, "disk={path:?} {format} {} {:?}", disk.read_only, disk.serial);
    }
    for net in &devices.nets {
        let tap = match &net.tap {
            TapSource::Named(name) => name.as_str(),
            TapSource::Inherited(_) => "inherited",
        };
        let _ = writeln!(text, "net={tap:?} {:?}", net.mac);
    }
    let _ = writeln!(text, "{} {} {}", devices.console.is_some(), devices.rng, devices.balloon);
    text
}

/// FNV-1a: the same on every host, in every build.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: Option<&str>, uuid: Option<u128>, start: u64) -> Identity {
        Identity { name: name.map(str::to_owned), uuid: uuid.map(Uuid::from_u128), start }
    }

    #[test]
    fn a_machine_is_known_by_uuid_then_name_then_how_it_was_started() {
        for (one, other, same) in [
            ((None, None, 1), (None, None, 1), true),
            ((None, None, 1), (None, None, 2), false),
            ((Some("a"), None, 1), (Some("a"), None, 2), true),
            ((Some("a"), None, 1), (Some("b"), None, 1), false),
            ((Some("a"), None, 1), (None, None, 1), false),
            ((None, Some(7), 1), (None, Some(7), 2), true),
            ((None, Some(7), 1), (None, Some(8), 1), false),
            ((None, Some(7), 1), (None, None, 1), false),
            ((Some("a"), Some(7), 1), (Some("b"), Some(7), 1), true),
            ((Some("a"), Some(7), 1), (Some("a"), Some(8), 1), false),
            // One that got its UUID later.
            ((Some("a"), Some(7), 1), (Some("a"), None, 1), true),
            ((Some("a"), Some(7), 1), (Some("b"), None, 1), false),
        ] {
            let (one, other) = (identity(one.0, one.1, one.2), identity(other.0, other.1, other.2));
            assert_eq!((one.is(&other), other.is(&one)), (same, same), "{one:?} {other:?}");
            assert_eq!(Identity::parse(&one.label()), Some(one));
        }
        for label in ["", "{}", "null", "\0", "{\"start\": 1}", "[1"] {
            assert_eq!(Identity::parse(label), None, "{label}");
        }
    }

    #[test]
    fn of_two_nameless_machines_started_alike_one_at_a_time_is_that_machine() {
        let dir = tempfile::tempdir().unwrap();
        let (mut first, mut second, mut third) =
            (identity(None, None, 5), identity(None, None, 5), identity(None, None, 500));
        let claim = first.claim(dir.path());
        assert!(claim.is_some() && second.claim(dir.path()).is_none());
        assert!(!first.is(&second));
        // One that was started otherwise is another anyway, and one with a name needs none of this.
        assert!(third.claim(dir.path()).is_some());
        assert!(identity(Some("a"), None, 5).claim(dir.path()).is_none());
        drop(claim);
        let mut again = identity(None, None, 5);
        assert!(again.claim(dir.path()).is_some() && again.is(&first));
        let mut nowhere = identity(None, None, 5);
        assert!(nowhere.claim(&dir.path().join("nowhere")).is_none() && nowhere.is(&first));
    }
}
