//! Why a command was not carried out, in QEMU's words and classes where QEMU has some.

use crate::dirty::PlanError;
use crate::fds::FdsError;
use crate::machine::MachineError;
use crate::migration::CommandRefused;
use crate::migration::reading::ReadError;
use crate::migration::setting::SettingError;
use crate::migration::uri::UriError;
use crate::nearest::hint;
use crate::size::SizeError;
use crate::snapshots::SnapshotError;

/// A command that failed. The text is what the user sees, in either face.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The machine refused.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The migration refused.
    #[error(transparent)]
    Migration(#[from] CommandRefused),
    /// No snapshot, or no job.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Snapshots are in no block device.
    #[error(
        "Parameter '{name}' names '{value}': snapshots are files in the directory of '--snapshots', in no block device; leave \
         '{name}' out, or empty"
    )]
    NoNode {
        /// The argument.
        name: &'static str,
        /// What was given.
        value: String,
    },
    /// A capability or parameter cannot be set so.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The dirty rate cannot be measured so.
    #[error(transparent)]
    DirtyPlan(#[from] PlanError),
    /// Either or.
    #[error("Either dirty ring or dirty bitmap can be specified!")]
    TwoModes,
    /// Not a migration address.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// Not a size.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// No value of a migration parameter.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A descriptor cannot be kept.
    #[error(transparent)]
    Fds(#[from] FdsError),
    /// `getfd` without one.
    #[error("No file descriptor supplied via SCM_RIGHTS")]
    NoFd,
    /// `yank` of what is not there.
    #[error("Instance not found: there is no '{0}' to yank; query-yank tells what there is")]
    NothingToYank(String),
    /// `info registers` of a vCPU that is not there.
    #[error("CPU#{0} not available: 'info cpus' lists them")]
    NoSuchVcpu(usize),
    /// `closefd` of a name that nobody gave.
    #[error("File descriptor named '{0}' not found")]
    UnknownFd(String),
    /// No such command.
    #[error("The command {name} has not been found{hint}")]
    NotFound {
        /// What was given.
        name: String,
        /// What it may have meant.
        hint: String,
    },
    /// A QMP command before negotiation.
    #[error("Expecting capabilities negotiation with 'qmp_capabilities'")]
    NotNegotiated,
    /// A second negotiation.
    #[error("Capabilities negotiation is already complete, command ignored")]
    NegotiatedTwice,
    /// A QMP capability that this monitor did not offer.
    #[error("Capability {0} not available")]
    NotOffered(String),
    /// `exec-oob` of a command that waits for its turn.
    #[error("The command {0} does not support OOB")]
    NotOutOfBand(&'static str),
    /// An argument is missing.
    #[error("Parameter '{0}' is missing")]
    Missing(String),
    /// An argument that the command does not have.
    #[error("Parameter '{name}' is unexpected{hint}")]
    Unexpected {
        /// What was given.
        name: String,
        /// What it may have meant.
        hint: String,
    },
    /// An argument of QEMU's that is not built here.
    #[error("Parameter '{0}' is not supported")]
    Unsupported(&'static str),
    /// An argument of the wrong type.
    #[error("Invalid parameter type for '{name}', expected: {expected}")]
    WrongType {
        /// The argument.
        name: String,
        /// The type's name in JSON's words.
        expected: &'static str,
    },
    /// Where to: not said, or said twice.
    #[error("need either 'uri' or 'channels' argument")]
    UriOrChannels,
    /// One is the main one.
    #[error("Channel list has more than one main entry")]
    TwoMainChannels,
    /// QEMU's second channel, for descriptors.
    #[error(
        "channel type 'cpr' is not supported: here capability x-ignore-shared hands a guest's memory to another process of the same host, \
         over the main channel"
    )]
    CprChannel,
    /// A word of QEMU's that is not built here.
    #[error(
        "Parameter '{name}': '{value}' is not supported; use an address of type inet, unix or fd, a command or a file"
    )]
    NotBuilt {
        /// The argument.
        name: &'static str,
        /// What was given.
        value: &'static str,
    },
    /// A word that is not in the set.
    #[error("Parameter '{name}' does not accept value '{value}'{hint}")]
    NotAccepted {
        /// The argument.
        name: &'static str,
        /// What was given.
        value: String,
        /// What it may have meant.
        hint: String,
    },
    /// A name that HMP does not know.
    #[error("there is no {kind} '{name}'{hint} ('{lister}' lists them)")]
    NoSuchName {
        /// What kind of thing it was to be.
        kind: &'static str,
        /// What was given.
        name: String,
        /// What it may have meant.
        hint: String,
        /// The command that shows them all.
        lister: &'static str,
    },
    /// A number outside its range.
    #[error("Parameter '{name}' expects {expected}")]
    OutOfRange {
        /// The argument.
        name: &'static str,
        /// What would be right.
        expected: &'static str,
    },
    /// Not JSON.
    #[error("JSON parse error, {0}")]
    Json(String),
    /// JSON, but not a QMP command.
    #[error("QMP input {0}")]
    NotACommand(String),
}

impl CommandError {
    /// A word that is none of the set.
    pub fn not_accepted<'a>(name: &'static str, value: &str, set: impl IntoIterator<Item = &'a str>) -> Self {
        Self::NotAccepted { name, value: value.to_owned(), hint: hint(value, set) }
    }

    /// An argument that is none of the command's.
    pub fn unexpected<'a>(name: &str, set: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Unexpected { name: name.to_owned(), hint: hint(name, set) }
    }

    /// QMP's `class`.
    pub const fn class(&self) -> &'static str {
        match self {
            Self::NotFound { .. } | Self::NotNegotiated | Self::NegotiatedTwice => "CommandNotFound",
            Self::NothingToYank(_) => "DeviceNotFound",
            Self::Machine(MachineError::NoBalloon) => "DeviceNotActive",
            _ => "GenericError",
        }
    }
}
