//! [`Layout`]: what stands where in a file with mapped RAM.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::bitmap::PageBitmap;
use crate::channel::ChannelError;
use crate::ram::PAGE_SIZE;
use crate::wire::{DecodeError, Forward, Header, Hello, decode_forward, tag};

#[cfg(test)]
mod tests;

/// Pages begin at multiples of it in the file: enough for any disk's blocks, and for huge pages of
/// whoever maps the file.
const ALIGNMENT: u64 = 1 << 20;
/// Length of the message `mapped` in bytes, its header included.
pub(super) const MAPPED_LEN: usize = Header::LEN + 32;
/// Where the messages of the introduction begin.
pub(super) const INTRODUCTION: u64 = (Hello::LEN + MAPPED_LEN) as u64;
/// Length of a block's row in the table, in bytes.
const ROW_LEN: u64 = 32;
/// The longest introduction: three messages of at most 1 MiB, in bytes.
const MOST_INTRODUCTION: u64 = 4 << 20;
/// The longest tail, in bytes: a state, and little else.
const MOST_TAIL: u64 = 65 << 20;
/// Guest RAM beyond this is no guest's: 64 TiB.
const MOST_PAGES: u64 = 1 << 34;
/// So much of a bitmap is read at once, in bytes.
const PIECE: usize = 64 * 1024;

/// Why no guest can be read from a file with mapped RAM.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MappedError {
    /// Whoever wrote it did not come to the end.
    #[error("the guest in it was not written to its end: the migration failed, was cancelled, or is still under way")]
    Unfinished,
    /// Something is missing at the end.
    #[error("it was cut: it has {length} bytes of {claimed}")]
    Cut {
        /// Its length in bytes.
        length: u64,
        /// What it should be at least.
        claimed: u64,
    },
    /// A field has a value that it cannot have.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// A message in it has.
    #[error("it is damaged: message '{name}' is not of the protocol", name = tag::name(*.0))]
    Message(u16, #[source] DecodeError),
    /// The host.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// Its file system has no `O_DIRECT`.
    #[error("its file system does not do direct I/O")]
    NoDirect(#[source] io::Error),
    /// Its pages do not stand where a disk can be read directly.
    #[error("its pages do not begin at multiples of {PAGE_SIZE} bytes")]
    NotAligned,
}

impl From<MappedError> for ChannelError {
    fn from(error: MappedError) -> Self {
        Self::File(Box::new(error))
    }
}

fn damaged(why: impl Into<String>) -> MappedError {
    MappedError::Damaged(why.into())
}

/// The message behind the hello: positions count from the hello's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapped {
    /// How many rows the table has.
    pub blocks: u32,
    /// Where the table begins.
    pub table: u64,
    /// Where the tail begins, and how long it is; none while the guest is being written.
    pub tail: Option<(u64, u64)>,
}

impl Mapped {
    pub fn encode(self) -> [u8; MAPPED_LEN] {
        let (tail, length) = self.tail.unwrap_or_default();
        let mut bytes = [0; MAPPED_LEN];
        bytes[..2].copy_from_slice(&tag::MAPPED.to_le_bytes());
        bytes[4..8].copy_from_slice(&((MAPPED_LEN - Header::LEN) as u32).to_le_bytes());
        bytes[8..12].copy_from_slice(&self.blocks.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.table.to_le_bytes());
        bytes[24..32].copy_from_slice(&tail.to_le_bytes());
        bytes[32..40].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    /// `None`: another message.
    pub fn decode(bytes: &[u8; MAPPED_LEN]) -> Option<Result<Self, MappedError>> {
        let (header, body) = bytes.split_first_chunk::<{ Header::LEN }>()?;
        if u16::from_le_bytes([header[0], header[1]]) != tag::MAPPED {
            return None;
        }
        Some(Self::of(*header, body))
    }

    fn of(header: [u8; Header::LEN], body: &[u8]) -> Result<Self, MappedError> {
        let header = Header::decode(header).map_err(|error| MappedError::Message(tag::MAPPED, error))?;
        let (Some([blocks, table, tail, length]), true) = (words(body), header.length as usize == body.len()) else {
            return Err(MappedError::Message(tag::MAPPED, DecodeError::Short(tag::MAPPED)));
        };
        let blocks = u32::try_from(blocks).map_err(|_| damaged("its header has unknown flags"))?;
        let tail = (tail != 0).then_some((tail, length));
        Ok(Self { blocks, table, tail })
    }
}

/// The numbers that fill these bytes.
fn words<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let (words, rest) = bytes.as_chunks::<8>();
    let words: &[[u8; 8]; N] = words.try_into().ok().filter(|_| rest.is_empty())?;
    Some(words.map(u64::from_le_bytes))
}

/// One block's row of the table; positions as in [`Mapped`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub pages: u64,
    /// Where its bitmap begins.
    pub bitmap: u64,
    /// Where its pages begin.
    pub area: u64,
}

