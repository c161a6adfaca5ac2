//! Why a migration failed, paused or was refused.
//!
//! Errors are types to match on; their own words say what happened, and nothing of the monitor
//! around the engine. The monitor says what its users can do about it: in its own output by
//! matching, and where the engine itself puts an error into words by [`set_sentence`].

use std::error::Error;
use std::sync::OnceLock;

use crate::channel::ChannelError;
use crate::encoding::EncodingError;
use crate::guest::GuestError;
use crate::ram::PageRun;
use crate::uffd::UffdError;

/// What ended or paused a migration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrationError {
    /// No connection.
    #[error("cannot connect to the destination")]
    Connect(#[source] std::io::Error),
    /// The link broke, or something that is no message came over it.
    #[error("the link to the {peer} failed")]
    Link {
        /// `source` or `destination`.
        peer: &'static str,
        /// How.
        #[source]
        source: ChannelError,
    },
    /// The virtual machine itself failed.
    #[error("the virtual machine failed to {doing}")]
    Guest {
        /// What it was to do.
        doing: &'static str,
        /// Why it could not.
        #[source]
        source: GuestError,
    },
    /// The destination will not take the guest.
    #[error("the destination did not start the guest: {0}")]
    NotStarted(String),
    /// The destination cannot do postcopy.
    #[error("the destination cannot do postcopy: userfaultfd is not available to it")]
    NoPostcopy,
    /// The destination knows no multifd channels.
    #[error("the destination takes no multifd channels")]
    NoMultifd,
    /// The destination maps no RAM of another process.
    #[error(
        "the destination cannot take this guest's RAM over: its own RAM must be shared memory, and the channel a unix socket without TLS"
    )]
    NoSharedRam,
    /// RAM that no other process can map.
    #[error("this guest's RAM cannot be handed to another process")]
    RamNotShared,
    /// Files that cannot be the guest's RAM.
    #[error("the source hands {0} over as this guest's RAM")]
    WrongFiles(String),
    /// The destination cannot say which pages it has while the guest runs there.
    #[error("the destination does not tell which pages it has")]
    NoRelease,
    /// Pages that this side let go of on the destination's word.
    #[error(
        "the destination no longer has {0} pages that it had, and that were released here because it had them: they are nowhere, and the guest is lost"
    )]
    PagesReleased(u64),
    /// The destination is of a time before compressed pages.
    #[error("the destination takes no compressed pages")]
    NoCompression,
    /// The destination is of a time before deltas.
    #[error("the destination takes no XBZRLE pages")]
    NoXbzrle,
    /// The host has no memory for what compresses.
    #[error("pages cannot be compressed")]
    Compressor(#[source] std::io::Error),
    /// Contents that no pages can be made of.
    #[error("the peer sent {run} in a way that cannot be read")]
    Encoding {
        /// Which.
        run: PageRun,
        /// What is wrong with it.
        #[source]
        source: EncodingError,
    },
    /// A message that has no place here.
    #[error("the peer sent '{0}' where the protocol does not allow it")]
    OutOfOrder(&'static str),
    /// The source says it keeps the guest.
    #[error("the guest stays on the source: {0}")]
    Cancelled(String),
    /// Something in a message does not fit this guest.
    #[error("the peer named {0}, which this guest does not have")]
    NoSuchPages(String),
    /// A request that is too large.
    #[error("the peer asked for {0}")]
    Refused(String),
    /// Pages that neither side holds to be the other's.
    #[error("{0} pages were never sent although the source counts them as sent")]
    PagesMissing(u64),
    /// The RAM of both sides differs.
    #[error("RAM differs: {0}")]
    RamDiffers(String),
    /// A guest that stays could not be written down.
    #[error("the stream could not be written: {0}")]
    Unwritten(#[source] std::io::Error),
    /// It was written, and may be lost.
    #[error("the stream is not safe: {0}")]
    Unsafe(#[source] std::io::Error),
    /// userfaultfd.
    #[error(transparent)]
    Uffd(#[from] UffdError),
    /// A thread of the engine could not be started or died.
    #[error("the migration's {0} thread died")]
    ThreadDied(&'static str),
    /// A fault of the engine or of the virtual machine monitor.
    #[error("the migration's {thread} thread panicked: {what}")]
    Panicked {
        /// Which one.
        thread: &'static str,
        /// The panic's own words.
        what: String,
    },
    /// The system refused something small: an eventfd, a thread.
    #[error("the host refused a resource to the migration")]
    Resource(#[from] std::io::Error),
    /// The process ends, or gave the migration up.
    #[error("this side was told to end")]
    Abandoned,
    /// The user broke the link.
    #[error("the link was broken by the user")]
    PausedByUser,
}

/// The error of a migration whose guest failed to do `doing`.
pub(crate) fn failed_to(doing: &'static str) -> impl Fn(GuestError) -> MigrationError {
    move |source| MigrationError::Guest { doing, source }
}

/// What the engine says of a migration that is paused, besides why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PauseNote {
    /// Source: the link broke, for this reason, before the destination said that the guest runs.
    #[error("{0}; whether the guest runs on the destination is not known")]
    InDoubt(String),
    /// Destination: the migration is complete, and the source has not confirmed that it knows.
    #[error("every page is here, but the source may not have heard of it")]
    Unheard,
    /// Destination: the guest was not started, for this reason, and the source does not know yet.
    #[error("the guest has not started here and never will; the source, which keeps it, does not know yet: {0}")]
    NeverStarted(String),
    /// Destination: the address of this migration cannot be listened on again.
    #[error("cannot listen for the source again: {0}")]
    NotListening(std::io::Error),
}

/// Puts an error, with its causes, into one sentence.
pub type Sentence = fn(&(dyn Error + 'static)) -> String;

static SENTENCE: OnceLock<Sentence> = OnceLock::new();

/// From now on the engine's log lines, the reasons in its statistics and those that it gives the
/// other side are put into words by this. For the whole process; the first call wins. Without one
/// an error is its own words and those of its causes.
pub fn set_sentence(sentence: Sentence) {
    let _ = SENTENCE.set(sentence);
}

/// An error with everything that caused it, in one sentence of one line.
pub fn sentence(error: &(dyn Error + 'static)) -> String {
    let text = SENTENCE.get().map_or_else(|| chain(error), |sentence| sentence(error));
    // A part of some errors is what a peer sent: it gets no line of its own in a log.
    if text.contains(char::is_control) { text.replace(char::is_control, " ") } else { text }
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        // Transparent wrappers say the same twice.
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_its_words_and_those_of_its_causes_in_one_line() {
        let error = MigrationError::RamDiffers("block ram\nerror: all is well\x1b[2J".into());
        assert_eq!(sentence(&error), "RAM differs: block ram error: all is well [2J");
        let error = MigrationError::Connect(std::io::Error::other("no route"));
        assert_eq!(sentence(&error), "cannot connect to the destination: no route");
    }
}
