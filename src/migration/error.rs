//! Why a migration command was refused: each text is what the user sees.

use whimbrel_postcopy::channel::TlsError;
use whimbrel_postcopy::stats::Status;

use crate::dirty::DirtyError;
use crate::machine::RunState;
use crate::migration::rules::BrokenRule;
use crate::migration::streams::StreamError;
use crate::migration::uri::Uri;

/// Why a migration command was refused.
#[derive(Debug, thiserror::Error)]
pub enum CommandRefused {
    /// Two at once.
    #[error("There's a migration process in progress")]
    InProgress,
    /// A guest that is not here cannot leave.
    #[error("Guest is waiting for an incoming migration")]
    Incoming,
    /// A guest that left, ended or crashed cannot leave.
    #[error("there is no guest to migrate: the machine is '{}'", .0.name())]
    NoGuest(RunState),
    /// `migrate_incoming` without `--incoming defer`.
    #[error("this machine does not wait for a guest: it was started without '--incoming defer'")]
    NotIncoming,
    /// `migrate_incoming` again.
    #[error("this machine waits for a guest already")]
    AlreadyListening,
    /// The place to listen on.
    #[error("cannot listen on {uri}")]
    Listen {
        /// Where.
        uri: Uri,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A command, a file, a descriptor.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// Something that asks or answers where nothing comes back.
    #[error(
        "{0} needs a way back from the destination, and nobody answers on this stream; use tcp:, unix:, or a stream that goes both ways"
    )]
    NoWayBack(&'static str),
    /// Two settings, or one and an address, do not go together.
    #[error(transparent)]
    Rule(#[from] BrokenRule),
    /// Certificates, keys, names.
    #[error("TLS is not possible")]
    Tls(#[from] TlsError),
    /// A thread or an eventfd.
    #[error("the host refused a resource to the migration")]
    Resource(#[source] std::io::Error),
    /// Guest RAM cannot be watched for writes.
    #[error("capability background-snapshot is not possible here")]
    NoBackground(#[source] whimbrel_postcopy::uffd::UffdError),
    /// Pages cannot be demanded.
    #[error("the snapshot's pages could not be given to the guest")]
    NoDemand(#[source] whimbrel_postcopy::uffd::UffdError),
    /// The machine has something that a guest that stays cannot be saved with, or the snapshot is
    /// of another.
    #[error(transparent)]
    Machine(#[from] crate::machine::MachineError),
    /// `savevm` and the like, while a guest's pages are still on their way from the snapshot that
    /// was loaded last.
    #[error("memory of the snapshot that was loaded is still being read: try again in a moment")]
    StillLoading,
    /// `migrate_start_postcopy` and the capability off.
    #[error("postcopy is switched off: enable it with 'migrate_set_capability postcopy-ram on' before the migration")]
    PostcopyOff,
    /// `migrate_start_postcopy`, or a `postcopy-policy` on the way, to a destination without
    /// userfaultfd.
    #[error(
        "the destination cannot do postcopy: userfaultfd is not available to it, or its postcopy-ram is off; the precopy goes on"
    )]
    NoPostcopyThere,
    /// `migrate_start_postcopy` with RAM that is not sent.
    #[error("x-ignore-shared is on: of RAM that is handed over whole nothing is left to be fetched by a postcopy")]
    NothingToFetch,
    /// `migrate_start_postcopy` without a migration.
    #[error("no migration is under way: start one with 'migrate -d' first")]
    NotMigrating,
    /// `migrate_start_postcopy` on the arriving side.
    #[error("postcopy is started on the source of a migration, not on its destination")]
    NotTheSource,
    /// `migrate_cancel` too late.
    #[error(transparent)]
    TooLate(#[from] whimbrel_postcopy::source::TooLate),
    /// `migrate_cancel` on the arriving side.
    #[error("a migration is cancelled on its source; on the destination 'quit' gives up waiting")]
    CancelHere,
    /// `migrate -r`, `migrate_recover` without a paused migration of that side.
    #[error("no paused postcopy migration {0} this machine: there is nothing to recover")]
    NotPaused(&'static str),
    /// `migrate_continue` while nothing waits for it.
    #[error(
        "the migration is '{}', not 'pre-switchover': only a switchover that capability pause-before-switchover holds can be told to go on",
        .0.name()
    )]
    NotHeld(Status),
    /// Something else has the dirty log, or a measurement or a limit of the dirty rate was refused.
    #[error(transparent)]
    Dirty(#[from] DirtyError),
    /// `migrate_pause` outside a postcopy.
    #[error("migrate-pause is currently only supported during postcopy-active or postcopy-recover state")]
    NotPostcopy,
}

/// A stream that is opened where only what answers will do.
pub(super) const NO_WAY_TO_JOIN: CommandRefused = CommandRefused::NoWayBack("joining a postcopy again");
