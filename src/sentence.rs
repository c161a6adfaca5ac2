//! Errors as sentences for users.
//!
//! The migration engine's errors say what happened. `engine` says the same in the words of the
//! command line and of the monitor, and what to do about it; `advice` says what to do about an
//! error of the system.

mod advice;
mod engine;

use std::error::Error;
use std::io;

/// An error with everything that caused it, in one sentence of one line, followed by what to do
/// where the system's own words leave that open.
pub fn sentence(error: &(dyn Error + 'static)) -> String {
    let mut text = own_words(error);
    let mut source = error.source();
    while let Some(cause) = source {
        let words = own_words(cause);
        // Transparent wrappers say the same twice.
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    if let Some(advice) = system_error(error).and_then(advice::advice) {
        text.push_str("; ");
        text.push_str(advice);
    }
    // A part of some errors is what a peer sent: it gets no line of its own in a log, and no
    // control over a terminal.
    if text.contains(char::is_control) { text.replace(char::is_control, " ") } else { text }
}

/// Has the engine use these sentences wherever it puts an error into words itself: in its log
/// lines, in the reason that its statistics show, and in what it tells the other side.
pub fn install() {
    whimbrel_postcopy::error::set_sentence(sentence);
}

/// One error without its causes.
fn own_words(error: &(dyn Error + 'static)) -> String {
    engine::words(error).unwrap_or_else(|| error.to_string())
}

/// The last error of the system among the causes.
fn system_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    std::iter::successors(Some(error), |error| (**error).source()).filter_map(|error| error.downcast_ref()).last()
}

#[cfg(test)]
mod tests {
    use whimbrel_postcopy::error::MigrationError;

    use super::*;

    /// Fuzzing found that a RAM block's name, as the source gave it, put a line of its own into the
    /// destination's log and monitor.
    #[test]
    fn a_sentence_is_one_line_whatever_the_peer_said() {
        let error = MigrationError::RamDiffers("block ram\nerror: all is well\x1b[2J".into());
        assert_eq!(sentence(&error), "RAM differs: block ram error: all is well [2J");
    }

    #[test]
    fn every_cause_is_said_once() {
        let error = MigrationError::Connect(io::Error::other("no route"));
        assert_eq!(sentence(&error), "cannot connect to the destination: no route");
    }

    #[test]
    fn what_the_system_says_is_followed_by_what_to_do() {
        let error = MigrationError::Connect(io::Error::from_raw_os_error(111));
        assert_eq!(
            sentence(&error),
            "cannot connect to the destination: Connection refused (os error 111); \
             nobody listens there: start the other side first, and check the address"
        );
    }
}
