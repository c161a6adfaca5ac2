//! Single values of the command line, from text to type. Every refusal says what would be right.

use std::path::PathBuf;

use uuid::Uuid;

use crate::config::{CharDevice, Kernel, MemoryConfig, MonitorEndpoint};
use crate::migration::uri::Uri;
use crate::size::{SizeError, parse_size};

const MIB: u64 = 1 << 20;
/// The smallest guest RAM that a guest has ever been booted with here, in bytes.
const MIN_MEMORY: u64 = 16 * MIB;
/// Guest RAM comes in host huge pages, in bytes.
const MEMORY_GRANULE: u64 = 2 * MIB;
/// `sun_path` has 108 bytes, one of them for the terminator.
const MAX_UNIX_PATH: usize = 107;

/// A value that cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Bad number.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// Too small or odd.
    #[error("guest memory must be a multiple of 2 MiB and at least 16 MiB; give for example 512M")]
    Memory,
    /// `KEY=VALUE` that does not exist.
    #[error("'{option}' is not an option here; {expected}")]
    Option {
        /// What was given.
        option: String,
        /// What would be right.
        expected: &'static str,
    },
    /// No such kind of place.
    #[error("'{given}' is not a place for this; use {expected}")]
    Place {
        /// What was given.
        given: String,
        /// What would be right.
        expected: &'static str,
    },
    /// No path, or from nowhere.
    #[error("'{0}' is not a path; give one that begins with '/'")]
    NoPath(String),
    /// No UUID.
    #[error("'{0}' is not a UUID; give one such as 6f0ec1a4-7d53-4a3c-9a56-0d1c1f2b3a4d ('uuidgen' makes one)")]
    Uuid(String),
    /// A path is missing.
    #[error("'{0}' lacks a path; write it after the colon")]
    EmptyPath(String),
    /// More than a socket address holds.
    #[error("'{0}': a unix socket's path has at most 107 bytes; use a shorter one")]
    PathTooLong(String),
}

/// A path, as it is to be found from anywhere.
pub fn absolute(text: &str) -> Result<PathBuf, ValueError> {
    // What fails is the empty path, and one from a working directory that is gone.
    std::path::absolute(text).map_err(|_| ValueError::NoPath(text.to_owned()))
}

/// `--uuid UUID`.
pub fn uuid(text: &str) -> Result<Uuid, ValueError> {
    Uuid::parse_str(text).map_err(|_| ValueError::Uuid(text.to_owned()))
}

/// `--memory SIZE[,shared=on|off]`.
pub fn memory(text: &str) -> Result<MemoryConfig, ValueError> {
    let mut parts = text.split(',');
    let size = parse_size(parts.next().unwrap_or_default(), MIB)?;
    let mut shared = false;
    for option in parts {
        shared = match option {
            "shared=on" => true,
            "shared=off" => false,
            _ => {
                return Err(ValueError::Option {
                    option: option.to_owned(),
                    expected: "--memory takes SIZE[,shared=on|off]",
                });
            }
        };
    }
    if size < MIN_MEMORY || !size.is_multiple_of(MEMORY_GRANULE) {
        return Err(ValueError::Memory);
    }
    Ok(MemoryConfig { size, shared })
}

/// `--kernel FILE|builtin:test`.
pub fn kernel(text: &str) -> Result<Kernel, ValueError> {
    match text.strip_prefix("builtin:") {
        Some("test") => Ok(Kernel::BuiltinTest),
        Some(_) => Err(ValueError::Place { given: text.to_owned(), expected: "builtin:test, or a file" }),
        None if text.is_empty() => Err(ValueError::EmptyPath("--kernel".to_owned())),
        None => Ok(Kernel::File(text.into())),
    }
}

/// `--serial`.
pub fn serial(text: &str) -> Result<CharDevice, ValueError> {
    let refuse =
        || ValueError::Place { given: text.to_owned(), expected: "stdio, null, pty, file:PATH or unix:PATH[,server]" };
    match text.split_once(':') {
        None => match text {
            "stdio" => Ok(CharDevice::Stdio),
            "null" | "none" => Ok(CharDevice::Null),
            "pty" => Ok(CharDevice::Pty),
            _ => Err(refuse()),
        },
        Some(("file", "")) => Err(ValueError::EmptyPath(text.to_owned())),
        Some(("file", path)) => Ok(CharDevice::File(path.into())),
        Some(("unix", rest)) => {
            let (path, server) = socket(text, rest)?;
            Ok(CharDevice::Unix { path: unix_path(text, path)?, server })
        }
        Some(_) => Err(refuse()),
    }
}

/// `--monitor` and `--qmp`; `None` for `none`.
pub fn monitor(text: &str) -> Result<Option<MonitorEndpoint>, ValueError> {
    let refuse = || ValueError::Place {
        given: text.to_owned(),
        expected: "stdio, none, unix:PATH[,server] or tcp:HOST:PORT,server",
    };
    match text.split_once(':') {
        None => match text {
            "stdio" => Ok(Some(MonitorEndpoint::Stdio)),
            "none" => Ok(None),
            _ => Err(refuse()),
        },
        Some(("unix", rest)) => {
            let (path, server) = socket(text, rest)?;
            let path = unix_path(text, path)?;
            Ok(Some(match server {
                true => MonitorEndpoint::UnixServer(path),
                false => MonitorEndpoint::UnixClient(path),
            }))
        }
        Some(("tcp", rest)) => match socket(text, rest)? {
            (address, true) => match format!("tcp:{address}").parse() {
                Ok(Uri::Tcp { host, port }) => Ok(Some(MonitorEndpoint::TcpServer { host, port })),
                _ => Err(refuse()),
            },
            _ => Err(refuse()),
        },
        Some(_) => Err(refuse()),
    }
}

/// Splits `ADDRESS[,server]`. QEMU's longer ways to say "listen and do not wait" mean the same.
fn socket<'a>(whole: &str, rest: &'a str) -> Result<(&'a str, bool), ValueError> {
    let mut parts = rest.split(',');
    let address = parts.next().unwrap_or_default();
    let mut server = false;
    for option in parts {
        match option {
            "server" | "server=on" => server = true,
            "wait=off" | "nowait" => {}
            _ => {
                return Err(ValueError::Option {
                    option: option.to_owned(),
                    expected: "a socket takes ',server' to listen (it never waits for a client)",
                });
            }
        }
    }
    match address {
        "" => Err(ValueError::EmptyPath(whole.to_owned())),
        _ => Ok((address, server)),
    }
}

fn unix_path(whole: &str, path: &str) -> Result<PathBuf, ValueError> {
    match path.len() {
        ..=MAX_UNIX_PATH => Ok(path.into()),
        _ => Err(ValueError::PathTooLong(whole.to_owned())),
    }
}

/// Bytes per second with a suffix; a bare number is in MiB, as in QEMU's monitor.
pub fn bandwidth(text: &str) -> Result<u64, SizeError> {
    parse_size(text, MIB)
}
