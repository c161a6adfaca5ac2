//! What `whimbrel run` was told, checked.

use std::path::PathBuf;

use crate::config::{MachineConfig, MonitorConfig};
use crate::migration::uri::Uri;
use crate::sandbox::Mode;

/// Everything that `whimbrel run` needs: the machine and what stands around it.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// The machine itself.
    pub machine: MachineConfig,
    /// Its monitors, in the order in which they were given.
    pub monitors: Vec<MonitorConfig>,
    /// Whether a guest is to arrive.
    pub incoming: Option<Incoming>,
    /// A guest that was to arrive and does not ends the process, unless `migrate-incoming` says
    /// otherwise.
    pub exit_on_error: bool,
    /// What becomes of system calls that no thread needs.
    pub sandbox: Mode,
    /// `--no-exec`: no command can be started and no file be made.
    pub no_exec: bool,
    /// `--snapshots`: where they are.
    pub snapshots: Option<PathBuf>,
    /// `--postcopy-after`: the first value of the parameter `x-postcopy-after`.
    pub postcopy_after: Option<u32>,
    /// `--tls-dir`: the first value of the parameter `tls-creds`.
    pub tls_dir: Option<PathBuf>,
}

/// How a guest is to arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// Listens at this address at once.
    At(Uri),
    /// Waits for `migrate_incoming`.
    Deferred,
}
