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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Neither form.
    #[error("'{0}' is not a migration address; use tcp:HOST:PORT or unix:PATH")]
    NotAnAddress(String),
    /// A kind of address that QEMU has and this program does not.
    #[error("migration address '{uri}': '{kind}:' is not supported; use tcp:HOST:PORT or unix:PATH")]
    Unsupported {
        /// The whole address.
        uri: String,
        /// What stands before the first colon.
        kind: &'static str,
    },
    /// More than a socket address holds.
    #[error("migration address '{0}': a unix socket's path has at most 107 bytes; use a shorter one")]
    PathTooLong(String),
}

/// The address kinds of QEMU that are not built here.
const UNSUPPORTED: [&str; 5] = ["exec", "fd", "file", "rdma", "vsock"];

/// `sun_path` has 108 bytes, one of them for the terminator.
const MAX_UNIX_PATH: usize = 107;

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let refuse = || UriError::NotAnAddress(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                0 => Err(refuse()),
                1..=MAX_UNIX_PATH => Ok(Self::Unix(path.into())),
                _ => Err(UriError::PathTooLong(text.to_owned())),
            };
        }
        let named = |kind: &&str| text.split_once(':').is_some_and(|(head, _)| head == *kind);
        if let Some(kind) = UNSUPPORTED.into_iter().find(named) {
            return Err(UriError::Unsupported { uri: text.to_owned(), kind });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_as_it_was_written() {
        for text in ["tcp:localhost:4444", "tcp:[::1]:0", "tcp:10.0.0.1:65535", "unix:/run/a:b"] {
            let uri: Uri = text.parse().unwrap();
            assert_eq!(uri.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_by_name() {
        for text in ["", "tcp:", "tcp::1", "tcp:host", "tcp:host:65536", "tcp:h:-1", "unix:", "udp:h:1"] {
            let error = text.parse::<Uri>().unwrap_err();
            assert!(matches!(error, UriError::NotAnAddress(_)), "{text}");
        }
        let error = "exec:cat".parse::<Uri>().unwrap_err();
        assert!(error.to_string().contains("'exec:' is not supported"));
        let long = format!("unix:/{}", "x".repeat(107));
        assert!(matches!(long.parse::<Uri>(), Err(UriError::PathTooLong(_))));
    }
}
