//! Loading everything that a boot needs into guest RAM.

use super::acpi::{self, Inventory};
use super::config::BootConfig;
use super::image::{Format, KernelImage};
use super::{BootError, EntryPoint, linux64, pvh};
use crate::kvm::GuestRam;

/// Loads everything that `boot` names into guest RAM, and tables that tell it of `inventory`. Used
/// for the first boot and for every reset: nothing that it needs is left as the guest may have
/// changed it.
pub fn load(boot: &BootConfig, ram: &GuestRam, inventory: &Inventory) -> Result<EntryPoint, BootError> {
    let kernel = KernelImage::read(&boot.kernel)?;
    let entry = match kernel.format()? {
        Format::Elf => pvh::load(&kernel, boot, ram)?,
        Format::BzImage => linux64::load(&kernel, boot, ram)?,
    };
    acpi::write(inventory, ram.memory())?;
    Ok(entry)
}
