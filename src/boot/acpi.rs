//! The ACPI tables: what a guest is told of the machine (ACPI specification 6.5; chapter 5 for the
//! tables).
//!
//! ```text
//! RSDP -> XSDT -> FADT -> FACS
//!                   \---> DSDT     acpi/dsdt.rs: the devices
//!              -> MADT             the interrupt controllers and the vCPUs
//! ```
//!
//! The machine is not a hardware-reduced one: its power button and its sleep register are those of
//! every PC (PM1), which needs neither a driver nor a method in the guest. There is no firmware
//! behind the tables: no SMI, no wake-up, and ACPI mode from the start.

mod dsdt;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use vm_memory::{Bytes, GuestAddress};

use super::BootError;
use super::layout::ACPI;
use crate::devices::{PowerManagement, ResetControl, Rtc};
use crate::kvm::GuestMemory;

const OEM: [u8; 6] = *b"WHMBRL";
const OEM_TABLE: [u8; 8] = *b"WHIMBREL";
const OEM_REVISION: u32 = 1;
/// Bytes of the header that all tables but RSDP and FACS begin with.
const HEADER: u32 = 36;

/// What the tables tell the guest of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// How many vCPUs there are; their APIC ids count from 0.
    pub vcpus: u8,
    /// The virtio-mmio devices, in the order in which the guest finds them.
    pub virtio: Vec<VirtioSlot>,
}

/// A virtio-mmio device as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioSlot {
    /// The guest-physical address of its registers, which are [`VirtioSlot::BYTES`] long. In the
    /// hole below 4 GiB.
    pub address: u32,
    /// Its interrupt: edge-triggered, active high, its own.
    pub gsi: u32,
}

impl VirtioSlot {
    /// The length of a device's registers.
    pub const BYTES: u32 = 0x1000;
}

/// Tables, one after another, each with its guest-physical address.
struct Tables {
    bytes: Vec<u8>,
}

impl Tables {
    /// Adds a table at the next multiple of `alignment`; where the guest will find it.
    fn add(&mut self, table: &dyn Aml, alignment: usize) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
        let address = ACPI.start + self.bytes.len() as u64;
        table.to_aml_bytes(&mut self.bytes);
        address
    }
}

/// Writes all tables, the RSDP first.
pub(super) fn write(inventory: &Inventory, memory: &GuestMemory) -> Result<(), BootError> {
    let bytes = tables(inventory);
    let (length, limit) = (bytes.len() as u64, ACPI.end - ACPI.start);
    if length > limit {
        return Err(BootError::AcpiTooLong { bytes: length, limit });
    }
    memory.write_slice(&bytes, GuestAddress(ACPI.start))?;
    Ok(())
}

/// All tables as they are to be from [`ACPI`]'s start on.
fn tables(inventory: &Inventory) -> Vec<u8> {
    let mut tables = Tables { bytes: vec![0; Rsdp::len()] };
    let facs = tables.add(&FACS::new(), 64);
    let dsdt = tables.add(&dsdt::dsdt(&inventory.virtio), 16);
    let fadt = tables.add(&fadt(facs, dsdt).finalize(), 16);
    let madt = tables.add(&madt(inventory.vcpus), 16);
    let mut xsdt = table(*b"XSDT", 1);
    for address in [fadt, madt] {
        xsdt.append_slice(&address.to_le_bytes());
    }
    let xsdt = tables.add(&xsdt, 16);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    tables.bytes[..rsdp.len()].copy_from_slice(&rsdp);
    tables.bytes
}

/// An empty table.
fn table(signature: [u8; 4], revision: u8) -> Sdt {
    Sdt::new(signature, HEADER, revision, OEM, OEM_TABLE, OEM_REVISION)
}

/// The fixed hardware. Every address is below 4 GiB.
fn fadt(facs: u64, dsdt: u64) -> FADTBuilder {
    /// Devices on the ISA bus (the serial port); no VGA; no message-signalled interrupts. Not set:
    /// a keyboard controller, of which there is only the reset line, and 'no CMOS RTC'.
    const BOOT_ARCHITECTURE: u16 = 1 | 1 << 2 | 1 << 3;
    /// Longer than any that counts: states C2 and C3 are not there.
    const NO_C2: u16 = 101;
    const NO_C3: u16 = 1001;

    let port = |port: u16, bits, access| GAS::new(AddressSpace::SystemIo, bits, 0, access, port.into());
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION);
    // This one alone and not the 64-bit field too: the specification wants one of them to be zero.
    fadt.firmware_ctrl = (facs as u32).into();
    fadt.dsdt = (dsdt as u32).into();
    fadt.x_dsdt = dsdt.into();
    fadt.sci_int = (PowerManagement::IRQ as u16).into();
    fadt.pm1a_evt_blk = u32::from(PowerManagement::PORT).into();
    fadt.pm1_evt_len = PowerManagement::EVENT_PORTS as u8;
    fadt.x_pm1a_evt_blk = port(PowerManagement::PORT, 32, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = u32::from(PowerManagement::CONTROL_PORT).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = port(PowerManagement::CONTROL_PORT, 16, AccessSize::WordAccess);
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = Rtc::CENTURY;
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.reset_reg = port(ResetControl::PORT, 8, AccessSize::ByteAccess);
    fadt.reset_value = ResetControl::RESET_VALUE;
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(OEM_TABLE).into();
    fadt.flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // These two say what is not there: a sleep button among the fixed hardware, and waking up
        // by the RTC.
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
}

/// The interrupt controllers. `acpi_tables` has a table of its own for it, but without the flag for
/// the 8259s and without the two structures at the end.
fn madt(vcpus: u8) -> Sdt {
    const LAPIC: u32 = 0xfee0_0000;
    const IOAPIC: u32 = 0xfec0_0000;
    /// Two 8259s, as in an AT, are there too.
    const PCAT_COMPAT: u32 = 1;
    /// Interrupt flags: active high; level-triggered.
    const HIGH_LEVEL: u8 = 1 | 3 << 2;
    const EVERY_PROCESSOR: u8 = 0xff;
    const LINT1: u8 = 1;
    const SCI: u8 = PowerManagement::IRQ as u8;

    let mut body = Vec::new();
    body.extend(LAPIC.to_le_bytes());
    body.extend(PCAT_COMPAT.to_le_bytes());
    for index in 0..vcpus {
        ProcessorLocalApic::new(index, index, EnabledStatus::Enabled).to_aml_bytes(&mut body);
    }
    IoApic::new(0, IOAPIC, 0).to_aml_bytes(&mut body);
    // Interrupt source override: the SCI stays where it is, but is not as ISA has it,
    // edge-triggered.
    body.extend([2, 10, 0, SCI, SCI, 0, 0, 0, HIGH_LEVEL, 0]);
    // Local APIC NMI.
    body.extend([4, 6, EVERY_PROCESSOR, 0, 0, LINT1]);
    let mut madt = table(*b"APIC", 5);
    madt.append_slice(&body);
    madt
}

#[cfg(test)]
mod tests;
