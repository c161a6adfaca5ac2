#![allow(clippy::unwrap_used)]

use super::*;
use crate::boot::Kernel;
use crate::boot::acpi::Inventory;
use crate::boot::layout::HOLE;
use crate::boot::testing::{ElfParts, note, pvh_elf, pvh_note};
use crate::boot::{load as load_all, ram_ranges};
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
    assert!(failure(b"").contains("an empty file"));
    assert!(failure(b"what is this\n").contains("neither"));
    assert!(failure(b"\x1f\x8b\x08").contains("gzip"));
    let good = pvh_elf(0x10_0000, b"code", 0x1000);
    assert!(failure(&good[..100]).contains("cut off: it has 100 bytes"));
    let mut no_note = good;
    let at = no_note.windows(4).position(|four| four == b"Xen\0").unwrap();
    no_note[at] = b'Y';
    assert!(failure(&no_note).contains("PVH"));
    // An ordinary program, which would not fit either, is told what it lacks, not to use more
    // memory.
    let mut program = pvh_elf(0, &[0xf4], 0x1000);
    let at = program.windows(4).position(|four| four == b"Xen\0").unwrap();
    program[at] = b'Y';
    assert!(failure(&program).contains("PVH"));
}

/// What is said of a kernel that wants `memory` bytes at `address`.
fn misfit(address: u64, memory: u64) -> String {
    let mut parts = ElfParts::pvh(0x10_0000, b"code");
    parts.headers.push((1, address, memory, 1, b"data".to_vec()));
    failure(&parts.build())
}

#[test]
fn a_kernel_that_does_not_fit_is_told_why_and_more_memory_only_where_that_helps() {
    let more =
        |text: String, memory: &str| assert!(text.ends_with(&format!("use --memory {memory} or more")), "{text}");
    more(misfit(0x100_0000, 0x1000), "18M");
    more(misfit(0xff_f000, 0x1001), "18M");
    more(misfit(HOLE - 0x1000, 0x1000), "3072M");
    more(misfit(4 << 30, 0x1000), "3074M");
    for (address, memory, words) in [
        (HOLE - 0x1000, 0x1001, "devices are"),
        (HOLE, 4, "devices are"),
        ((4 << 30) - 4, 8, "devices are"),
        (0x20_0000, 5 << 30, "devices are"),
        (u64::MAX - 8, 0x1000, "no processor has memory"),
        (1 << 52, 8, "no processor has memory"),
        (ACPI.end - 0x1000, 0x1000, "ACPI table"),
        (START_INFO, 0x1000, "handed over"),
    ] {
        let text = misfit(address, memory);
        assert!(text.contains(words) && !text.contains("use --memory"), "{text}");
    }
}

#[test]
fn a_kernel_of_many_parts_is_loaded_whatever_their_order() {
    let mut parts = ElfParts::pvh(0x20_0000, b"code");
    parts.headers.insert(0, (1, 3 << 40, 0, 1, Vec::new()));
    parts.headers.insert(0, ElfParts::notes(8, &note(b"GNU\0", 5, &[0; 16])));
    parts.headers.push(ElfParts::load(0x10_0000, b"data"));
    parts.headers.push(ElfParts::notes(4, &note(b"GNU\0", 3, &[7; 20])));
    let (_file, boot) = boot(&parts.build());
    let ram = ram();
    let entry = load_all(&boot, &ram, &Inventory::default()).unwrap();
    assert_eq!(entry, EntryPoint::Pvh { address: 0x20_0000, start_info: START_INFO });
    for (address, words) in [(0x20_0000, b"code"), (0x10_0000, b"data")] {
        assert_eq!(&ram.memory().read_obj::<[u8; 4]>(GuestAddress(address)).unwrap(), words);
    }
}

#[test]
fn a_segment_above_the_hole_goes_there_if_there_is_ram() {
    let mut parts = ElfParts::pvh(0x20_0000, b"code");
    parts.headers.push(ElfParts::load(4 << 30, b"high"));
    let (_file, boot) = boot(&parts.build());
    let ram = GuestRam::new(&ram_ranges((3 << 30) + (2 << 20)), false).unwrap();
    load_all(&boot, &ram, &Inventory::default()).unwrap();
    assert_eq!(&ram.memory().read_obj::<[u8; 4]>(GuestAddress(4 << 30)).unwrap(), b"high");
}

#[test]
fn an_entry_outside_of_the_kernel_is_refused() {
    let mut parts = ElfParts::pvh(0x10_0000, b"code");
    parts.headers[0] = ElfParts::notes(4, &pvh_note(0x20_0000));
    assert!(failure(&parts.build()).contains("none of its segments, 0x200000"));
}

#[test]
fn a_multiboot_kernel_is_told_as_one() {
    let mut parts = ElfParts::pvh(0x10_0000, b"code");
    let header: Vec<u8> =
        [0x1bad_b002u32, 0, 0u32.wrapping_sub(0x1bad_b002)].iter().flat_map(|it| it.to_le_bytes()).collect();
    parts.headers[0] = ElfParts::load(0x20_0000, &header);
    let text = failure(&parts.build());
    assert!(text.contains("is a multiboot kernel") && text.contains("no PVH entry note"), "{text}");
}

#[test]
fn an_initrd_is_told_whether_more_memory_helps() {
    let mut parts = ElfParts::pvh(0x10_0000, b"code");
    parts.headers.push((1, 0x20_0000, 13 << 20, 1, Vec::new()));
    let (_file, mut boot) = boot(&parts.build());
    let initrd = tempfile::NamedTempFile::new().unwrap();
    initrd.as_file().set_len(2 << 20).unwrap();
    boot.initrd = Some(initrd.path().into());
    let text = load_all(&boot, &ram(), &Inventory::default()).unwrap_err().to_string();
    assert!(text.contains("0xf00000 and 0x1000000: use --memory 18M or more"), "{text}");
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
