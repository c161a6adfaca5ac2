//! Why a migration failed, paused or was refused: each text is a sentence for the user.

use crate::advice::advice;
use crate::channel::ChannelError;
use crate::encoding::EncodingError;
use crate::guest::GuestError;
use crate::ram::PageRun;
use crate::uffd::UffdError;

/// What ended or paused a migration.
#[derive(Debug, thiserror::Error)]
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
    #[error("the destination takes no multifd channels: switch capability multifd off and try again")]
    NoMultifd,
    /// The destination maps no RAM of another process.
    #[error(
        "the destination cannot take this guest's RAM over: it needs a Whimbrel with --memory SIZE,shared=on that waits at a unix: address of this host without TLS"
    )]
    NoSharedRam,
    /// RAM that no other process can map.
    #[error(
        "this guest's RAM cannot be handed to another process: switch capability x-ignore-shared off, and its pages are sent"
    )]
    RamNotShared,
    /// Files that cannot be the guest's RAM.
    #[error("the source hands {0} over as this guest's RAM")]
    WrongFiles(String),
    /// The destination cannot say which pages it has while the guest runs there.
    #[error("the destination does not tell which pages it has: switch capability release-ram off and try again")]
    NoRelease,
    /// Pages that this side let go of on the destination's word.
    #[error(
        "the destination no longer has {0} pages that it had, and that were released here because it had them: they are nowhere, and the guest is lost"
    )]
    PagesReleased(u64),
    /// The destination is of a time before compressed pages.
    #[error("the destination takes no compressed pages: set parameter multifd-compression to none and try again")]
    NoCompression,
    /// The destination is of a time before deltas.
    #[error("the destination takes no changes of pages: switch capability xbzrle off and try again")]
    NoXbzrle,
    /// The host has no memory for what compresses.
    #[error("pages cannot be compressed: set parameter multifd-compression to none and try again")]
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

/// An error with everything that caused it, in one sentence. What a peer said is a part of some: it
/// gets no line of its own in a log, and no say over a terminal.
pub fn sentence(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Transparent wrappers say the same twice.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    // The system's words say what is wrong, and not what to do about it.
    if let Some(advice) = system_error(error).and_then(advice) {
        text.push_str("; ");
        text.push_str(advice);
    }
    if text.contains(char::is_control) { text.replace(char::is_control, " ") } else { text }
}

/// The last error of the system among the causes.
fn system_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a std::io::Error> {
    std::iter::successors(Some(error), |error| error.source()).filter_map(|error| error.downcast_ref()).last()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fuzzing found that a RAM block's name, as the source gave it, put a line of its own into the
    /// destination's log and monitor.
    #[test]
    fn a_sentence_is_one_line_whatever_the_peer_said() {
        let error = MigrationError::RamDiffers("block ram\nerror: all is well\x1b[2J".into());
        assert_eq!(sentence(&error), "RAM differs: block ram error: all is well [2J");
    }

    #[test]
    fn causes_are_told_once_each() {
        let error = MigrationError::Connect(std::io::Error::other("no route"));
        assert_eq!(sentence(&error), "cannot connect to the destination: no route");
    }

    #[test]
    fn what_the_system_says_is_followed_by_what_to_do() {
        let error = MigrationError::Connect(std::io::Error::from_raw_os_error(111));
        assert_eq!(
            sentence(&error),
            "cannot connect to the destination: Connection refused (os error 111); \
             nobody listens there: start the other side first, and check the address"
        );
    }
}
