//! A hand-made PVH kernel for tests.

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
