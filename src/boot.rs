//! Putting a kernel into guest RAM, with its command line, its initrd and what it is told of the
//! machine.
//!
//! | file | what is in it |
//! |---|---|
//! | `load` | all of it, in the kernel's own way |
//! | `place` | where a part may be, and its bytes there |
//! | `image` | a kernel's bytes and what they are |
//! | `elf` | an ELF's headers |
//! | `foreign` | files that are something else, told as what they are |
//! | `pvh` | an ELF with a PVH note |
//! | `linux64` | a bzImage, by Linux's 64-bit boot protocol |
//! | `acpi` | the tables that describe the machine |
//! | `layout`, `memory_map` | where everything is, and what the guest is told of that |

pub mod acpi;
mod config;
mod elf;
mod error;
mod foreign;
mod image;
mod layout;
mod linux64;
mod load;
mod memory_map;
mod place;
mod pvh;
#[cfg(test)]
pub(crate) mod testing;

pub use config::{BootConfig, Kernel};
pub use error::BootError;
pub use image::KernelImage;
pub use layout::{RAM_ABOVE_HOLE, ram_ranges};
pub use linux64::GDT_LIMIT;
pub use load::load;

/// Where and how the first vCPU begins. All addresses are guest-physical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryPoint {
    /// In 32-bit protected mode with paging off, as PVH has it.
    Pvh {
        /// The first instruction.
        address: u64,
        /// The start info, for EBX.
        start_info: u64,
    },
    /// In long mode, as Linux's 64-bit boot protocol has it.
    Linux64 {
        /// The first instruction.
        address: u64,
        /// The boot parameters, for RSI.
        zero_page: u64,
        /// The page tables, for CR3; the first 4 GiB are mapped to themselves.
        page_tables: u64,
        /// The segment descriptors: `__BOOT_CS` and `__BOOT_DS` are where the protocol wants them.
        gdt: u64,
    },
}
