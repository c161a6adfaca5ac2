//! What `whimbrel migrate` was asked to do.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::migration::capabilities::Capability;
use crate::migration::parameters::Parameter;
use crate::migration::setting::Setting;
use crate::migration::uri::Uri;

/// One migration to drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The source; of [`Task::Follow`] either side.
    pub qmp: QmpAddress,
    /// What to do.
    pub task: Task,
    /// What is set for this migration. The rest stays as it is set in the virtual machine.
    pub settings: Settings,
    /// The end is told as JSON.
    pub json: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Move the guest.
    Move {
        /// The destination.
        to: Uri,
        /// End as soon as it has begun.
        detach: bool,
    },
    /// Look on at a migration that somebody else began.
    Follow,
    /// Join the halves of a paused postcopy.
    Recover {
        /// Where the destination waits, as the source sees it.
        to: Uri,
        /// Where the destination is to wait, as it sees it itself.
        listen: Uri,
        /// Its monitor; `None`: it waits already.
        destination: Option<QmpAddress>,
    },
}

/// What is set for one migration, each thing once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Capabilities that are on or off.
    pub capabilities: Vec<(Capability, bool)>,
    /// Parameters.
    pub parameters: Vec<(&'static Parameter, Setting)>,
}

/// Something was set to two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is given twice for one migration; leave one of them out")]
pub struct GivenTwice(&'static str);

impl Settings {
    /// Sets a parameter. Of two names of one thing it is the one that says more, so that it can be
    /// put back.
    pub fn parameter(&mut self, parameter: &'static Parameter, setting: Setting) -> Result<(), GivenTwice> {
        let (parameter, setting) = match (parameter.name, setting) {
            ("x-postcopy-after", Setting::Number(passes)) => {
                let policy = u32::try_from(passes).map_or(Mode::Precopy, |passes| Mode::Hybrid { passes }).policy();
                (const { Parameter::of("postcopy-policy") }, Setting::Text(policy))
            }
            (_, setting) => (parameter, setting),
        };
        if self.parameters.iter().any(|(it, _)| *it == parameter) {
            return Err(GivenTwice(parameter.name));
        }
        self.parameters.push((parameter, setting));
        Ok(())
    }

    /// Switches a capability.
    pub fn capability(&mut self, capability: Capability, on: bool) -> Result<(), GivenTwice> {
        if capability == Capability::ZeroBlocks {
            return self
                .parameter(const { Parameter::of("zero-page-detection") }, if on { "multifd" } else { "none" }.into());
        }
        if self.capabilities.iter().any(|(it, _)| *it == capability) {
            return Err(GivenTwice(capability.name()));
        }
        self.capabilities.push((capability, on));
        Ok(())
    }
}

/// How to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Memory first.
    Precopy,
    /// CPUs first.
    Postcopy,
    /// Some passes over memory, then the CPUs.
    Hybrid {
        /// How many.
        passes: u32,
    },
}

impl Mode {
    /// The name, as `--mode` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Precopy => "precopy",
            Self::Postcopy => "postcopy",
            Self::Hybrid { .. } => "hybrid",
        }
    }

    /// The value of `postcopy-policy` that stands for it.
    pub fn policy(self) -> String {
        match self {
            Self::Precopy => "manual".to_owned(),
            Self::Postcopy => "after-passes=0".to_owned(),
            Self::Hybrid { passes } => format!("after-passes={passes}"),
        }
    }
}

/// Where a QMP server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QmpAddress {
    /// A unix socket.
    Unix(PathBuf),
    /// `HOST:PORT`.
    Tcp(String),
}

impl FromStr for QmpAddress {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match (text.strip_prefix("unix:"), text.strip_prefix("tcp:")) {
            (_, Some(address)) => Self::Tcp(address.to_owned()),
            (Some(path), _) => Self::Unix(path.into()),
            _ => Self::Unix(text.into()),
        })
    }
}

impl fmt::Display for QmpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}
