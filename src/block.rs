//! Disk images: raw and qcow2 files and block devices, and the locks that keep two writers apart.
//!
//! | file | what is in it |
//! |---|---|
//! | `image` | [`Image`]: one disk's image, closed or open; reads, writes, flushes |
//! | `chain` | opening an image with the files it stands on (backing files, external data) |
//! | `header` | what a qcow2 file says of itself; what is refused |
//! | `tables` | what has to be in a qcow2 file before something else is |
//! | `storage` | `Guarded`: a file as the crate has it, with that order kept |
//! | `lock` | the locks on those files, where QEMU and qemu-img look for them |
//! | `status` | what others than its owner know and may ask of an image |
//! | `error` | what can go wrong, each naming the file |
//!
//! The formats themselves are the `imago` crate's, which takes no locks. Nothing in here knows of
//! virtio or of migration.

mod chain;
mod config;
mod error;
#[cfg(test)]
mod fuse;
mod header;
mod image;
pub mod lock;
mod status;
mod storage;
mod tables;

pub use config::{DiskConfig, ImageFormat};
pub use error::BlockError;
pub use image::{Image, Shape, Zeroes};
pub use status::{DiskInfo, Opened, Status};
