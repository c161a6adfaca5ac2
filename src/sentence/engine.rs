//! The engine's errors in the words of the command line and of the monitor: which option, parameter
//! or command the user has to change. docs/failure.md quotes these texts.

use std::error::Error;
use std::io;

use whimbrel_postcopy::channel::{ChannelError, TlsError};
use whimbrel_postcopy::error::{MigrationError, PauseNote};
use whimbrel_postcopy::memory::AdoptError;
use whimbrel_postcopy::stream::{MappedError, StreamFileError};
use whimbrel_postcopy::uffd::UffdError;
use whimbrel_postcopy::wire::HelloError;

/// What joins both sides again, as the destination says it.
const RECOVER: &str = "'migrate_recover' here and 'migrate -r' there";

/// What the user is told instead of the error's own words; `None` where those say it all.
pub(super) fn words(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref() {
        return migration(error);
    }
    if let Some(error) = error.downcast_ref() {
        return channel(error);
    }
    if let Some(error) = error.downcast_ref() {
        return tls(error);
    }
    if let Some(error) = error.downcast_ref() {
        return hello(error);
    }
    if let Some(error) = error.downcast_ref() {
        return uffd(error);
    }
    if let Some(error) = error.downcast_ref() {
        return adopt(error);
    }
    if let Some(error) = error.downcast_ref() {
        return mapped(error);
    }
    if let Some(error) = error.downcast_ref() {
        return stream_file(error);
    }
    if let Some(error) = error.downcast_ref() {
        return Some(pause(error));
    }
    // An error of the system that holds another one has that one's words.
    error.downcast_ref::<io::Error>().and_then(io::Error::get_ref).and_then(|inner| words(inner))
}

fn migration(error: &MigrationError) -> Option<String> {
    use MigrationError as E;
    let text = match error {
        E::NoMultifd => "the destination takes no multifd channels: switch capability multifd off and try again",
        E::NoSharedRam => {
            "the destination cannot take this guest's RAM over: it needs a Whimbrel with --memory SIZE,shared=on that waits \
             at a unix: address of this host without TLS"
        }
        E::RamNotShared => {
            "this guest's RAM cannot be handed to another process: switch capability x-ignore-shared off, and its pages are sent"
        }
        E::NoRelease => {
            "the destination does not tell which pages it has: switch capability release-ram off and try again"
        }
        E::NoCompression => {
            "the destination takes no compressed pages: set parameter multifd-compression to none and try again"
        }
        E::NoXbzrle => "the destination takes no changes of pages: switch capability xbzrle off and try again",
        E::Compressor(_) => "pages cannot be compressed: set parameter multifd-compression to none and try again",
        E::Uffd(error) => return uffd(error),
        _ => return None,
    };
    Some(text.to_owned())
}

/// Wrappers that show what they hold.
fn channel(error: &ChannelError) -> Option<String> {
    match error {
        ChannelError::Tls(error) => tls(error),
        ChannelError::File(error) => words(&**error),
        _ => None,
    }
}

fn tls(error: &TlsError) -> Option<String> {
    match error {
        TlsError::File { .. } => Some(format!("{error} (the directory is what 'tls-creds' names)")),
        TlsError::Name(_) => Some(format!("{error}; set 'tls-hostname' to one that the destination's certificate has")),
        TlsError::NoName => Some(format!("{error}; set 'tls-hostname', or clear 'tls-creds' to send in the clear")),
        TlsError::Plain(_) => Some(format!("{error}; set 'tls-creds' on both sides, or on neither")),
        TlsError::OtherName { file, .. } => Some(format!(
            "{error}; set 'tls-hostname' to a name that it has, or give {file} this one as a subject alternative name"
        )),
        TlsError::NameRefused { .. } => Some(format!("{error}; see 'tls-hostname' on the source")),
        _ => None,
    }
}

fn hello(error: &HelloError) -> Option<String> {
    match error {
        HelloError::Tls => Some(format!("{error}; set 'tls-creds' on both sides, or on neither")),
        _ => None,
    }
}

fn uffd(error: &UffdError) -> Option<String> {
    match error {
        UffdError::SharedMemory(_) => Some(format!("{error}; use --memory without shared=on")),
        _ => None,
    }
}

fn adopt(error: &AdoptError) -> Option<String> {
    match error {
        AdoptError::NotShared => Some(format!("{error}: give it --memory SIZE,shared=on")),
        _ => None,
    }
}

fn mapped(error: &MappedError) -> Option<String> {
    match error {
        MappedError::NoDirect(_) => Some(format!("{error}; switch direct-io off to read it")),
        MappedError::NotAligned => Some(format!("{error}, as direct-io needs it; switch direct-io off to read it")),
        _ => None,
    }
}

fn stream_file(error: &StreamFileError) -> Option<String> {
    match error {
        StreamFileError::NotRegular => {
            Some("mapped-ram needs a regular file, in which any place can be written".to_owned())
        }
        StreamFileError::NoDirectIo(why) => {
            Some(format!("its file system does not do direct I/O, so switch direct-io off: {why}"))
        }
        StreamFileError::NotWhole(_) => Some(format!("{error}: read it without lazy=on")),
        StreamFileError::Used => Some(format!("{error}: give it anew with 'migrate -r'")),
        _ => None,
    }
}

fn pause(note: &PauseNote) -> String {
    match note {
        PauseNote::InDoubt(why) => format!(
            "{why}; whether the guest runs on the destination is not known: 'migrate_recover' there and 'migrate -r' here find out"
        ),
        PauseNote::Unheard => {
            format!("every page is here, but the source may not have heard of it: it learns so by {RECOVER}")
        }
        PauseNote::NeverStarted(why) => format!(
            "the guest has not started here and never will; the source, which keeps it, learns so by {RECOVER}: {why}"
        ),
        PauseNote::NotListening(why) => {
            format!("nobody can join again by itself, 'migrate_recover' says where else: {why}")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sentence::sentence;

    /// The words reach the user through everything that an error can be wrapped in.
    #[test]
    fn wrapped_errors_keep_their_words() {
        let plain = || TlsError::NoName;
        let told = "a unix: address names no host to look for in the destination's certificate; set 'tls-hostname', \
                    or clear 'tls-creds' to send in the clear";
        assert_eq!(sentence(&plain()), told);
        assert_eq!(sentence(&ChannelError::Tls(plain())), told);
        assert_eq!(sentence(&io::Error::from(plain())), told);
        let link = MigrationError::Link { peer: "source", source: ChannelError::Tls(plain()) };
        assert_eq!(sentence(&link), format!("the link to the source failed: {told}"));
        let shared = MigrationError::Uffd(UffdError::SharedMemory("ram".into()));
        let told = "RAM block ram is shared memory, which is not watched for writes; use --memory without shared=on";
        assert_eq!(sentence(&shared), told);
    }
}
