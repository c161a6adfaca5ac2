//! Kernels and initrds of any content, into a small guest.
//!
//! The first two bytes are the length of the initrd (in bytes, 0: none), which is the end of the
//! input; then a byte that is the command line's length.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::GuestMemoryBackend;
use whimbrel::boot::acpi::Inventory;
use whimbrel::boot::{EntryPoint, load};
use whimbrel::config::{BootConfig, Kernel};
use whimbrel::kvm::{GuestRam, RamRange};
use whimbrel_postcopy::error::sentence;

use crate::input::Input;
use crate::{Seed, memory};

const RAM: u64 = 32 << 20;

/// Files without a name.
struct Files {
    kernel: File,
    initrd: File,
}

pub(crate) fn memfd(name: &str) -> File {
    memfd_create(name, MFdFlags::MFD_CLOEXEC).expect("a memfd").into()
}

pub(crate) fn path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn fill(mut file: &File, bytes: &[u8]) {
    use std::io::Seek;
    file.set_len(0).expect("an empty file");
    file.rewind().expect("a file to seek in");
    file.write_all(bytes).expect("room");
}

pub fn check(data: &[u8]) {
    static FILES: OnceLock<Mutex<Files>> = OnceLock::new();
    let files = FILES.get_or_init(|| Mutex::new(Files { kernel: memfd("kernel"), initrd: memfd("initrd") }));
    let files = files.lock().unwrap_or_else(PoisonError::into_inner);
    let mut input = Input(data);
    let (Some(initrd), Some(words)) = (input.u16(), input.u8()) else { return };
    let (kernel, initrd) = input.0.split_at(input.0.len().saturating_sub(initrd.into()));
    memory::limit(8 * data.len() + (4 << 20));
    fill(&files.kernel, kernel);
    fill(&files.initrd, initrd);
    let boot = BootConfig {
        kernel: Kernel::File(path(&files.kernel)),
        initrd: (!initrd.is_empty()).then(|| path(&files.initrd)),
        cmdline: "x".repeat(usize::from(words) * 9),
    };
    let ranges = [RamRange { name: "ram.low", guest_address: 0, bytes: RAM }];
    let ram = GuestRam::new(&ranges, false).expect("memory");
    match load(&boot, &ram, &Inventory { vcpus: 2, virtio: Vec::new() }) {
        Ok(EntryPoint::Pvh { start_info, .. }) => assert!(start_info < RAM),
        Ok(EntryPoint::Linux64 { address, zero_page, page_tables, gdt }) => {
            for address in [address, zero_page, page_tables, gdt] {
                assert!(ram.memory().check_address(vm_memory::GuestAddress(address)).is_some());
            }
        }
        Err(error) => assert!(!sentence(&error).contains('\n')),
    }
    memory::limit(512 << 20);
}

/// An ELF with a PVH note and one segment at `address`: `code`, then zeros up to `memory` bytes.
fn pvh(address: u64, code: &[u8], memory: u64) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    let note: Vec<u8> = [&4u32.to_le_bytes()[..], &4u32.to_le_bytes(), &18u32.to_le_bytes(), b"Xen\0"].concat();
    let note = [note, (address as u32).to_le_bytes().to_vec()].concat();
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend([2u16, 62].map(u16::to_le_bytes).concat());
    elf.extend(1u32.to_le_bytes());
    elf.extend([address, 64, 0].map(u64::to_le_bytes).concat());
    elf.extend(0u32.to_le_bytes());
    elf.extend([64u16, 56, 2, 64, 0, 0].map(u16::to_le_bytes).concat());
    let (notes, codes, code_at) = (note.len() as u64, code.len() as u64, HEADERS + note.len() as u64);
    for (kind, part) in [(4u32, [HEADERS, 0, 0, notes, notes, 4]), (1, [code_at, address, address, codes, memory, 1])] {
        elf.extend(kind.to_le_bytes());
        elf.extend(7u32.to_le_bytes());
        elf.extend(part.map(u64::to_le_bytes).concat());
    }
    [elf, note, code.to_vec()].concat()
}

/// A bzImage with its code at the 64-bit entry.
fn bzimage(code: &[u8]) -> Vec<u8> {
    let kernel = (0x200 + code.len()).next_multiple_of(512);
    let mut image = vec![0; 2 * 512 + kernel];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1f4, &(kernel as u32 / 16).to_le_bytes());
    put(0x1fe, &0xaa55u16.to_le_bytes());
    put(0x202, b"HdrS");
    put(0x206, &0x20fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x234, &[1]);
    put(0x236, &1u16.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x260, &0x10_0000u32.to_le_bytes());
    put(0x600, code);
    image
}

pub fn seeds() -> Vec<Seed> {
    let boot = |words: u8, kernel: &[u8], initrd: &[u8]| {
        [&(initrd.len() as u16).to_le_bytes()[..], &[words], kernel, initrd].concat()
    };
    vec![
        ("pvh", boot(3, &pvh(0x10_0000, b"\xf4\xeb\xfd", 0x3000), b"")),
        ("pvh-initrd", boot(200, &pvh(0x20_0000, b"\xf4\xeb\xfd", 0x20_0000), b"initrd")),
        ("pvh-low", boot(0, &pvh(0x1000, b"\xf4", 0x10_0000), b"")),
        ("bzimage", boot(3, &bzimage(b"\xf4\xeb\xfd"), b"")),
        ("bzimage-initrd", boot(255, &bzimage(b"\xf4\xeb\xfd"), b"initrd")),
        ("gzip", boot(0, b"\x1f\x8b\x08\0", b"")),
    ]
}