impl Row {
    /// Length of its bitmap in bytes.
    fn bitmap_len(self) -> u64 {
        self.pages.div_ceil(64) * 8
    }

    pub fn encode(self, out: &mut Vec<u8>) {
        for word in [self.pages, self.bitmap, self.bitmap_len(), self.area] {
            out.extend(word.to_le_bytes());
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, MappedError> {
        let Some([pages, bitmap, bitmap_len, area]) = words(bytes) else { return Err(damaged("its table is short")) };
        let row = Self { pages, bitmap, area };
        if pages > MOST_PAGES || bitmap_len != row.bitmap_len() {
            return Err(damaged(format!("a bitmap of {bitmap_len} bytes cannot be that of a block of {pages} pages")));
        }
        Ok(row)
    }
}

/// Where everything is going to stand, positions as in [`Mapped`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub table: u64,
    pub rows: Vec<Row>,
    pub tail: u64,
}

impl Plan {
    /// For a hello at `base`, an introduction of so many bytes, and blocks of so many pages.
    /// `None`: no file is that long.
    pub fn new(base: u64, introduction: u64, pages: &[u64]) -> Option<Self> {
        let table = INTRODUCTION.checked_add(introduction)?;
        let mut at = table.checked_add(ROW_LEN * pages.len() as u64)?;
        let mut rows = Vec::new();
        for &pages in pages {
            let row = Row { pages, bitmap: at, area: 0 };
            at = at.checked_add(row.bitmap_len())?;
            rows.push(row);
        }
        for row in &mut rows {
            row.area = base.checked_add(at)?.checked_next_multiple_of(ALIGNMENT)? - base;
            at = row.area.checked_add(row.pages.checked_mul(PAGE_SIZE as u64)?)?;
        }
        base.checked_add(at).filter(|end| i64::try_from(*end).is_ok())?;
        Some(Self { table, rows, tail: at })
    }

    /// The message that says so; `tail` is its length, if it is there.
    pub fn mapped(&self, tail: Option<u64>) -> Mapped {
        Mapped { blocks: self.rows.len() as u32, table: self.table, tail: tail.map(|length| (self.tail, length)) }
    }
}

/// One block's pages in the file.
#[derive(Debug)]
pub(in crate::stream) struct Area {
    /// Those that are not zero.
    pub present: PageBitmap,
    /// Where in the file the block's first page stands, in bytes.
    pub at: u64,
}

/// A whole guest in a file: all but its pages.
pub(in crate::stream) struct Layout {
    pub hello: Hello,
    /// The messages before the first page.
    pub introduction: Vec<Forward>,
    pub state: Forward,
    /// Whether the guest ran.
    pub running: bool,
    /// One for each block.
    pub areas: Vec<Area>,
}

impl Layout {
    /// Of the guest that begins at byte `base` of `file`. `None`: that is no file with mapped RAM.
    /// Reads a few bytes for each MiB of the guest.
    pub fn of(file: &File, base: u64) -> Result<Option<Self>, ChannelError> {
        let mut begin = [0; INTRODUCTION as usize];
        if let Err(error) = file.read_exact_at(&mut begin, base) {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof => Ok(None),
                // What cannot be read anywhere but in order: a pipe.
                _ if error.raw_os_error() == Some(libc::ESPIPE) => Ok(None),
                _ => Err(error.into()),
            };
        }
        let Some((hello, mapped)) = begin.split_first_chunk::<{ Hello::LEN }>() else { return Ok(None) };
        let Some(mapped) = mapped.first_chunk().and_then(Mapped::decode) else { return Ok(None) };
        let hello = Hello::decode(hello)?;
        hello.choose()?;
        Ok(Some(Reader { file, base }.layout(hello, mapped?)?))
    }
}

/// Reads a file whose positions are counted from `base`.
struct Reader<'a> {
    file: &'a File,
    base: u64,
}

