//! Why a demo ended early, or ended badly.

use std::io;
use std::path::PathBuf;

use crate::client::QmpError;
use crate::migration::HostUnfit;
use crate::stdio::OutputError;

/// Why a demo ended early, or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// No KVM, or no userfaultfd.
    #[error(transparent)]
    Host(#[from] HostUnfit),
    /// The picture has nowhere to go.
    #[error("the directory of '{}' does not exist; create it, or name another place with --out", .0.display())]
    NoDirectory(PathBuf),
    /// Signals cannot be caught.
    #[error("cannot catch Ctrl-C")]
    Signal(#[source] io::Error),
    /// No place for sockets.
    #[error("cannot create a temporary directory; set TMPDIR to one that can be written")]
    Directory(#[source] io::Error),
    /// A process or its serial port.
    #[error("cannot start the {role} process")]
    Start {
        /// Source or destination.
        role: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A process ended by itself.
    #[error("the {role} process ended early: {words}")]
    Ended {
        /// Source or destination.
        role: &'static str,
        /// The last that it said.
        words: String,
    },
    /// Its monitor.
    #[error("the {role}'s monitor")]
    Monitor {
        /// Source or destination.
        role: &'static str,
        /// What went wrong there.
        #[source]
        source: QmpError,
    },
    /// Something never happened.
    #[error("{mode}: waited {seconds} s in vain {what}")]
    TooSlow {
        /// The mode's name.
        mode: &'static str,
        /// How long.
        seconds: u64,
        /// What for.
        what: &'static str,
    },
    /// The migration.
    #[error("{mode}: the migration ended as '{status}': {why}")]
    Failed {
        /// The mode's name.
        mode: &'static str,
        /// The status.
        status: String,
        /// The reason.
        why: String,
    },
    /// The guest stopped.
    #[error("{mode}: the guest gave up: {words}")]
    GaveUp {
        /// The mode's name.
        mode: &'static str,
        /// What it said.
        words: String,
    },
    /// Nothing to measure.
    #[error("{0}: the guest did not say enough to be measured; is the host overloaded?")]
    NotMeasured(&'static str),
    /// Wrong memory.
    #[error("the guest found {errors} errors in its memory after {modes}: {words}")]
    Damaged {
        /// Number of errors.
        errors: u64,
        /// The modes' names.
        modes: String,
        /// The guest's first complaint.
        words: String,
    },
    /// The picture.
    #[error("cannot write '{}'", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The table.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Ctrl-C.
    #[error("interrupted: both processes were ended, nothing is left running")]
    Interrupted,
}
