//! What a file is that somebody took for a guest.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// As much of a file as tells what it is, in bytes.
const HEAD: usize = 1024;
/// What everything begins with that Whimbrel writes.
const OURS: &[u8] = b"WHIMBREL";

/// Magic bytes, where they stand, and what that is together with what to do.
const KNOWN: [(usize, &[u8], &str); 19] = [
    (0, b"QFI\xfb", "it is a qcow2 disk image: '--disk path=FILE,format=qcow2' gives one to a guest"),
    (0, b"QED\0", "it is a QED disk image: 'qemu-img convert' makes a qcow2 image of it"),
    (0, b"KDMV", "it is a VMDK disk image: 'qemu-img convert' makes a qcow2 image of it"),
    (0, b"vhdxfile", "it is a VHDX disk image: 'qemu-img convert' makes a qcow2 image of it"),
    (0x40, b"\x7f\x10\xda\xbe", "it is a VDI disk image: 'qemu-img convert' makes a qcow2 image of it"),
    (
        0,
        b"QEVM",
        "it is a guest that QEMU wrote, and only QEMU reads those: shut the guest down there and boot it here",
    ),
    (0, b"LibvirtQemudSave", "it is a guest that libvirt saved, and only QEMU reads those: 'virsh restore' does"),
    (0, b"LibvirtQemudPart", "it is a guest that libvirt began to save and did not end"),
    (0, b"\x7fELF", "it is an ELF file, a program or a kernel: 'whimbrel run --kernel FILE' boots a kernel"),
    (0x202, b"HdrS", "it is a Linux kernel: 'whimbrel run --kernel FILE' boots it"),
    (0, b"070701", "it is an initrd (cpio): 'whimbrel run --initrd FILE' takes it, beside a kernel"),
    (0, b"\x1f\x8b", "it is compressed: --incoming 'exec:gzip -dc FILE' reads it, or unpack it first ('gunzip')"),
    (0, b"\xfd7zXZ\0", "it is compressed: --incoming 'exec:xz -dc FILE' reads it, or unpack it first ('unxz')"),
    (
        0,
        b"\x28\xb5\x2f\xfd",
        "it is compressed: --incoming 'exec:zstd -dc FILE' reads it, or unpack it first ('unzstd')",
    ),
    (0, b"BZh", "it is compressed: --incoming 'exec:bzip2 -dc FILE' reads it, or unpack it first ('bunzip2')"),
    (0, b"\x04\x22\x4d\x18", "it is compressed: --incoming 'exec:lz4 -dc FILE' reads it, or unpack it first ('unlz4')"),
    (0, b"LZIP", "it is compressed: --incoming 'exec:lzip -dc FILE' reads it, or unpack it first"),
    (0, b"PK\x03\x04", "it is a zip archive: unpack it first ('unzip')"),
    (0x101, b"ustar", "it is a tar archive: unpack it first ('tar -xf')"),
];

/// What stands in the file at `offset`, if it is nothing that Whimbrel wrote; `None` also where
/// that cannot be looked at without reading on.
pub fn something_else(file: &File, offset: u64) -> io::Result<Option<&'static str>> {
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut head = [0; HEAD];
    let mut have = 0;
    while have < HEAD {
        match file.read_at(&mut head[have..], offset.saturating_add(have as u64)) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(kind(&head[..have]))
}

fn kind(head: &[u8]) -> Option<&'static str> {
    let begin = head.len().min(OURS.len());
    if begin > 0 && head[..begin] == OURS[..begin] {
        return None;
    }
    let is = |(at, magic, _): &&(usize, &[u8], _)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic));
    let text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    Some(match KNOWN.iter().find(is) {
        Some((.., what)) => what,
        None if head.is_empty() => "nothing stands there: the file is empty, or ends before that",
        None if head.iter().all(|byte| *byte == 0) => {
            "it begins with zeroes: it may be a raw disk image, or was never written"
        }
        None if head.iter().all(text) => "it is a text",
        None => "it does not begin as what Whimbrel writes",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_guest_is_told_by_name() {
        for (head, says) in [
            (&b"QFI\xfb\0\0\0\x03"[..], "qcow2"),
            (b"QEVM\0\0\0\x03", "QEMU"),
            (b"\x7fELF\x02\x01", "ELF"),
            (b"\x1f\x8b\x08\0\0", "gzip -dc"),
            (b"\xfd7zXZ\0\0\x04", "xz -dc"),
            (b"\x28\xb5\x2f\xfd\x24", "zstd -dc"),
            (b"LibvirtQemudSave\x02", "libvirt"),
            (b"#!/bin/sh\n", "a text"),
            (b"", "empty"),
            (&[0; 512], "zeroes"),
            (b"\xde\xad\xbe\xef", "does not begin"),
        ] {
            let what = kind(head).unwrap();
            assert!(what.contains(says), "{what}");
        }
        let mut kernel = vec![1; 1024];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(kind(&kernel).unwrap().contains("--kernel"));
        // One of ours may be cut off anywhere.
        for ours in [&b"WHIMBREL\x01\0"[..], b"WHIM"] {
            assert_eq!(kind(ours), None);
        }
    }

    #[test]
    fn it_is_looked_for_where_the_guest_would_begin() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"#!WHIMBREL", 0).unwrap();
        assert_eq!(something_else(&file, 2).unwrap(), None);
        assert_eq!(something_else(&file, 0).unwrap(), Some("it is a text"));
        assert!(something_else(&file, 100).unwrap().unwrap().contains("ends before"));
    }
}