impl Reader<'_> {
    fn layout(&self, hello: Hello, mapped: Mapped) -> Result<Layout, MappedError> {
        let Some((tail, tail_len)) = mapped.tail else { return Err(MappedError::Unfinished) };
        let length = self.file.metadata().map_err(MappedError::Read)?.len().saturating_sub(self.base);
        let introduction = mapped.table.checked_sub(INTRODUCTION).filter(|bytes| *bytes <= MOST_INTRODUCTION);
        let introduction = introduction.ok_or_else(|| damaged("its table cannot stand where it is said to"))?;
        if tail_len > MOST_TAIL {
            return Err(damaged(format!("a guest's state has no {tail_len} bytes")));
        }
        let end = tail.checked_add(tail_len).ok_or_else(|| damaged("its tail is beyond any file"))?;
        if end > length {
            return Err(MappedError::Cut { length, claimed: end });
        }
        let introduction = messages(&self.bytes(INTRODUCTION, introduction)?)?;
        let pages = match &introduction[..] {
            [Forward::Configuration(_), Forward::Ram { blocks, .. }, Forward::Description(_)] => {
                blocks.iter().map(|block| block.pages).collect::<Vec<_>>()
            }
            _ => return Err(damaged("it does not begin with a guest's configuration")),
        };
        let rows = self.rows(&mapped, &pages)?;
        apart(&mapped, &rows, (tail, end))?;
        let areas = rows.iter().map(|row| self.area(*row)).collect::<Result<_, _>>()?;
        let (state, running) = match <[Forward; 3]>::try_from(messages(&self.bytes(tail, tail_len)?)?) {
            Ok([state @ Forward::State(_), Forward::HandOver { running }, Forward::Complete]) => (state, running),
            _ => return Err(damaged("it does not end with a guest's state")),
        };
        Ok(Layout { hello, introduction, state, running, areas })
    }

    fn bytes(&self, at: u64, count: u64) -> Result<Vec<u8>, MappedError> {
        let mut bytes = vec![0; count as usize];
        self.read(&mut bytes, at)?;
        Ok(bytes)
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> Result<(), MappedError> {
        let at = self.base.checked_add(at).ok_or_else(|| damaged("it goes beyond any file"))?;
        self.file.read_exact_at(bytes, at).map_err(MappedError::Read)
    }

    /// The table, which has to be about blocks of so many pages.
    fn rows(&self, mapped: &Mapped, pages: &[u64]) -> Result<Vec<Row>, MappedError> {
        if mapped.blocks as usize != pages.len() {
            return Err(damaged(format!("its table has {} blocks, its guest {}", mapped.blocks, pages.len())));
        }
        if pages.iter().try_fold(0u64, |sum, pages| sum.checked_add(*pages)).is_none_or(|sum| sum > MOST_PAGES) {
            return Err(damaged("its guest has more RAM than any"));
        }
        let table = self.bytes(mapped.table, ROW_LEN * u64::from(mapped.blocks))?;
        let rows: Vec<Row> = table.chunks(ROW_LEN as usize).map(Row::decode).collect::<Result<_, _>>()?;
        match rows.iter().zip(pages).position(|(row, pages)| row.pages != *pages) {
            Some(block) => Err(damaged(format!("its table does not have the pages of block {block}"))),
            None => Ok(rows),
        }
    }

    fn area(&self, row: Row) -> Result<Area, MappedError> {
        let present = PageBitmap::new(row.pages);
        let mut piece = vec![0; PIECE];
        let (mut word, mut at, mut rest) = (0, row.bitmap, row.bitmap_len());
        while rest > 0 {
            let piece = &mut piece[..rest.min(PIECE as u64) as usize];
            self.read(piece, at)?;
            for bits in piece.as_chunks::<8>().0 {
                let bits = u64::from_le_bytes(*bits);
                if present.or_word(word, bits) != bits {
                    return Err(damaged("a bitmap has pages that its block does not have"));
                }
                word += 1;
            }
            at += piece.len() as u64;
            rest -= piece.len() as u64;
        }
        // Both are within the file, which is no longer than this.
        Ok(Area { present, at: self.base + row.area })
    }
}

/// The messages that fill these bytes.
fn messages(mut bytes: &[u8]) -> Result<Vec<Forward>, MappedError> {
    let mut messages = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<{ Header::LEN }>() {
        let number = u16::from_le_bytes([header[0], header[1]]);
        let decoded = Header::decode(*header).and_then(|header| {
            let (fields, rest) = rest.split_at_checked(header.fields()).ok_or(DecodeError::Short(header.tag))?;
            Ok((decode_forward(header, fields)?, rest))
        });
        let (message, rest) = decoded.map_err(|error| MappedError::Message(number, error))?;
        messages.push(message);
        bytes = rest;
    }
    if bytes.is_empty() { Ok(messages) } else { Err(damaged("a message ends in its header")) }
}

/// Nothing may stand on anything else: a page that is the state of a CPU, or another's page, is
/// nobody's wish.
fn apart(mapped: &Mapped, rows: &[Row], tail: (u64, u64)) -> Result<(), MappedError> {
    let beyond = || damaged("a block is beyond any file");
    let span = |at: u64, length: Option<u64>| {
        let end = length.and_then(|length| at.checked_add(length)).ok_or_else(beyond)?;
        Ok((at, end))
    };
    let mut spans = vec![span(0, mapped.table.checked_add(ROW_LEN * rows.len() as u64))?, tail];
    for row in rows {
        spans.push(span(row.bitmap, Some(row.bitmap_len()))?);
        spans.push(span(row.area, row.pages.checked_mul(PAGE_SIZE as u64))?);
    }
    spans.sort_unstable();
    if spans.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err(damaged("parts of it stand on each other"));
    }
    // The tail, which is within the file, is the last: so is all else.
    if spans.last() != Some(&tail) {
        return Err(damaged("pages stand behind its tail"));
    }
    Ok(())
}
