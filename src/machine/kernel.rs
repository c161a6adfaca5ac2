//! Loading a kernel, and pointing the first vCPU at it.

use std::sync::Arc;

use super::MachineError;
use crate::boot::acpi::Inventory;
use crate::boot::{self, EntryPoint};
use crate::config::BootConfig;
use crate::kvm::GuestRam;
use crate::vcpu::{self, LongMode, Vcpu};

/// Loads the kernel and puts vCPU 0, which is in the state of a machine just switched on, at its
/// entry.
pub(super) fn enter(
    boot: &BootConfig,
    inventory: &Inventory,
    ram: &GuestRam,
    vcpus: &[Arc<Vcpu>],
) -> Result<(), MachineError> {
    let entry = boot::load(boot, ram, inventory)?;
    let Some(first) = vcpus.first() else {
        return Ok(());
    };
    let vcpu = first.lock();
    match entry {
        EntryPoint::Pvh { address, start_info } => vcpu::enter_pvh(&vcpu, address, start_info)?,
        EntryPoint::Linux64 { address, zero_page, page_tables, gdt } => {
            let tables = LongMode { page_tables, gdt, gdt_limit: boot::GDT_LIMIT };
            vcpu::enter_linux64(&vcpu, address, zero_page, tables)?;
        }
    }
    Ok(())
}
