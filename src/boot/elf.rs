//! What an ELF's headers say: its segments, and where its PVH note says that it is entered.
//!
//! Both classes are read, as PVH enters a kernel in 32-bit mode whatever it is built for.
//! linux-loader reads one class only, believes the last of several note segments, and loads
//! segments that have no bytes.

use std::fmt;

/// An ELF for this machine, its header read.
pub(super) struct Elf<'a> {
    bytes: &'a [u8],
    wide: bool,
}

/// A loadable part of the image that takes up memory. Its bytes beyond `contents` are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    /// The guest-physical address.
    pub address: u64,
    pub contents: &'a [u8],
    pub memory_bytes: u64,
}

/// Why an ELF is no kernel for this machine.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It ends before what its headers speak of, which ends here.
    CutOff(u64),
    /// It is of another kind: what it is.
    Foreign(String),
    /// Its headers contradict themselves: how.
    Damaged(String),
}

/// A stretch of the file with notes.
struct Notes {
    offset: u64,
    bytes: u64,
    alignment: u64,
}

/// Where the fields are in the headers of each class (System V ABI): 32 bits, 64 bits.
const TABLE_AT: [u64; 2] = [28, 32];
const SECTIONS_AT: [u64; 2] = [32, 40];
/// The halves behind flags and header size: sizes and counts of program headers, of section
/// headers.
const COUNTS_AT: [u64; 2] = [42, 54];

const EXECUTABLE: u16 = 2;
const SHARED: u16 = 3;

