//! What an ELF's headers say.

/// A loadable part of the image. Its bytes beyond `file_bytes` are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// The guest-physical address.
    pub address: u64,
    pub file_bytes: u64,
    pub memory_bytes: u64,
}

fn u16_at(elf: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(elf.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(elf: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(elf.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(elf: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(elf.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// The program headers of one kind. Field offsets of Elf64_Ehdr and Elf64_Phdr (System V ABI, AMD64 supplement).
fn program_headers(elf: &[u8], kind: u32) -> Option<Vec<usize>> {
    const MACHINE_X86_64: u16 = 62;
    const HEADER_BYTES: u16 = 56;
    // 64-bit and little-endian.
    if elf.get(..6)? != b"\x7fELF\x02\x01" || u16_at(elf, 18)? != MACHINE_X86_64 {
        return None;
    }
    if u16_at(elf, 54)? != HEADER_BYTES {
        return None;
    }
    let table = usize::try_from(u64_at(elf, 32)?).ok()?;
    let mut found = Vec::new();
    for number in 0..usize::from(u16_at(elf, 56)?) {
        let header = table.checked_add(number * usize::from(HEADER_BYTES))?;
        if u32_at(elf, header)? == kind {
            found.push(header);
        }
    }
    Some(found)
}

/// The loadable segments; `None` if `elf` is not a little-endian x86-64 ELF.
pub(super) fn segments(elf: &[u8]) -> Option<Vec<Segment>> {
    const LOAD: u32 = 1;
    let segment = |header: usize| {
        Some(Segment {
            address: u64_at(elf, header + 24)?,
            file_bytes: u64_at(elf, header + 32)?,
            memory_bytes: u64_at(elf, header + 40)?,
        })
    };
    program_headers(elf, LOAD)?.into_iter().map(segment).collect()
}

/// Whether there is a note that says where a PVH boot enters. Looks through the notes: each has the lengths of its name and of its contents, its type, and both padded to 4 bytes.
pub(super) fn has_pvh_note(elf: &[u8]) -> Option<bool> {
    const NOTE: u32 = 4;
    const PHYS32_ENTRY: u32 = 18;
    for header in program_headers(elf, NOTE)? {
        let start = usize::try_from(u64_at(elf, header + 8)?).ok()?;
        let length = usize::try_from(u64_at(elf, header + 32)?).ok()?;
        let mut notes = elf.get(start..start.checked_add(length)?)?;
        while notes.len() >= 12 {
            let name = u32_at(notes, 0)? as usize;
            let contents = u32_at(notes, 4)? as usize;
            let padded = name.next_multiple_of(4).checked_add(contents.next_multiple_of(4))?;
            if u32_at(notes, 8)? == PHYS32_ENTRY && notes.get(12..)?.starts_with(b"Xen\0") {
                return Some(true);
            }
            notes = notes.get(12usize.checked_add(padded)?..).unwrap_or(&[]);
        }
    }
    Some(false)
}
