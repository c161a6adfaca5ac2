//! Files that are no kernel for this machine, told as what they are: by their first bytes, or where
//! each kind has its mark.

/// What a file is that cannot be started, and what to do instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    pub what: String,
    pub advice: &'static str,
}

const KERNEL: &str = "give an ELF (vmlinux) with a PVH note, or a bzImage (vmlinuz)";
const X86_KERNEL: &str = "give one built for x86-64";
const DISK: &str = "give it as --disk path=FILE, and the kernel in it as a file of its own";
const INITRD: &str = "give it as --initrd, and a kernel as --kernel";
const FIRMWARE: &str =
    "there is no firmware here that could start it: give the kernel in it as an ELF (vmlinux) or a bzImage (vmlinuz)";
const UNIFIED: &str =
    "unpack the kernel with 'objcopy -O binary --only-section=.linux FILE KERNEL', and the initrd likewise";
const RESTORE: &str = "run it with 'whimbrel restore FILE'";

/// Marks of files: where they are, the bytes, what the file is, what to do. The first that fits
/// counts.
const MARKS: [(usize, &[u8], &str, &str); 34] = [
    (0x38, b"ARM\x64", "a Linux kernel for AArch64 (Image)", X86_KERNEL),
    (0x38, b"RSC\x05", "a Linux kernel for RISC-V (Image)", X86_KERNEL),
    (0x24, b"\x18\x28\x6f\x01", "a Linux kernel for ARM (zImage)", X86_KERNEL),
    (4, b"zimg", "a compressed Linux kernel that only EFI firmware starts (zboot)", X86_KERNEL),
    (0, b"WHIMBREL", "a saved guest", RESTORE),
    (0, b"QFI\xfb", "a disk image (qcow2)", DISK),
    (0, b"KDMV", "a disk image (VMDK)", "convert it with 'qemu-img convert -O raw FILE DISK' and give that as --disk"),
    (
        0,
        b"vhdxfile",
        "a disk image (VHDX)",
        "convert it with 'qemu-img convert -O raw FILE DISK' and give that as --disk",
    ),
    (
        0,
        b"conectix",
        "a disk image (VHD)",
        "convert it with 'qemu-img convert -O raw FILE DISK' and give that as --disk",
    ),
    (
        0x40,
        b"\x7f\x10\xda\xbe",
        "a disk image (VDI)",
        "convert it with 'qemu-img convert -O raw FILE DISK' and give that as --disk",
    ),
    (0x8001, b"CD001", "a CD image (ISO 9660)", DISK),
    (512, b"EFI PART", "a disk image (GPT)", DISK),
    (4096, b"EFI PART", "a disk image (GPT)", DISK),
    (0x438, b"\x53\xef", "a file system (ext4)", DISK),
    (0, b"XFSB", "a file system (XFS)", DISK),
    (0x10040, b"_BHRfS_M", "a file system (btrfs)", DISK),
    (0, b"hsqs", "a file system (squashfs)", DISK),
    (0, b"LUKS\xba\xbe", "an encrypted disk (LUKS)", DISK),
    (0, b"070701", "an initrd (cpio)", INITRD),
    (0, b"070702", "an initrd (cpio)", INITRD),
    (0, b"\x27\x05\x19\x56", "a U-Boot image (uImage)", KERNEL),
    (0, b"\xd0\x0d\xfe\xed", "a device tree or U-Boot FIT image", KERNEL),
    (0, b"\xfe\xed\xfa\xce", "a Mach-O file", KERNEL),
    (0, b"\xcf\xfa\xed\xfe", "a Mach-O file", KERNEL),
    (
        0,
        b"!<arch>\n",
        "a package or library (ar)",
        "unpack it, a Debian package with 'dpkg -x FILE DIR', and give the vmlinuz in it",
    ),
    (0, b"\xed\xab\xee\xdb", "a package (RPM)", "unpack it, and give the vmlinuz in it"),
    (257, b"ustar", "an archive (tar)", "unpack it, and give the vmlinuz in it"),
    (0, b"PK\x03\x04", "an archive (zip)", "unpack it, and give the vmlinuz in it"),
    (0, b"7z\xbc\xaf\x27\x1c", "an archive (7-Zip)", "unpack it, and give the vmlinuz in it"),
    (0, b"#!", "a script", KERNEL),
    (0, b"-----BEGIN ", "a PEM file", KERNEL),
    (0, b"<!DOCTYPE", "a web page, perhaps instead of a download", "download the kernel again"),
    (0, b"<html", "a web page, perhaps instead of a download", "download the kernel again"),
    (0, b"version https://git-lfs", "a Git LFS pointer instead of the file", "fetch the file with 'git lfs pull'"),
];

