//! A kernel's bytes, wherever they come from, and the segments that its headers name.

use std::path::Path;

use super::BootError;
use crate::config::Kernel;

/// The test guest, built by `tests/guest/build.rs`.
const TEST_GUEST: &[u8] = include_bytes!(env!("WHIMBREL_TEST_GUEST"));

/// A kernel image with the name that errors call it by.
pub struct KernelImage {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// A loadable part of the image. Its bytes beyond `file_bytes` are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// The guest-physical address.
    pub address: u64,
    pub file_bytes: u64,
    pub memory_bytes: u64,
}

impl KernelImage {
    /// Reads it.
    pub fn read(kernel: &Kernel) -> Result<Self, BootError> {
        match kernel {
            Kernel::File(path) => Ok(Self { name: path.display().to_string(), bytes: read("kernel", path)? }),
            Kernel::BuiltinTest => Ok(Self { name: "builtin:test".into(), bytes: TEST_GUEST.to_vec() }),
        }
    }

    /// The loadable segments. The image is checked to be a little-endian x86-64 ELF.
    pub(super) fn segments(&self) -> Result<Vec<Segment>, BootError> {
        segments(&self.bytes).ok_or_else(|| BootError::NotElf { name: self.name.clone() })
    }
}

/// The whole file.
pub(super) fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, BootError> {
    std::fs::read(path).map_err(|source| BootError::Read { what, name: path.display().to_string(), source })
}

/// Field offsets of Elf64_Ehdr and Elf64_Phdr (System V ABI, AMD64 supplement).
fn segments(elf: &[u8]) -> Option<Vec<Segment>> {
    const MACHINE_X86_64: u16 = 62;
    const HEADER_BYTES: u16 = 56;
    const LOAD: u32 = 1;
    let u16_at = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let u64_at = |at: usize| {
        let bytes = elf.get(at..at.checked_add(8)?)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    // 64-bit and little-endian.
    if elf.get(..6)? != b"\x7fELF\x02\x01" || u16_at(18)? != MACHINE_X86_64 {
        return None;
    }
    if u16_at(54)? != HEADER_BYTES {
        return None;
    }
    let table = usize::try_from(u64_at(32)?).ok()?;
    let mut found = Vec::new();
    for number in 0..usize::from(u16_at(56)?) {
        let header = table.checked_add(number * usize::from(HEADER_BYTES))?;
        let kind = u64_at(header)? as u32;
        if kind == LOAD {
            found.push(Segment {
                address: u64_at(header + 24)?,
                file_bytes: u64_at(header + 32)?,
                memory_bytes: u64_at(header + 40)?,
            });
        }
    }
    Some(found)
}
