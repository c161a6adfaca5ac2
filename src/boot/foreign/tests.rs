#![allow(clippy::unwrap_used)]

use super::*;

fn what(bytes: &[u8]) -> String {
    of_file(bytes).map_or_else(|| "unknown".into(), |it| format!("{}: {}", it.what, it.advice))
}

fn at(offset: usize, mark: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; offset + mark.len() + 600];
    bytes[offset..offset + mark.len()].copy_from_slice(mark);
    bytes
}

/// A PE file with one section of that name.
fn pe(machine: u16, section: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 0x400];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[0x3c] = 0x80;
    bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
    bytes[0x84..0x86].copy_from_slice(&machine.to_le_bytes());
    bytes[0x86] = 1;
    bytes[0x94] = 0xf0;
    bytes[0x98 + 0xf0..0x98 + 0xf0 + section.len()].copy_from_slice(section);
    bytes
}

#[test]
fn files_that_people_take_for_a_kernel_are_told_as_what_they_are() {
    for (bytes, words) in [
        (at(0x38, b"ARM\x64"), ["AArch64", "x86-64"]),
        (at(0x38, b"RSC\x05"), ["RISC-V", "x86-64"]),
        (at(0, b"QFI\xfb"), ["qcow2", "--disk"]),
        (at(0x8001, b"CD001"), ["ISO 9660", "--disk"]),
        (at(512, b"EFI PART"), ["GPT", "--disk"]),
        (at(0x438, b"\x53\xef"), ["ext4", "--disk"]),
        (at(510, b"\x55\xaa"), ["boot sector", "--disk"]),
        (at(0, b"070701"), ["cpio", "--initrd"]),
        (at(0, b"WHIMBREL"), ["saved guest", "restore"]),
        (at(0, b"!<arch>\n"), ["package", "dpkg"]),
        (at(0, b"#!/bin/sh"), ["script", "vmlinuz"]),
        (Vec::new(), ["empty", "vmlinuz"]),
    ] {
        let text = what(&bytes);
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
}

#[test]
fn programs_for_efi_are_told_with_their_machine() {
    assert!(what(&pe(0x8664, b".text")).starts_with("an EFI program (PE) for x86-64: there is no firmware"));
    assert!(what(&pe(0xaa64, b".text")).starts_with("an EFI program (PE) for AArch64"));
    let unified = what(&pe(0x8664, b".linux\0\0"));
    assert!(unified.contains("unified kernel image") && unified.contains("objcopy"), "{unified}");
    assert!(what(b"MZ\0\0").contains("unknown"));
    assert!(what(&at(0, b"MZ")).contains("DOS"));
    // A header that points beyond the file, and one that is cut off.
    let mut wild = pe(0x8664, b".text");
    wild[0x3c..0x40].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(what(&wild).contains("DOS"));
    assert_eq!(what(&pe(0x8664, b".text")[..0x85]), "unknown");
}

#[test]
fn multiboot_headers_are_found_where_grub_looks_for_them() {
    let one = |flags: u32| {
        let words = [0x1bad_b002, flags, 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags)];
        words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>()
    };
    assert_eq!(multiboot(&at(0x1000, &one(3))), Some("multiboot"));
    assert_eq!(multiboot(&at(0x1002, &one(3))), None, "not aligned");
    assert_eq!(multiboot(&at(8192, &one(3))), None, "too late");
    assert_eq!(multiboot(&at(0x1000, &[&one(3)[..8], &[0; 4]].concat())), None, "a wrong sum");
    let words = [0xe852_50d6u32, 0, 16, 0u32.wrapping_sub(0xe852_50d6).wrapping_sub(16)];
    let two: Vec<_> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(multiboot(&at(0x4000, &two)), Some("multiboot2"));
    assert_eq!(multiboot(&two[..12]), None);
    assert!(what(&at(0x1000, &one(0))).contains("multiboot kernel that is no ELF"));
}

#[test]
fn what_nobody_knows_stays_unknown() {
    for bytes in [vec![0; 100], vec![0xff; 70_000], b"hello".to_vec()] {
        assert_eq!(of_file(&bytes), None);
    }
}