/// What a file that is neither an ELF nor a bzImage is, if that can be told.
pub(super) fn of_file(bytes: &[u8]) -> Option<Foreign> {
    let foreign = |what: &str, advice| Foreign { what: what.to_owned(), advice };
    if bytes.is_empty() {
        return Some(foreign("an empty file", KERNEL));
    }
    let mark = MARKS.iter().find(|(at, mark, ..)| bytes.get(*at..).is_some_and(|rest| rest.starts_with(mark)));
    if let Some((_, _, what, advice)) = mark {
        return Some(foreign(what, advice));
    }
    if let Some(program) = portable_executable(bytes) {
        return Some(program);
    }
    if let Some(protocol) = multiboot(bytes) {
        return Some(foreign(&format!("a {protocol} kernel that is no ELF"), KERNEL));
    }
    // Last, as much else ends its first sector so.
    (bytes.get(510..512) == Some(b"\x55\xaa")).then(|| foreign("a disk image or boot sector", DISK))
}

/// A program for EFI (or Windows), and for which machine.
fn portable_executable(bytes: &[u8]) -> Option<Foreign> {
    if !bytes.starts_with(b"MZ") {
        return None;
    }
    let word = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?));
    let header = u32::from_le_bytes(bytes.get(0x3c..0x40)?.try_into().ok()?) as usize;
    if !bytes.get(header..).is_some_and(|it| it.starts_with(b"PE\0\0")) {
        return Some(Foreign { what: "a program for DOS".into(), advice: KERNEL });
    }
    let machine = match word(header + 4)? {
        0x8664 => "x86-64",
        0x014c => "i386",
        0xaa64 => "AArch64",
        0x01c0 | 0x01c2 | 0x01c4 => "ARM",
        0x5064 => "RISC-V",
        0x6264 => "LoongArch",
        _ => "an unknown machine",
    };
    // The table of sections, 40 bytes each, follows the optional header.
    let sections = header + 24 + usize::from(word(header + 20)?);
    let count = usize::from(word(header + 6)?);
    let unified =
        (0..count).any(|number| bytes.get(sections + number * 40..).is_some_and(|it| it.starts_with(b".linux\0")));
    Some(if unified {
        Foreign { what: format!("a unified kernel image, an EFI program for {machine}"), advice: UNIFIED }
    } else {
        Foreign { what: format!("an EFI program (PE) for {machine}"), advice: FIRMWARE }
    })
}

/// Which multiboot protocol a kernel has a header of, where GRUB looks for it.
pub(super) fn multiboot(bytes: &[u8]) -> Option<&'static str> {
    let words = |limit: usize, step: usize, count: usize| {
        let bytes = &bytes[..bytes.len().min(limit)];
        let starts = (0..bytes.len()).step_by(step);
        starts.filter_map(move |at| {
            let some = bytes.get(at..at + 4 * count)?;
            Some(some.chunks_exact(4).map(|it| u32::from_le_bytes([it[0], it[1], it[2], it[3]])).collect::<Vec<_>>())
        })
    };
    let whole = |words: &[u32]| words.iter().fold(0u32, |sum, word| sum.wrapping_add(*word)) == 0;
    if words(8192, 4, 3).any(|it| it[0] == 0x1bad_b002 && whole(&it)) {
        return Some("multiboot");
    }
    words(32768, 8, 4).any(|it| it[0] == 0xe852_50d6 && whole(&it)).then_some("multiboot2")
}

#[cfg(test)]
mod tests;
