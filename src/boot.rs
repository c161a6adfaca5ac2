//! Putting a kernel into guest RAM, with its command line, its initrd and what it is told of the
//! machine.
//!
//! | file | what is in it |
//! |---|---|
//! | `load` | all of it, in the kernel's own way |
//! | `image` | a kernel's bytes and what they are |
//! | `elf` | an ELF's headers |
//! | `foreign` | files that are something else, told as what they are |
//! | `pvh` | an ELF with a PVH note |
//! | `linux64` | a bzImage, by Linux's 64-bit boot protocol |
//! | `acpi` | the tables that describe the machine |
//! | `layout`, `memory_map` | where everything is, and what the guest is told of that |

pub mod acpi;
mod elf;
mod error;
mod foreign;
mod image;
mod layout;
mod linux64;
mod load;
mod memory_map;
mod pvh;
#[cfg(test)]
pub(crate) mod testing;

pub use error::BootError;
pub use image::KernelImage;
pub use layout::{RAM_ABOVE_HOLE, ram_ranges};
pub use linux64::GDT_LIMIT;
pub use load::{EntryPoint, load};
