//! Hand-made kernels for tests.

/// An ELF with one segment at `address`, which is also its entry: `code`, then zeros up to `memory` bytes.
pub fn pvh_elf(address: u64, code: &[u8], memory: u64) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    let mut note = Vec::new();
    for word in [4u32, 4, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend((address as u32).to_le_bytes());

    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    for half in [2u16, 62] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1u32.to_le_bytes());
    for word in [address, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 2, 64, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    let code_at = HEADERS + note.len() as u64;
    let segments =
        [(4u32, HEADERS, 0, note.len() as u64, note.len() as u64), (1, code_at, address, code.len() as u64, memory)];
    for (kind, offset, at, file_bytes, memory_bytes) in segments {
        elf.extend(kind.to_le_bytes());
        elf.extend(7u32.to_le_bytes());
        for word in [offset, at, at, file_bytes, memory_bytes, 1] {
            elf.extend(word.to_le_bytes());
        }
    }
    elf.extend(note);
    elf.extend(code);
    elf
}

/// A bzImage that prefers to be at 16 MiB and wants a megabyte there. `code` is at its 64-bit entry.
pub fn bzimage(code: &[u8]) -> Vec<u8> {
    const SETUP_SECTORS: u8 = 1;
    let kernel = (0x200 + code.len()).next_multiple_of(512);
    let mut image = vec![0; (1 + usize::from(SETUP_SECTORS)) * 512 + kernel];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[SETUP_SECTORS]);
    put(0x1f4, &(kernel as u32 / 16).to_le_bytes());
    put(0x1fe, &0xaa55u16.to_le_bytes());
    put(0x202, b"HdrS");
    put(0x206, &0x20fu16.to_le_bytes());
    // Loaded above 1 MiB.
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    // Relocatable, with a 64-bit entry, a command line of 2047 bytes.
    put(0x234, &[1]);
    put(0x236, &1u16.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x260, &0x10_0000u32.to_le_bytes());
    put(0x400 + 0x200, code);
    image
}
