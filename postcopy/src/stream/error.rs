//! [`StreamFileError`]: why a file or a pipe cannot be what a stream is written to or read from.

use std::io;

/// Why a file or a pipe cannot be what a stream is written to or read from. It reaches the caller
/// inside of an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamFileError {
    /// A file with mapped RAM is to be written, and this is something else than a regular file.
    #[error("pages with places of their own need a regular file, in which any place can be written")]
    NotRegular,
    /// The file system has no `O_DIRECT`.
    #[error("its file system does not do direct I/O: {0}")]
    NoDirectIo(io::Error),
    /// The stream has messages of this name, whose pages refer to others: none of them can be read
    /// alone.
    #[error("its pages are not whole ('{0}'), so that none can be read alone")]
    NotWhole(&'static str),
    /// A migration that is recovered needs another stream.
    #[error("a stream cannot be opened again")]
    Used,
}
