//! The launcher: a process beside `whimbrel run` that makes files and starts commands for it.
//!
//! In the sandbox no thread can do either, and none ever can again. So the process splits in two
//! before it gives that up: the half that has the guest, and this one, which has nothing but a
//! socket to it. It does what `migrate exec:COMMAND` and `migrate file:PATH` say, as the user who
//! started the virtual machine. `--no-exec` runs without it;
//! [`SECURITY.md`](../../docs/SECURITY.md) says what that is worth.

mod client;
mod serve;

pub use client::{End, Launcher, Reader, Talker, Writer};
pub use serve::serve;

/// The hidden subcommand, as which the launcher runs.
pub const SUBCOMMAND: &str = "launcher";

/// The longest request, in bytes: a command line.
const MAX_REQUEST: usize = 64 * 1024;
/// The longest answer.
const MAX_ANSWER: usize = 1024;

/// What is asked for; its number is a request's first byte, a path or a command follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// A file to write to, made if there is none: gives it.
    File = b'f' as isize,
    /// A file that is made anew, whatever was there: gives it.
    New = b'n' as isize,
    /// A file that takes another's name: what is asked for is both, with a NUL between them.
    /// Returns when that is safe.
    Rename = b'm' as isize,
    /// A file that goes.
    Remove = b'd' as isize,
    /// A command that reads what is written to it: gives the pipe, and what its end is told on.
    Reader = b'r' as isize,
    /// A command that is read from: gives the pipe, the one from which it can read, and what its
    /// end is told on.
    Writer = b'w' as isize,
    /// A command that reads what is written to it and may answer: gives the pipe to it, the one
    /// from it, and what its end is told on.
    Both = b'b' as isize,
}

impl Request {
    fn of(byte: u8) -> Option<Self> {
        [Self::File, Self::New, Self::Rename, Self::Remove, Self::Reader, Self::Writer, Self::Both]
            .into_iter()
            .find(|request| *request as u8 == byte)
    }
}

/// The most descriptors that come with an answer.
const MOST_FDS: usize = 3;

/// How an answer begins.
const DONE: u8 = b'+';
/// What follows is the system's number of the error as a little-endian `i32`, 0 where it has none,
/// and its words.
const NOT_DONE: u8 = b'-';

/// What is written where a command's end is told, if it ended well; its exit status in words if
/// not.
const ENDED_WELL: &[u8] = b"+";

/// Why something was not launched.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// The process runs with `--no-exec`.
    #[error("'{0}' cannot be {1}: this virtual machine runs with --no-exec")]
    Off(String, &'static str),
    /// The launcher could not do it.
    #[error("'{what}' cannot be {doing}: {source}")]
    Refused {
        /// The path or the command.
        what: String,
        /// What was to be done to it.
        doing: &'static str,
        /// The system's words.
        source: std::io::Error,
    },
    /// The launcher does not answer.
    #[error("the process that starts commands is gone")]
    Gone(#[source] std::io::Error),
}
