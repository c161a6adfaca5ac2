#![allow(clippy::unwrap_used)]

use super::*;
use crate::boot::Kernel;
use crate::boot::acpi::Inventory;
use crate::boot::testing::bzimage;
use crate::boot::{load as load_all, ram_ranges};
use linux_loader::loader::bootparam::XLF_CAN_BE_LOADED_ABOVE_4G;
use std::io::Write;

const CODE: &[u8] = b"the kernel's own code";

fn ram(mib: u64) -> GuestRam {
    GuestRam::new(&ram_ranges(mib << 20), false).unwrap()
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn boot(kernel: &tempfile::NamedTempFile) -> BootConfig {
    BootConfig { kernel: Kernel::File(kernel.path().into()), initrd: None, cmdline: "console=ttyS0".into() }
}

/// The image with its header changed.
fn changed(change: impl FnOnce(&mut setup_header)) -> Vec<u8> {
    let mut image = bzimage(CODE);
    let range = HEADER..HEADER + size_of::<setup_header>();
    let mut header = setup_header::default();
    header.as_mut_slice().copy_from_slice(&image[range.clone()]);
    change(&mut header);
    image[range].copy_from_slice(header.as_slice());
    image
}

fn failure(image: &[u8], mib: u64) -> String {
    let file = file(image);
    let text = load_all(&boot(&file), &ram(mib), &Inventory::default()).unwrap_err().to_string();
    assert!(text.contains(file.path().to_str().unwrap()), "{text}");
    text
}

#[test]
fn kernel_parameters_and_initrd_are_where_the_protocol_says() {
    let kernel = file(&bzimage(CODE));
    let initrd = file(b"initrd");
    let mut boot = boot(&kernel);
    boot.initrd = Some(initrd.path().into());
    let ram = ram(64);
    let memory = ram.memory();
    let entry = load_all(&boot, &ram, &Inventory::default()).unwrap();
    let EntryPoint::Linux64 { address, zero_page, .. } = entry else {
        unreachable!("{entry:?}");
    };
    let mut code = vec![0; CODE.len()];
    memory.read_slice(&mut code, GuestAddress(address)).unwrap();
    assert_eq!(code, CODE);

    let params: boot_params = memory.read_obj(GuestAddress(zero_page)).unwrap();
    let header = params.hdr;
    let (magic, version, flag) = (header.header, header.version, header.boot_flag);
    assert_eq!((magic, version, flag, header.type_of_loader), (0x5372_6448, 0x20f, 0xaa55, 0xff));
    let mut line = [0; 14];
    memory.read_slice(&mut line, GuestAddress(header.cmd_line_ptr.into())).unwrap();
    assert_eq!(&line, b"console=ttyS0\0");
    let (at, length) = (header.ramdisk_image, header.ramdisk_size);
    assert_eq!((at, length), ((64 << 20) - 4096, 6));
    let mut found = [0; 6];
    memory.read_slice(&mut found, GuestAddress(at.into())).unwrap();
    assert_eq!(&found, b"initrd");
    let rsdp = params.acpi_rsdp_addr;
    let mut signature = [0; 8];
    memory.read_slice(&mut signature, GuestAddress(rsdp)).unwrap();
    assert_eq!(&signature, b"RSD PTR ");
    let map: Vec<_> = params.e820_table[..usize::from(params.e820_entries)]
        .iter()
        .map(|entry| (entry.addr, entry.addr + entry.size, entry.r#type))
        .collect();
    assert_eq!(map, [(0, 0xa_0000, 1), (0xa_0000, 0x10_0000, 2), (0x10_0000, 64 << 20, 1)]);
}

#[test]
fn the_page_tables_map_four_gigabytes_to_themselves() {
    let ram = ram(64);
    let kernel = file(&bzimage(CODE));
    let entry = load_all(&boot(&kernel), &ram, &Inventory::default()).unwrap();
    let EntryPoint::Linux64 { page_tables, gdt, .. } = entry else {
        unreachable!("{entry:?}");
    };
    let word = |address| ram.memory().read_obj::<u64>(GuestAddress(address)).unwrap();
    let walk = |linear: u64| {
        let pointers = word(page_tables + (linear >> 39) * 8) & !0xfff;
        let directory = word(pointers + (linear >> 30 & 511) * 8) & !0xfff;
        let entry = word(directory + (linear >> 21 & 511) * 8);
        assert_eq!(entry & 0x83, 0x83, "{linear:#x}");
        (entry & !0x1f_ffff) | linear & 0x1f_ffff
    };
    for linear in [0, 0x9000, 0x100_0200, 0xbfff_ffff, 0xfee0_0000, 0xffff_ffff] {
        assert_eq!(walk(linear), linear);
    }
    // Long-mode code of ring 0, and data.
    assert_eq!(word(gdt + 0x10) >> 40 & 0xffff, 0xaf9b);
    assert_eq!(word(gdt + 0x18) >> 40 & 0xffff, 0xcf93);
}

#[test]
fn what_the_header_asks_for_is_respected() {
    // Unpacking takes room that the file does not show.
    assert!(failure(&changed(|header| header.init_size = 49 << 20), 64).contains("use --memory 66M or more"));
    load_all(&boot(&file(&changed(|header| header.init_size = 48 << 20))), &ram(64), &Inventory::default()).unwrap();
    assert!(failure(&changed(|header| header.pref_address = 0xe_0000), 64).contains("does not fit"));
    assert!(failure(&changed(|header| header.pref_address = u64::MAX), 64).contains("does not fit"));

    let kernel = file(&changed(|header| header.initrd_addr_max = 0x2ff_ffff));
    let initrd = file(&[7; 5000]);
    let mut below = boot(&kernel);
    below.initrd = Some(initrd.path().into());
    let small = ram(64);
    load_all(&below, &small, &Inventory::default()).unwrap();
    let params: boot_params = small.memory().read_obj(GuestAddress(ZERO_PAGE)).unwrap();
    let at = params.hdr.ramdisk_image;
    assert_eq!(at, 0x300_0000 - 0x2000);
    let kernel = file(&changed(|header| header.init_size = 48 << 20));
    let mut none = boot(&kernel);
    none.initrd = Some(initrd.path().into());
    let text = load_all(&none, &small, &Inventory::default()).unwrap_err().to_string();
    assert!(text.contains(initrd.path().to_str().unwrap()), "{text}");

    let kernel = file(&changed(|header| header.cmdline_size = 12));
    assert!(matches!(
        load_all(&boot(&kernel), &small, &Inventory::default()),
        Err(BootError::CommandLine { bytes: 13, limit: 12 })
    ));
}

#[test]
fn images_that_cannot_be_booted_are_named() {
    let good = bzimage(CODE);
    for length in [0x206, 0x230, 0x400, 0x600, good.len() - 16] {
        assert!(failure(&good[..length], 64).contains("cut off"), "{length}");
    }
    assert!(failure(&good[..0x205], 64).contains("boot sector"));
    assert!(failure(&changed(|header| header.version = 0x20b), 64).contains("64-bit"));
    assert!(failure(&changed(|header| header.loadflags = 0), 64).contains("64-bit"));
    assert!(failure(&changed(|header| header.xloadflags = XLF_CAN_BE_LOADED_ABOVE_4G), 64).contains("64-bit"));
    assert!(failure(&changed(|header| header.syssize = u32::MAX), 64).contains("cut off"));
    let high = failure(&changed(|header| header.pref_address = 5 << 30), 64);
    assert!(high.contains("cannot be started: no --memory helps"), "{high}");
    // A signature behind the kernel is none of ours.
    let mut signed = good;
    signed.extend([0x5a; 2000]);
    let kernel = file(&signed);
    let ram = ram(64);
    load_all(&boot(&kernel), &ram, &Inventory::default()).unwrap();
    assert_eq!(ram.memory().read_obj::<u8>(GuestAddress(0x100_0400)).unwrap(), 0);
}

#[test]
fn a_kernel_whose_last_16_bytes_are_not_all_there_is_whole() {
    // memtest86+ 6.10 is such a one: the header counts units of 16 bytes, rounded up.
    let good = bzimage(CODE);
    for missing in 0..16 {
        let kernel = file(&good[..good.len() - missing]);
        load_all(&boot(&kernel), &ram(64), &Inventory::default()).unwrap();
    }
    assert!(failure(&good[..good.len() - 16], 64).contains("cut off"));
}

#[test]
fn a_header_without_a_length_means_the_rest_of_the_file() {
    let kernel = file(&changed(|header| header.syssize = 0));
    let ram = ram(64);
    load_all(&boot(&kernel), &ram, &Inventory::default()).unwrap();
    let mut code = vec![0; CODE.len()];
    ram.memory().read_slice(&mut code, GuestAddress(0x100_0200)).unwrap();
    assert_eq!(code, CODE);
}

#[test]
fn a_kernel_that_ends_before_its_entry_is_damaged() {
    assert!(failure(&changed(|header| header.syssize = 0x20), 64).contains("512 bytes and no 64-bit entry"));
}
