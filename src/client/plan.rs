//! What `whimbrel migrate` was asked to do.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::migration::parameters::Parameter;
use crate::migration::uri::Uri;

/// One migration to drive. `None` leaves the virtual machine's own setting alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The source.
    pub qmp: QmpAddress,
    /// The destination.
    pub to: Uri,
    /// How to move.
    pub mode: Option<Mode>,
    /// `max-bandwidth` in bytes per second.
    pub bandwidth: Option<u64>,
    /// `max-postcopy-bandwidth` in bytes per second.
    pub postcopy_bandwidth: Option<u64>,
    /// `downtime-limit`.
    pub downtime_limit: Option<Duration>,
    /// `tls-creds`, empty for no TLS.
    pub tls_dir: Option<String>,
    /// `tls-hostname`.
    pub tls_hostname: Option<String>,
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

    /// The value of `x-postcopy-after` that stands for it.
    pub fn postcopy_after(self) -> i64 {
        match self {
            Self::Precopy => -1,
            Self::Postcopy => 0,
            Self::Hybrid { passes } => passes.into(),
        }
    }
}

impl Plan {
    /// The arguments of `migrate-set-parameters`: what the plan says and nothing else.
    pub fn parameters(&self) -> Map<String, Value> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        [
            (Parameter::PostcopyAfter, self.mode.map(|mode| Value::from(mode.postcopy_after()))),
            (Parameter::MaxBandwidth, self.bandwidth.map(Value::from)),
            (Parameter::MaxPostcopyBandwidth, self.postcopy_bandwidth.map(Value::from)),
            (Parameter::TlsCreds, self.tls_dir.clone().map(Value::from)),
            (Parameter::TlsHostname, self.tls_hostname.clone().map(Value::from)),
            (Parameter::DowntimeLimit, self.downtime_limit.map(|time| Value::from(ms(time)))),
        ]
        .into_iter()
        .filter_map(|(parameter, value)| Some((parameter.name().to_owned(), value?)))
        .collect()
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
