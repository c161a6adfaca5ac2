//! A character device, as the command line says it.

use std::path::PathBuf;

/// A character device, as `--serial` and `--monitor` name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CharDevice {
    /// This process's standard input and output.
    Stdio,
    /// Nowhere.
    Null,
    /// Output to a file or FIFO.
    File(PathBuf),
    /// A unix socket: listens if `server`, else connects.
    Unix {
        /// The socket's path.
        path: PathBuf,
        /// Listen, not waiting for a client.
        server: bool,
    },
    /// A new pseudo-terminal; its name is printed.
    Pty,
}
