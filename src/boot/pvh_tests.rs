#![allow(clippy::unwrap_used)]

use super::*;
use crate::boot::acpi::Inventory;
use crate::boot::testing::pvh_elf;
use crate::boot::{load as load_all, ram_ranges};
use crate::config::Kernel;
use std::io::Write;

fn ram() -> GuestRam {
    GuestRam::new(&ram_ranges(16 << 20), false).unwrap()
}

fn boot(kernel: &[u8]) -> (tempfile::NamedTempFile, BootConfig) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(kernel).unwrap();
    let boot = BootConfig { kernel: Kernel::File(file.path().into()), initrd: None, cmdline: "a=1 b".into() };
    (file, boot)
}

fn failure(kernel: &[u8]) -> String {
    let (file, boot) = boot(kernel);
    let text = load_all(&boot, &ram(), &Inventory::default()).unwrap_err().to_string();
    assert!(text.contains(file.path().to_str().unwrap()), "{text}");
    text
}

#[test]
fn a_kernel_its_command_line_and_its_initrd_are_there() {
    let (_file, mut boot) = boot(&pvh_elf(0x10_0000, b"\xf4code", 0x2000));
    let mut initrd = tempfile::NamedTempFile::new().unwrap();
    initrd.write_all(b"initrd").unwrap();
    boot.initrd = Some(initrd.path().into());
    let ram = ram();
    let memory = ram.memory();
    // What a guest left in .bss before a reset.
    memory.write_obj(7u8, GuestAddress(0x10_1fff)).unwrap();
    let entry = load_all(&boot, &ram, &Inventory::default()).unwrap();
    let EntryPoint::Pvh { address: 0x10_0000, start_info } = entry else {
        unreachable!("{entry:?}");
    };
    let mut code = [0; 5];
    memory.read_slice(&mut code, GuestAddress(0x10_0000)).unwrap();
    assert_eq!(&code, b"\xf4code");
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0x10_1fff)).unwrap(), 0);

    let info: hvm_start_info = memory.read_obj(GuestAddress(start_info)).unwrap();
    assert_eq!((info.magic, info.version), (MAGIC, 1));
    assert_eq!(info.rsdp_paddr, ACPI.start);
    let mut line = [0; 6];
    memory.read_slice(&mut line, GuestAddress(info.cmdline_paddr)).unwrap();
    assert_eq!(&line, b"a=1 b\0");
    let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
    assert_eq!((info.nr_modules, module.size), (1, 6));
    let mut found = [0; 6];
    memory.read_slice(&mut found, GuestAddress(module.paddr)).unwrap();
    assert_eq!(&found, b"initrd");
}

#[test]
fn bad_kernels_are_named() {
    assert!(failure(b"").contains("neither"));
    assert!(failure(b"#!/bin/sh\n").contains("neither"));
    assert!(failure(b"\x1f\x8b\x08").contains("gzip"));
    let good = pvh_elf(0x10_0000, b"code", 0x1000);
    assert!(failure(&good[..100]).contains("x86-64"));
    assert!(failure(&pvh_elf(0x100_0000, b"code", 0x1000)).contains("does not fit"));
    assert!(failure(&pvh_elf(ACPI.end - 0x1000, b"code", 0x1000)).contains("does not fit"));
    assert!(failure(&pvh_elf(START_INFO, b"code", 0x1000)).contains("does not fit"));
    assert!(failure(&pvh_elf(u64::MAX - 8, b"code", 0x1000)).contains("does not fit"));
    let mut no_note = good;
    let at = no_note.windows(4).position(|four| four == b"Xen\0").unwrap();
    no_note[at] = b'Y';
    assert!(failure(&no_note).contains("PVH"));
    // An ordinary program, which would not fit either, is told what it lacks, not to use more memory.
    let mut program = pvh_elf(0, &[0xf4], 0x1000);
    let at = program.windows(4).position(|four| four == b"Xen\0").unwrap();
    program[at] = b'Y';
    assert!(failure(&program).contains("PVH"));
}

#[test]
fn missing_files_and_long_lines_are_named() {
    let (_file, good) = boot(&pvh_elf(0x10_0000, b"code", 0x1000));
    let mut missing = good.clone();
    missing.kernel = Kernel::File("/nonexistent/kernel".into());
    let text = load_all(&missing, &ram(), &Inventory::default()).unwrap_err().to_string();
    assert!(text.contains("/nonexistent/kernel"), "{text}");
    let mut missing = good.clone();
    missing.initrd = Some("/nonexistent/initrd".into());
    let text = load_all(&missing, &ram(), &Inventory::default()).unwrap_err().to_string();
    assert!(text.contains("/nonexistent/initrd"), "{text}");
    let mut long = good;
    long.cmdline = "x".repeat(COMMAND_LINE_LIMIT);
    assert!(matches!(load_all(&long, &ram(), &Inventory::default()), Err(BootError::CommandLine { .. })));
}
