//! Putting a kernel into guest RAM: an ELF with a PVH note, its command line and its initrd.

mod error;
mod image;
mod layout;
mod pvh;
#[cfg(test)]
pub(crate) mod testing;

pub use error::BootError;
pub use image::KernelImage;
pub use layout::{RAM_ABOVE_HOLE, ram_ranges};
pub use pvh::{EntryPoint, load};
