//! A disk, as the command line says it.

use std::path::PathBuf;

/// One `--disk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// A regular file or a block device.
    pub path: PathBuf,
    /// What it holds. Never guessed: a guest that may write a raw disk from its first byte on could
    /// choose.
    pub format: ImageFormat,
    /// The guest may not write to it, and other readers may share it.
    pub read_only: bool,
    /// What the backing files hold whose format is not written down in the image above them.
    pub backing_format: Option<ImageFormat>,
    /// What the guest reads as the disk's serial number: at most 20 printable ASCII characters; may
    /// be empty.
    pub serial: String,
}

/// The format of a disk image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU's format, version 2 or 3, with backing files.
    Qcow2,
}

impl ImageFormat {
    /// Its name on the command line and in monitors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}
