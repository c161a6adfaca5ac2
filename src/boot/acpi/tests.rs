#![allow(clippy::unwrap_used)]

use super::*;

fn inventory(vcpus: u8, devices: u32) -> Inventory {
    let virtio = (0..devices).map(|n| VirtioSlot { address: 0xd000_0000 + n * 0x1000, gsi: 16 + n }).collect();
    Inventory { vcpus, virtio }
}

fn word(bytes: &[u8], at: usize, length: usize) -> u64 {
    let mut word = [0; 8];
    word[..length].copy_from_slice(&bytes[at..at + length]);
    u64::from_le_bytes(word)
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The table at a guest-physical address, its header checked.
fn table_at<'a>(tables: &'a [u8], address: u64, signature: &[u8; 4]) -> &'a [u8] {
    let start = (address - ACPI.start) as usize;
    assert_eq!(&tables[start..start + 4], signature);
    let table = &tables[start..start + word(tables, start + 4, 4) as usize];
    assert_eq!(sum(table), 0, "checksum of {}", String::from_utf8_lossy(signature));
    table
}

/// All tables found from the RSDP, as a guest does it.
fn walk(tables: &[u8]) -> (&[u8], &[u8], &[u8]) {
    assert_eq!(&tables[..8], b"RSD PTR ");
    assert_eq!((sum(&tables[..20]), sum(&tables[..36])), (0, 0));
    let xsdt = table_at(tables, word(tables, 24, 8), b"XSDT");
    assert_eq!(xsdt.len(), 36 + 2 * 8);
    let fadt = table_at(tables, word(xsdt, 36, 8), b"FACP");
    let madt = table_at(tables, word(xsdt, 44, 8), b"APIC");
    assert_eq!(word(fadt, 40, 4), word(fadt, 140, 8));
    let dsdt = table_at(tables, word(fadt, 140, 8), b"DSDT");
    (fadt, madt, dsdt)
}

#[test]
fn the_fixed_hardware_is_where_the_device_is() {
    let tables = tables(&inventory(1, 0));
    let (fadt, ..) = walk(&tables);
    assert_eq!(fadt.len(), 276);
    assert_eq!(word(fadt, 46, 2), 9, "SCI");
    assert_eq!(word(fadt, 48, 4), 0, "no SMI: ACPI mode from the start");
    assert_eq!((word(fadt, 56, 4), word(fadt, 64, 4)), (0x600, 0x604));
    assert_eq!((fadt[88], fadt[89], fadt[91]), (4, 2, 0));
    assert_eq!(fadt[108], 0x32);
    assert_eq!(word(fadt, 109, 2), 0b1101);
    let flags = word(fadt, 112, 4);
    assert_eq!(flags & (1 << 4 | 1 << 20), 0, "a power button, and not reduced hardware");
    assert_eq!(flags & (1 << 5 | 1 << 6 | 1 << 10), 1 << 5 | 1 << 6 | 1 << 10);
    assert_eq!((fadt[116], word(fadt, 120, 8), fadt[128]), (1, 0xcf9, 6));
    // The wide fields agree with the narrow ones.
    assert_eq!((fadt[148], fadt[149], word(fadt, 152, 8)), (1, 32, 0x600));
    assert_eq!((fadt[172], fadt[173], word(fadt, 176, 8)), (1, 16, 0x604));
    let facs = word(fadt, 36, 4);
    assert_eq!(facs % 64, 0);
    assert_eq!(word(fadt, 132, 8), 0);
    let at = (facs - ACPI.start) as usize;
    assert_eq!((&tables[at..at + 4], word(&tables, at + 4, 4)), (&b"FACS"[..], 64));
}

#[test]
fn every_vcpu_and_every_interrupt_controller_is_listed() {
    let tables = tables(&inventory(3, 0));
    let (_, madt, _) = walk(&tables);
    assert_eq!((word(madt, 36, 4), word(madt, 40, 4)), (0xfee0_0000, 1));
    let mut found = Vec::new();
    let mut rest = &madt[44..];
    while !rest.is_empty() {
        let (structure, after) = rest.split_at(rest[1].into());
        found.push(structure);
        rest = after;
    }
    let expected: [&[u8]; 6] = [
        &[0, 8, 0, 0, 1, 0, 0, 0],
        &[0, 8, 1, 1, 1, 0, 0, 0],
        &[0, 8, 2, 2, 1, 0, 0, 0],
        &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
        &[2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0],
        &[4, 6, 0xff, 0, 0, 1],
    ];
    assert_eq!(found, expected);
}

/// Where `needle` is in `bytes`.
fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

#[test]
fn the_devices_are_described() {
    let tables = tables(&inventory(1, 2));
    let (.., dsdt) = walk(&tables);
    let soft_off = find(dsdt, b"\x08_S5_").unwrap();
    assert_eq!(dsdt[soft_off + 5..soft_off + 12], [0x12, 8, 4, 0x0a, 5, 0x0a, 5]);
    // EISA ids, then the ports; the serial port has an interrupt, the clock has none.
    for (id, ports, interrupt) in [
        ([0x41, 0xd0, 0x05, 0x01], [0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8], true),
        ([0x41, 0xd0, 0x0b, 0x00], [0x47, 1, 0x70, 0, 0x70, 0, 1, 2], false),
    ] {
        let device = &dsdt[find(dsdt, &id).unwrap()..];
        let after = find(device, &ports).unwrap() + ports.len();
        let line = [0x89, 6, 0, 0x03, 1, 4, 0, 0, 0];
        assert_eq!(device[after..].starts_with(&line), interrupt);
    }
    for (name, address, gsi) in [(b"VR00", 0xd000_0000u64, 16), (b"VR01", 0xd000_1000, 17)] {
        let device = &dsdt[find(dsdt, name).unwrap()..];
        assert!(find(device, b"LNRO0005").unwrap() < 32);
        // A 32-bit fixed memory descriptor: writable, address, length.
        let memory = &device[find(device, &[0x86, 9, 0, 1]).unwrap()..];
        assert_eq!((word(memory, 4, 4), word(memory, 8, 4)), (address, 0x1000));
        assert_eq!(memory[12..21], [0x89, 6, 0, 0x03, 1, gsi, 0, 0, 0]);
    }
    assert_eq!(find(dsdt, b"VR02"), None);
}

#[test]
fn a_full_machine_fits_and_more_is_refused() {
    let ram = crate::kvm::GuestRam::new(&crate::boot::ram_ranges(16 << 20), false).unwrap();
    let full = inventory(255, 16);
    walk(&tables(&full));
    write(&full, ram.memory()).unwrap();
    let text = write(&inventory(1, 3000), ram.memory()).unwrap_err().to_string();
    assert!(text.contains("fewer devices"), "{text}");
}