impl<'a> Elf<'a> {
    /// Reads the header of a file that begins as an ELF does.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Fault> {
        let short = || Fault::CutOff(52);
        let (class, order) = bytes.get(4).zip(bytes.get(5)).ok_or_else(short)?;
        let half = |at: usize| {
            let two: [u8; 2] = bytes.get(at..at + 2)?.try_into().ok()?;
            Some(if *order == 2 { u16::from_be_bytes(two) } else { u16::from_le_bytes(two) })
        };
        let (kind, machine) = half(16).zip(half(18)).ok_or_else(short)?;
        let ours = matches!((class, order, machine), (1 | 2, 1, I386 | X86_64));
        if !ours {
            let bits = match class {
                1 => "32-bit",
                2 => "64-bit",
                _ => "damaged",
            };
            let order = if *order == 2 { "big-endian" } else { "little-endian" };
            return Err(Fault::Foreign(format!(
                "an ELF for another machine: {bits}, {order}, {}",
                machine_name(machine)
            )));
        }
        let what = match kind {
            EXECUTABLE | SHARED => return Ok(Self { bytes, wide: *class == 2 }),
            1 => "an ELF object file or kernel module, not a whole kernel".into(),
            4 => "the core dump of a program or kernel, not a kernel to start".into(),
            other => format!("an ELF of unknown type {other}"),
        };
        Err(Fault::Foreign(what))
    }

    /// The loadable segments, without those that take up no memory, wherever they would be. None
    /// overlaps another.
    pub(super) fn segments(&self) -> Result<Vec<Segment<'a>>, Fault> {
        const LOAD: u32 = 1;
        let mut found: Vec<Segment<'_>> = Vec::new();
        for header in self.program_headers()? {
            if header.kind != LOAD {
                continue;
            }
            if header.file_bytes > header.memory_bytes {
                let ProgramHeader { address, file_bytes, memory_bytes, .. } = header;
                return Err(Fault::Damaged(format!(
                    "the segment at {address:#x} has {file_bytes} bytes in the file and {memory_bytes} in memory"
                )));
            }
            if header.memory_bytes == 0 {
                continue;
            }
            let contents = self.slice(header.offset, header.file_bytes)?;
            found.push(Segment { address: header.address, contents, memory_bytes: header.memory_bytes });
        }
        let mut sorted = found.clone();
        sorted.sort_by_key(|segment| segment.address);
        for pair in sorted.windows(2) {
            if pair[1].address - pair[0].address < pair[0].memory_bytes {
                let (first, second) = (pair[0].address, pair[1].address);
                return Err(Fault::Damaged(format!("the segments at {first:#x} and {second:#x} overlap")));
            }
        }
        if found.is_empty() {
            return Err(Fault::Damaged("no segment is to be loaded".into()));
        }
        Ok(found)
    }

    /// Where a PVH boot enters, if a note says so: in any of the note segments, or in a note
    /// section if no segment has it.
    pub(super) fn pvh_entry(&self) -> Result<Option<u64>, Fault> {
        let mut cut = None;
        for notes in self.note_segments()?.into_iter().chain(self.note_sections()) {
            match self.slice(notes.offset, notes.bytes) {
                Ok(bytes) => {
                    if let Some(contents) = pvh_note(bytes, notes.alignment) {
                        return entry(contents).map(Some);
                    }
                }
                Err(fault) => cut = Some(fault),
            }
        }
        cut.map_or(Ok(None), Err)
    }

    fn note_segments(&self) -> Result<Vec<Notes>, Fault> {
        const NOTE: u32 = 4;
        let headers = self.program_headers()?.into_iter().filter(|header| header.kind == NOTE);
        Ok(headers.map(|it| Notes { offset: it.offset, bytes: it.file_bytes, alignment: it.alignment }).collect())
    }

    /// The note sections; none if the table of sections is not whole, as nothing else needs it.
    fn note_sections(&self) -> Vec<Notes> {
        const NOTE: u32 = 7;
        let wide = usize::from(self.wide);
        let length = [40, 64][wide];
        let read = || -> Option<Vec<Notes>> {
            let table = self.word(SECTIONS_AT[wide])?;
            let (size, count) = (self.half(COUNTS_AT[wide] + 4)?, self.half(COUNTS_AT[wide] + 6)?);
            if u64::from(size) != length {
                return None;
            }
            let headers = (0..u64::from(count)).map(|number| table.checked_add(number * length));
            let mut found = Vec::new();
            for header in headers {
                let header = header?;
                if self.quarter(header + 4)? == NOTE {
                    let [offset, bytes, alignment] =
                        [[16, 20, 32], [24, 32, 48]][wide].map(|at| self.word(header + at));
                    found.push(Notes { offset: offset?, bytes: bytes?, alignment: alignment? });
                }
            }
            Some(found)
        };
        read().unwrap_or_default()
    }

    fn program_headers(&self) -> Result<Vec<ProgramHeader>, Fault> {
        let wide = usize::from(self.wide);
        let length = [32u64, 56][wide];
        let at_end = || Fault::CutOff([52, 64][wide]);
        let table = self.word(TABLE_AT[wide]).ok_or_else(at_end)?;
        let size = self.half(COUNTS_AT[wide]).ok_or_else(at_end)?;
        let count = self.half(COUNTS_AT[wide] + 2).ok_or_else(at_end)?;
        if count > 0 && u64::from(size) != length {
            return Err(Fault::Damaged(format!("its program headers have {size} bytes instead of {length}")));
        }
        let end = table.saturating_add(u64::from(count) * length);
        self.slice(table, u64::from(count) * length)?;
        let header = |number: u64| {
            let at = table + number * length;
            let word = |narrow, wide_at| self.word(at + [narrow, wide_at][wide]);
            Some(ProgramHeader {
                kind: self.quarter(at)?,
                offset: word(4, 8)?,
                address: word(12, 24)?,
                file_bytes: word(16, 32)?,
                memory_bytes: word(20, 40)?,
                alignment: word(28, 48)?,
            })
        };
        (0..u64::from(count)).map(header).collect::<Option<_>>().ok_or(Fault::CutOff(end))
    }

    /// Bytes of the file, all of them there.
    fn slice(&self, offset: u64, bytes: u64) -> Result<&'a [u8], Fault> {
        let end = offset.saturating_add(bytes);
        let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
        range.and_then(|(start, end)| self.bytes.get(start..end)).ok_or(Fault::CutOff(end))
    }

    fn half(&self, at: u64) -> Option<u16> {
        Some(u16::from_le_bytes(self.slice(at, 2).ok()?.try_into().ok()?))
    }

    fn quarter(&self, at: u64) -> Option<u32> {
        Some(u32::from_le_bytes(self.slice(at, 4).ok()?.try_into().ok()?))
    }

    /// A word of the class: an address, an offset or a size.
    fn word(&self, at: u64) -> Option<u64> {
        if self.wide {
            return Some(u64::from_le_bytes(self.slice(at, 8).ok()?.try_into().ok()?));
        }
        self.quarter(at).map(u64::from)
    }
}

