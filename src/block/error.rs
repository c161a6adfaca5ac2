//! What can go wrong with a disk image. Every message names the file.

use std::io;
use std::path::PathBuf;

use super::config::ImageFormat;

/// A disk image that cannot be used, or a request to it that failed.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// Missing, or no permission.
    #[error("the disk image '{}' cannot be opened", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory, FIFO or the like.
    #[error("'{}' is no disk image: give a regular file or a block device", .0.display())]
    NotADisk(PathBuf),
    /// Somebody writes to it.
    #[error(
        "the disk image '{}' is being written by another process, maybe on another host: end that first, for two users \
         of one image destroy it",
        .0.display()
    )]
    Written(PathBuf),
    /// Somebody reads it and relies on its staying as it is.
    #[error(
        "the disk image '{}' is in use by another process, maybe on another host, that lets nobody else write to it: \
         end that first, or open it with 'readonly' on both sides",
        .0.display()
    )]
    Guarded(PathBuf),
    /// The file system knows no locks, or its lock server does not answer.
    #[error(
        "the disk image '{}' cannot be locked, so nothing would keep a second virtual machine from writing to it: put \
         it on a file system with working locks (over NFS: version 4, or a running lock daemon)",
        path.display()
    )]
    NoLocks {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// Not of the format that it should have, damaged, or with a feature that is not built.
    #[error("the disk image '{}' cannot be read as {}", path.display(), format.name())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it should be.
        format: ImageFormat,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// Its content would be served as ciphertext.
    #[error("the disk image '{}' is encrypted, which is not supported: convert it with 'qemu-img convert'", .0.display())]
    Encrypted(PathBuf),
    /// A feature that is not built, or a state in which it must not be used.
    #[error("the disk image '{}' {what}: {advice}", path.display())]
    Feature {
        /// The file.
        path: PathBuf,
        /// Fits behind its name.
        what: String,
        /// What to do.
        advice: String,
    },
    /// The header names a backing file, but not its format.
    #[error(
        "the disk image '{}' does not say of what format its backing file '{backing}' is, and guessing would let a guest \
         choose: say it with backing-format=raw or backing-format=qcow2, or write it down with 'qemu-img rebase -u -b {backing} -F raw {0}' \
         (or -F qcow2)",
        path.display()
    )]
    BackingFormat {
        /// The image on top.
        path: PathBuf,
        /// What it stands on.
        backing: String,
    },
    /// The format of a backing file was given, and there is none, or all have another that is
    /// written down.
    #[error(
        "backing-format={} does not fit the disk image '{}', {}",
        format.name(), path.display(),
        if *backed { "which names the formats of its backing files itself" } else { "which has no backing file" }
    )]
    NoSuchBacking {
        /// The image on top.
        path: PathBuf,
        /// What was given.
        format: ImageFormat,
        /// Whether it has a backing file.
        backed: bool,
    },
    /// The header names something that is no file.
    #[error("the disk image '{}' refers to '{name}', which is not supported: only files and block devices are", path.display())]
    Reference {
        /// The image on top.
        path: PathBuf,
        /// What it refers to.
        name: String,
    },
    /// A file that is part of its own chain.
    #[error("the disk image '{}' is its own backing file, directly or by way of others: rebase it", .0.display())]
    Loop(PathBuf),
    /// No whole number of sectors, or none at all.
    #[error("the disk image '{}' has {size} bytes, which makes no disk: it must be a multiple of 512, and not 0", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its capacity in bytes.
        size: u64,
    },
    /// It was handed over or is yet to be taken.
    #[error("the disk image '{}' is not open", .0.display())]
    Closed(PathBuf),
    /// A write to what must not be written.
    #[error("the disk image '{}' is open for reading only", .0.display())]
    ReadOnly(PathBuf),
    /// Beyond the end.
    #[error("'{}' has {capacity} bytes: {length} bytes at {offset} are not all inside", path.display())]
    Range {
        /// The file.
        path: PathBuf,
        /// First byte.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// Size of the disk in bytes.
        capacity: u64,
    },
    /// The host failed to carry a request out.
    #[error("{what} the disk image '{}' failed", path.display())]
    Io {
        /// Reading, writing to, ...: fits before "the disk image".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
