//! [`PageTable`]: the table behind a snapshot's last message that says where each page stands, so
//! that nobody has to look through all of the file.
//!
//! ```text
//!  stream ... state, hand-over, complete | places ...          | label     | footer (56 bytes)
//!                                        | block u16, 0 u16,   | text, and | "WHIMPAGE", places
//! u64, where they begin u64,
//!                                        | count u32, page u64,| zeros up  | where the state's
//! message begins u64,
//!                                        | at u64              | to 8 bytes| pages u64, label's
//! bytes u64, sum u64
//! ```
//! All numbers are little-endian and all places count from the stream's first byte; `at` 0 is a run
//! of zeros. The sum is over everything in the table before it. The label is the monitor's, which
//! says there whose snapshot it is. Whoever reads the stream in order never sees the table.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::chunk::Place;
use crate::ram::{BlockId, PageIndex, PageRun};

const MAGIC: u64 = u64::from_le_bytes(*b"WHIMPAGE");
const PLACE: usize = 24;
const FOOTER: usize = 56;
/// A table for more places is no snapshot's: each has a page of its own.
const MOST_PLACES: u64 = 1 << 34;
/// No label is longer, in bytes.
const MOST_LABEL: u64 = 1 << 16;

/// Where pages stand, in the order in which they were written.
#[derive(Default)]
pub(super) struct PageTable {
    pub places: Vec<Place>,
    /// Where the state's message begins.
    pub state: u64,
    /// What the monitor wants to be said of it.
    pub label: String,
}

impl PageTable {
    /// The pages of what was written at `offset`.
    pub fn add(&mut self, places: &[Place], offset: u64) {
        for place in places {
            let place = Place { at: place.at.map(|at| at + offset), ..*place };
            match self.places.last_mut() {
                Some(last) if last.at.is_none() && place.at.is_none() && follows(last.run, place.run) => {
                    last.run.count += place.run.count;
                }
                _ => self.places.push(place),
            }
        }
    }

    /// The bytes, which begin at `offset` of the stream.
    pub fn encode(&self, offset: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.places.len() * PLACE + FOOTER);
        for Place { run, at } in &self.places {
            bytes.extend(u64::from(run.block.0).to_le_bytes().split_at(4).0);
            bytes.extend(run.count.to_le_bytes());
            bytes.extend(run.start.0.to_le_bytes());
            bytes.extend(at.unwrap_or(0).to_le_bytes());
        }
        bytes.extend(self.label.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let pages = self.places.iter().map(|place| u64::from(place.run.count)).sum();
        for word in [MAGIC, self.places.len() as u64, offset, self.state, pages, self.label.len() as u64] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(sum(&bytes).to_le_bytes());
        bytes
    }

    /// Of the stream that begins at `begin` of the file; `None` where no whole table ends the file.
    pub fn read(file: &File, begin: u64) -> io::Result<Option<Self>> {
        let end = file.metadata()?.len();
        let Some(footer_at) = end.checked_sub(FOOTER as u64).filter(|at| *at > begin) else { return Ok(None) };
        let mut footer = [0; FOOTER];
        file.read_exact_at(&mut footer, footer_at)?;
        let (words, _) = footer.as_chunks::<8>();
        let [magic, count, offset, state, pages, label, _] = words else { return Ok(None) };
        let [magic, count, offset, state, pages, label] =
            [magic, count, offset, state, pages, label].map(|word| u64::from_le_bytes(*word));
        let length = count.checked_mul(PLACE as u64).filter(|_| count <= MOST_PLACES && label <= MOST_LABEL);
        let length = length.map(|places| places + label.next_multiple_of(8));
        let from = begin.checked_add(offset);
        if magic != MAGIC || state >= offset || from.zip(length).and_then(|(a, b)| a.checked_add(b)) != Some(footer_at)
        {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let whole = (end - begin - offset) as usize;
        bytes.try_reserve_exact(whole).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        bytes.resize(whole, 0);
        file.read_exact_at(&mut bytes, begin + offset)?;
        let (body, told) = bytes.split_at(whole - 8);
        if sum(body).to_le_bytes() != told {
            return Ok(None);
        }
        let (places, rest) = body.split_at(count as usize * PLACE);
        let Ok(label) = std::str::from_utf8(&rest[..label as usize]) else { return Ok(None) };
        let (words, _) = places.as_chunks::<PLACE>();
        let places: Vec<Place> = words.iter().map(place).collect();
        let whole = places.iter().map(|place| u64::from(place.run.count)).sum::<u64>() == pages;
        let inside = places
            .iter()
            .all(|it| it.at.is_none_or(|at| at.checked_add(it.run.bytes() as u64).is_some_and(|end| end <= state)));
        Ok((whole && inside).then(|| Self { places, state, label: label.to_owned() }))
    }
}

fn follows(one: PageRun, other: PageRun) -> bool {
    one.block == other.block && one.end() == other.start && one.count.checked_add(other.count).is_some()
}

fn place(bytes: &[u8; PLACE]) -> Place {
    let (words, _) = bytes.as_chunks::<8>();
    let word = |at: usize| words.get(at).map_or(0, |word| u64::from_le_bytes(*word));
    let run = PageRun { block: BlockId(word(0) as u16), start: PageIndex(word(1)), count: (word(0) >> 32) as u32 };
    Place { run, at: Some(word(2)).filter(|at| *at != 0) }
}

/// Tells damage, not malice.
fn sum(bytes: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().fold(ODD, |sum, word| (sum ^ u64::from_le_bytes(*word)).wrapping_mul(ODD).rotate_left(23))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, count: u32) -> PageRun {
        PageRun { block: BlockId(2), start: PageIndex(start), count }
    }

    fn contents() -> PageTable {
        let mut contents = PageTable { state: 60_000, label: "größer".to_owned(), ..PageTable::default() };
        contents.add(&[Place { run: run(0, 3), at: Some(24) }, Place { run: run(3, 1), at: None }], 100);
        contents.add(&[Place { run: run(4, 2), at: None }, Place { run: run(6, 1), at: Some(24) }], 20_000);
        contents
    }

    fn file(bytes: &[u8]) -> File {
        use std::io::Write;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_table_reads_back_as_it_was_written() {
        let wanted = [
            Place { run: run(0, 3), at: Some(124) },
            Place { run: run(3, 3), at: None },
            Place { run: run(6, 1), at: Some(20_024) },
        ];
        let bytes = [vec![7; 1000 + 70_000], contents().encode(70_000)].concat();
        let read = PageTable::read(&file(&bytes), 1000).unwrap().unwrap();
        assert_eq!((read.places.as_slice(), read.state), (wanted.as_slice(), 60_000));
        assert_eq!(read.label, "größer");
        // Another begin is another stream.
        assert!(PageTable::read(&file(&bytes), 0).unwrap().is_none());
    }

    #[test]
    fn a_damaged_table_is_none() {
        let table = contents().encode(0x11170);
        for at in 0..table.len() {
            let mut damaged = table.clone();
            damaged[at] ^= 0x41;
            let bytes = [vec![7; 0x11170], damaged].concat();
            assert!(PageTable::read(&file(&bytes), 0).unwrap().is_none(), "byte {at}");
        }
        for length in [0, 1, FOOTER, table.len() - 1] {
            assert!(PageTable::read(&file(&table[..length]), 0).unwrap().is_none(), "{length} bytes");
        }
    }
}
