//! The DSDT: the devices that a guest cannot find by itself, in ACPI's machine language (chapters
//! 6, 19 and 20).

use acpi_tables::Aml;
use acpi_tables::aml::{Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate, Scope, ZERO};
use acpi_tables::sdt::Sdt;

use super::{VirtioSlot, table};
use crate::chardev::Output;
use crate::devices::{PowerManagement, Rtc, Serial};

/// The table, with the devices of the machine and those at `virtio`.
pub(super) fn dsdt(virtio: &[VirtioSlot]) -> Sdt {
    let mut devices = Vec::new();
    serial(&mut devices);
    clock(&mut devices);
    for (number, slot) in virtio.iter().enumerate() {
        virtio_mmio(number, slot, &mut devices);
    }
    let mut body = Scope::raw("_SB_".into(), devices);
    soft_off(&mut body);
    // From revision 2 on integers have 64 bits.
    let mut table = table(*b"DSDT", 2);
    table.append_slice(&body);
    table
}

/// `_S5`: what to write into the sleep register to power off. There is no other sleep state.
fn soft_off(aml: &mut Vec<u8>) {
    let kind = PowerManagement::SOFT_OFF;
    Name::new("_S5_".into(), &Package::new(vec![&kind, &kind, &ZERO, &ZERO])).to_aml_bytes(aml);
}

fn serial(aml: &mut Vec<u8>) {
    let (first, ports) = (Serial::<Output>::PORT, Serial::<Output>::PORTS);
    Device::new(
        "COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&IO::new(first, first, 1, ports as u8), &edge(Serial::<Output>::IRQ)]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

/// The RTC, which has no interrupt.
fn clock(aml: &mut Vec<u8>) {
    Device::new(
        "RTC_".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0B00")),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&IO::new(Rtc::PORT, Rtc::PORT, 1, Rtc::PORTS as u8)]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

/// `LNRO0005` is what Linux knows a virtio-mmio device by.
fn virtio_mmio(number: usize, slot: &VirtioSlot, aml: &mut Vec<u8>) {
    let registers = Memory32Fixed::new(true, slot.address, VirtioSlot::BYTES);
    Device::new(
        format!("VR{:02X}", number & 0xff).as_str().into(),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &number),
            // Its accesses to memory are coherent with the processors' caches.
            &Name::new("_CCA".into(), &1u8),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&registers, &edge(slot.gsi)])),
        ],
    )
    .to_aml_bytes(aml);
}

/// An interrupt that is edge-triggered, active high, and nobody else's.
fn edge(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}
