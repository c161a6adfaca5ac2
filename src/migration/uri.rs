//! Where a migration goes to or comes from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A migration address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uri {
    /// `tcp:HOST:PORT`; HOST may be a name, an IPv4 address or an IPv6 address in brackets.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// Port; 0 asks the system for one when listening.
        port: u16,
    },
    /// `unix:PATH`.
    Unix(PathBuf),
}

/// An address that cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a migration address; use tcp:HOST:PORT or unix:PATH")]
pub struct UriError(String);

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let refuse = || UriError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(refuse()) } else { Ok(Self::Unix(path.into())) };
        }
        let (host, port) = text.strip_prefix("tcp:").and_then(|rest| rest.rsplit_once(':')).ok_or_else(refuse)?;
        let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(refuse());
        }
        Ok(Self::Tcp { host: host.to_owned(), port: port.parse().map_err(|_| refuse())? })
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
