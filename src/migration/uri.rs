//! Where a migration goes to or comes from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::rules::Route;

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
    /// A byte stream.
    Stream(Stream),
}

/// A byte stream: a guest is written to it, or read from it. Where it goes both ways and somebody
/// answers, it is as good as a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stream {
    /// `exec:COMMAND`, for the shell.
    Exec(String),
    /// `fd:NAME`, of `getfd`, or the number of an inherited one.
    Fd(String),
    /// `file:PATH[,offset=N][,lazy=on]`.
    File {
        /// Its path.
        path: PathBuf,
        /// Where in it the stream begins, in bytes.
        offset: u64,
        /// How it is read.
        reading: Reading,
    },
}

/// How a guest is read from a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// From the first byte to the last, and run then.
    InOrder,
    /// As the guest asks for its pages, which runs at once (`lazy=on`).
    OnDemand,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exec(command) => write!(f, "exec:{command}"),
            Self::Fd(name) => write!(f, "fd:{name}"),
            Self::File { path, offset, reading } => {
                write!(f, "file:{}", path.display())?;
                if *offset > 0 {
                    write!(f, ",offset={offset}")?;
                }
                match reading {
                    Reading::InOrder => Ok(()),
                    Reading::OnDemand => f.write_str(",lazy=on"),
                }
            }
        }
    }
}

/// An address that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Neither form.
    #[error("'{0}' is not a migration address; use tcp:HOST:PORT, unix:PATH, exec:COMMAND, fd:NAME or file:PATH")]
    NotAnAddress(String),
    /// A kind of address that QEMU has and this program does not.
    #[error(
        "migration address '{uri}': '{kind}:' is not supported; use tcp:HOST:PORT, unix:PATH, exec:COMMAND, fd:NAME or file:PATH"
    )]
    Unsupported {
        /// The whole address.
        uri: String,
        /// What stands before the first colon.
        kind: &'static str,
    },
    /// `offset=` is no number.
    #[error("migration address '{0}': the offset must be a number of bytes, such as 4096, 0x1000 or 1M")]
    Offset(String),
    /// More than a socket address holds.
    #[error("migration address '{0}': a unix socket's path has at most 107 bytes; use a shorter one")]
    PathTooLong(String),
}

/// The address kinds of QEMU that are not built here.
const UNSUPPORTED: [&str; 2] = ["rdma", "vsock"];

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
        if let Some(stream) = stream(text)? {
            return Ok(Self::Stream(stream));
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

/// `None` if it is none.
fn stream(text: &str) -> Result<Option<Stream>, UriError> {
    let (kind, rest) = match text.split_once(':') {
        Some((kind @ ("exec" | "fd" | "file"), rest)) => (kind, rest),
        _ => return Ok(None),
    };
    if rest.is_empty() {
        return Err(UriError::NotAnAddress(text.to_owned()));
    }
    Ok(Some(match kind {
        "exec" => Stream::Exec(rest.to_owned()),
        "fd" => Stream::Fd(rest.to_owned()),
        _ => {
            let (rest, reading) = match rest.strip_suffix(",lazy=on") {
                Some(rest) => (rest, Reading::OnDemand),
                None => (rest.strip_suffix(",lazy=off").unwrap_or(rest), Reading::InOrder),
            };
            let (path, offset) = match rest.rsplit_once(",offset=") {
                Some((path, offset)) => (path, parse_offset(offset).ok_or_else(|| UriError::Offset(text.to_owned()))?),
                None => (rest, 0),
            };
            Stream::File { path: path.into(), offset, reading }
        }
    }))
}

/// Bytes into a file: a size, or hexadecimal after `0x`.
pub fn parse_offset(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => crate::size::parse_size(text, 1).ok(),
    }
    .filter(|offset| i64::try_from(*offset).is_ok())
}

impl Uri {
    /// Which way it goes.
    pub const fn route(&self) -> Route {
        match self {
            Self::Tcp { .. } => Route::Tcp,
            Self::Unix(_) => Route::Unix,
            Self::Stream(Stream::Exec(_) | Stream::Fd(_)) => Route::Stream,
            Self::Stream(Stream::File { .. }) => Route::File,
        }
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Stream(stream) => stream.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_as_it_was_written() {
        for text in [
            "tcp:localhost:4444",
            "tcp:[::1]:0",
            "tcp:10.0.0.1:65535",
            "unix:/run/a:b",
            "exec:gzip -c > a:b,offset=1",
            "fd:in",
            "fd:3",
            "file:/run/a,b",
            "file:a,offset=4096",
        ] {
            let uri: Uri = text.parse().unwrap();
            assert_eq!(uri.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_by_name() {
        for text in [
            "",
            "tcp:",
            "tcp::1",
            "tcp:host",
            "tcp:host:65536",
            "tcp:h:-1",
            "unix:",
            "udp:h:1",
            "exec:",
            "fd:",
            "file:",
        ] {
            let error = text.parse::<Uri>().unwrap_err();
            assert!(matches!(error, UriError::NotAnAddress(_)), "{text}");
        }
        let error = "rdma:h:1".parse::<Uri>().unwrap_err();
        assert!(error.to_string().contains("'rdma:' is not supported"));
        for text in ["file:a,offset=", "file:a,offset=x", "file:a,offset=-1", "file:a,offset=0xffffffffffffffff"] {
            assert!(matches!(text.parse::<Uri>(), Err(UriError::Offset(_))), "{text}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert!(matches!(long.parse::<Uri>(), Err(UriError::PathTooLong(_))));
    }
}
