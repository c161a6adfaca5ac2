//! What is wrong with a stream that a guest is read from, for whoever knows of a file or a command
//! and of no link and no peer.

use crate::channel::ChannelError;
use crate::error::{MigrationError, sentence};
use crate::wire::HelloError;

/// What is wrong with the stream.
pub fn stream_fault(error: &ChannelError) -> String {
    const CUT_OFF: &str = "it was cut off, or never written to its end";
    match error {
        ChannelError::Closed(None) => format!("it ends too early: {CUT_OFF}"),
        ChannelError::Closed(Some(message)) => format!("it ends too early, in message '{message}': {CUT_OFF}"),
        ChannelError::Hello(HelloError::Magic(_)) => {
            "it does not begin as what Whimbrel writes: it is something else, compressed, or damaged".to_owned()
        }
        ChannelError::Hello(error) => sentence(error),
        ChannelError::Decode(error) => format!("it is damaged: {}", sentence(error)),
        ChannelError::Io(error) => sentence(error),
        other => sentence(other),
    }
}

/// The same of all that can end its reading.
pub(crate) fn reading_fault(error: &MigrationError) -> String {
    let fault = match error {
        MigrationError::Link { source: ChannelError::Interrupted, .. } => return sentence(error),
        MigrationError::Link { source, .. } => stream_fault(source),
        MigrationError::OutOfOrder(message) => format!("it is damaged: message '{message}' has no place there"),
        MigrationError::NoSuchPages(what) => format!("it is damaged, or of another guest: it names {what}"),
        MigrationError::Encoding { run, source } => format!("it is damaged: {run}: {}", sentence(source)),
        MigrationError::Cancelled(why) => format!("it was given up before its end: {why}"),
        other => return sentence(other),
    };
    format!("no guest can be read from the stream: {fault}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file has no peer and no link, and no side on which a guest could have stayed.
    #[test]
    fn a_stream_is_told_as_a_stream() {
        let link = |source| MigrationError::Link { peer: "source", source };
        for error in [
            link(ChannelError::Closed(Some("pages"))),
            link(ChannelError::Closed(None)),
            link(ChannelError::Hello(HelloError::Magic(*b"QFI\xfb\0\0\0\x03"))),
            link(ChannelError::Io(std::io::Error::from_raw_os_error(5))),
            MigrationError::OutOfOrder("hello"),
            MigrationError::NoSuchPages("pages of block 7".to_owned()),
            MigrationError::Cancelled("the migration was cancelled".to_owned()),
        ] {
            let text = reading_fault(&error);
            for word in ["link", "peer", "stays on the source", "0x", "51, "] {
                assert!(!text.contains(word), "{text}");
            }
            assert!(
                text.starts_with("no guest can be read from the stream: it ") || text.contains("os error"),
                "{text}"
            );
        }
    }
}
