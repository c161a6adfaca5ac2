//! A kernel's bytes, wherever they come from, and what they are.

use std::path::Path;

use super::BootError;
use super::config::Kernel;
use super::elf::Fault;
use super::foreign::{self, Foreign};
use crate::host::files;

/// The test guest, built by `tests/guest/build.rs`.
const TEST_GUEST: &[u8] = include_bytes!(env!("WHIMBREL_TEST_GUEST"));

/// How compressed files begin, what compressed them, and what a user unpacks them with.
const COMPRESSED: [(&[u8], &str, &str); 8] = [
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"\xfd7zXZ\0", "xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\x04\x22\x4d\x18", "lz4", "unlz4"),
    (b"\x02\x21\x4c\x18", "lz4", "unlz4"),
    (b"\x5d\0\0", "lzma", "unlzma"),
    (b"\x89LZO\0", "lzop", "lzop -d"),
];

/// A kernel image with the name that errors call it by.
pub struct KernelImage {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// What a kernel image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// An ELF; whether it has a PVH note is another question.
    Elf,
    /// A bzImage: real-mode setup code with a header, then the compressed kernel.
    BzImage,
}

impl KernelImage {
    /// Reads it.
    pub fn read(kernel: &Kernel) -> Result<Self, BootError> {
        match kernel {
            Kernel::File(path) => Ok(Self { name: path.display().to_string(), bytes: read("kernel", path)? }),
            Kernel::BuiltinTest => Ok(Self { name: "builtin:test".into(), bytes: TEST_GUEST.to_vec() }),
        }
    }

    /// What it is, by its bytes.
    pub(super) fn format(&self) -> Result<Format, BootError> {
        /// Where a bzImage has its magic word (Documentation/arch/x86/boot.rst).
        const MAGIC: std::ops::Range<usize> = 0x202..0x206;

        let bytes = self.bytes.as_slice();
        let name = || self.name.clone();
        if bytes.starts_with(b"\x7fELF") {
            Ok(Format::Elf)
        } else if bytes.get(MAGIC) == Some(b"HdrS") {
            Ok(Format::BzImage)
        } else if let Some((_, by, tool)) = COMPRESSED.iter().find(|(magic, ..)| bytes.starts_with(magic)) {
            Err(BootError::Compressed { name: name(), by, tool })
        } else if let Some(Foreign { what, advice }) = foreign::of_file(bytes) {
            Err(BootError::Foreign { name: name(), what, advice })
        } else {
            Err(BootError::NotAKernel { name: name() })
        }
    }

    /// An ELF's fault as an error that names the file.
    pub(super) fn fault(&self, fault: Fault) -> BootError {
        let name = self.name.clone();
        match fault {
            Fault::CutOff(wanted) => BootError::CutOff { name, bytes: self.bytes.len() as u64, wanted },
            Fault::Foreign(what) => {
                BootError::Foreign { name, what, advice: "give a kernel built for x86-64, or a bzImage (vmlinuz)" }
            }
            Fault::Damaged(what) => BootError::Damaged { name, what },
        }
    }

    /// What to say of an ELF that has no PVH note.
    pub(super) fn without_note(&self) -> BootError {
        let name = self.name.clone();
        match foreign::multiboot(&self.bytes) {
            Some(protocol) => BootError::Multiboot { name, protocol },
            None => BootError::NoPvhNote { name },
        }
    }
}

/// No kernel and no initrd is longer than this, in bytes.
const MOST: u64 = 16 << 30;

/// The whole file. Nothing but a regular one is read: a reset, which reads it again, must not wait
/// for anybody.
pub(super) fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, BootError> {
    files::read(path, MOST).map_err(|source| BootError::Read { what, name: path.display().to_string(), source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn format(bytes: &[u8]) -> Result<Format, String> {
        KernelImage { name: "k".into(), bytes: bytes.to_vec() }.format().map_err(|error| error.to_string())
    }

    #[test]
    fn kernels_are_known_by_their_bytes() {
        assert_eq!(format(b"\x7fELF"), Ok(Format::Elf));
        let mut image = vec![0; 0x400];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        assert_eq!(format(&image), Ok(Format::BzImage));
        // A bzImage is also a program for EFI.
        image[..2].copy_from_slice(b"MZ");
        assert_eq!(format(&image), Ok(Format::BzImage));
        for other in [&b"hello\n"[..], b"MZ", &[0; 0x400]] {
            assert!(format(other).unwrap_err().contains("neither"));
        }
    }

    #[test]
    fn a_compressed_kernel_is_told_what_to_do() {
        let text = format(b"\x1f\x8b\x08\0").unwrap_err();
        assert!(text.contains("gzip") && text.contains("gunzip"), "{text}");
        let text = format(b"\x28\xb5\x2f\xfd....").unwrap_err();
        assert!(text.contains("unzstd"), "{text}");
    }
}