struct ProgramHeader {
    kind: u32,
    offset: u64,
    address: u64,
    file_bytes: u64,
    memory_bytes: u64,
    alignment: u64,
}

/// The contents of the note that says where a PVH boot enters. A note has the lengths of its name
/// and of its contents, its type, and both padded: to 4 bytes, or to 8 where the segment is aligned
/// so. Which of the two a linker meant is not always what it did.
fn pvh_note(notes: &[u8], alignment: u64) -> Option<&[u8]> {
    let ways: &[usize] = if alignment >= 8 { &[8, 4] } else { &[4] };
    ways.iter().find_map(|padding| pvh_note_padded(notes, *padding))
}

fn pvh_note_padded(notes: &[u8], padding: usize) -> Option<&[u8]> {
    const PHYS32_ENTRY: u32 = 18;
    const HEADER: usize = 12;
    let mut at = 0usize;
    loop {
        let number = |offset: usize| {
            let start = at.checked_add(offset)?;
            Some(u32::from_le_bytes(notes.get(start..start.checked_add(4)?)?.try_into().ok()?))
        };
        let (name, contents, kind) = (number(0)? as usize, number(4)? as usize, number(8)?);
        let name_at = at.checked_add(HEADER)?;
        let contents_at = name_at.checked_add(name)?.checked_next_multiple_of(padding)?;
        let end = contents_at.checked_add(contents)?;
        if kind == PHYS32_ENTRY && notes.get(name_at..name_at.checked_add(name)?)? == b"Xen\0" {
            return notes.get(contents_at..end);
        }
        at = end.checked_next_multiple_of(padding)?;
    }
}

/// The entry that a note's contents name: a number of 4 or 8 bytes.
fn entry(contents: &[u8]) -> Result<u64, Fault> {
    let number = match *contents {
        [a, b, c, d] => Ok(u32::from_le_bytes([a, b, c, d]).into()),
        [a, b, c, d, e, f, g, h] => Ok(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
        _ => Err(Fault::Damaged(format!("its PVH note names the entry in {} bytes", contents.len()))),
    }?;
    // The kernel is entered in 32-bit mode.
    if number > u32::MAX.into() {
        return Err(Fault::Damaged(format!("its PVH note names an entry above 4 GiB, {number:#x}")));
    }
    Ok(number)
}

const I386: u16 = 3;
const X86_64: u16 = 62;

/// The machines that somebody might take a kernel of, by their numbers in an ELF's header.
fn machine_name(machine: u16) -> impl fmt::Display {
    const NAMES: [(u16, &str); 13] = [
        (2, "SPARC"),
        (I386, "i386"),
        (8, "MIPS"),
        (20, "PowerPC"),
        (21, "64-bit PowerPC"),
        (22, "S/390"),
        (40, "ARM"),
        (43, "64-bit SPARC"),
        (50, "IA-64"),
        (X86_64, "x86-64"),
        (183, "AArch64"),
        (243, "RISC-V"),
        (258, "LoongArch"),
    ];
    let known = NAMES.iter().find(|(number, _)| *number == machine);
    known.map_or_else(|| format!("machine {machine}"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests;
