//! Hand-made kernels for tests.

/// An ELF with one segment at `address`, which is also its entry: `code`, then zeros up to `memory`
/// bytes.
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

/// A bzImage that prefers to be at 16 MiB and wants a megabyte there. `code` is at its 64-bit
/// entry.
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

/// An ELF of either class, made of parts: whatever a linker may write.
pub struct ElfParts {
    pub wide: bool,
    /// Type and machine.
    pub kind: [u16; 2],
    /// Program headers with what they are about: type, address, bytes in memory, alignment,
    /// contents.
    pub headers: Vec<(u32, u64, u64, u64, Vec<u8>)>,
    /// Note sections that no program header speaks of.
    pub sections: Vec<Vec<u8>>,
}

impl ElfParts {
    /// A PVH kernel with a segment of `code` at `address`, where it is entered.
    pub fn pvh(address: u64, code: &[u8]) -> Self {
        let headers = vec![Self::notes(4, &pvh_note(address as u32)), Self::load(address, code)];
        Self { wide: true, kind: [2, 62], headers, sections: Vec::new() }
    }

    /// A segment of notes.
    pub fn notes(alignment: u64, notes: &[u8]) -> (u32, u64, u64, u64, Vec<u8>) {
        (4, 0, notes.len() as u64, alignment, notes.to_vec())
    }

    /// A segment to load, as long in memory as in the file.
    pub fn load(address: u64, code: &[u8]) -> (u32, u64, u64, u64, Vec<u8>) {
        (1, address, code.len() as u64, 4096, code.to_vec())
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        let header = if self.wide { 64 } else { 52 };
        let length = if self.wide { 56 } else { 32 };
        let section = if self.wide { 64 } else { 40 };
        let word = |value: u64| -> Vec<u8> {
            if self.wide { value.to_le_bytes().to_vec() } else { (value as u32).to_le_bytes().to_vec() }
        };
        let quarter = |value: u32| value.to_le_bytes().to_vec();
        let mut data = Vec::new();
        let data_at = (header + length * self.headers.len()) as u64;
        let mut table = Vec::new();
        for (kind, address, memory, alignment, contents) in &self.headers {
            let offset = data_at + data.len() as u64;
            data.extend(contents);
            table.extend(quarter(*kind));
            if self.wide {
                table.extend(quarter(7));
            }
            for value in [offset, *address, *address, contents.len() as u64, *memory] {
                table.extend(word(value));
            }
            if !self.wide {
                table.extend(quarter(7));
            }
            table.extend(word(*alignment));
        }
        let mut sections = Vec::new();
        for contents in &self.sections {
            let offset = data_at + data.len() as u64;
            data.extend(contents);
            sections.extend([quarter(0), quarter(7)].concat());
            for value in [0, 0, offset, contents.len() as u64] {
                sections.extend(word(value));
            }
            sections.extend([quarter(0), quarter(0)].concat());
            sections.extend([word(4), word(0)].concat());
        }
        let sections_at = if sections.is_empty() { 0 } else { data_at + data.len() as u64 };
        let mut elf = [b"\x7fELF".as_slice(), &[if self.wide { 2 } else { 1 }, 1, 1], &[0; 9]].concat();
        for half in self.kind {
            elf.extend(half.to_le_bytes());
        }
        elf.extend(quarter(1));
        for value in [0, header as u64, sections_at] {
            elf.extend(word(value));
        }
        elf.extend(quarter(0));
        let counts = [header, length, self.headers.len(), section, self.sections.len(), 0];
        for half in counts {
            elf.extend((half as u16).to_le_bytes());
        }
        [elf, table, data, sections].concat()
    }
}

/// A note with its name and contents padded to four bytes.
pub fn note(name: &[u8], kind: u32, contents: &[u8]) -> Vec<u8> {
    padded_note(name, kind, contents, 4)
}

/// A note with its contents and its end at multiples of `padding` bytes.
pub fn padded_note(name: &[u8], kind: u32, contents: &[u8], padding: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [name.len() as u32, contents.len() as u32, kind] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(name);
    bytes.resize(bytes.len().next_multiple_of(padding), 0);
    bytes.extend(contents);
    bytes.resize(bytes.len().next_multiple_of(padding), 0);
    bytes
}

/// The note that says where a PVH boot enters.
pub fn pvh_note(entry: u32) -> Vec<u8> {
    note(b"Xen\0", 18, &entry.to_le_bytes())
}
