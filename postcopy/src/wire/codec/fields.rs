//! The fields of a message: [`Writer`] puts them behind each other, [`Reader`] takes them apart.

use super::super::fragment::{Fragment, MAX_WORDS};
use super::super::hello::cut;
use super::super::{Forward, MAX_COMPRESSED_PAGES, MAX_RUN_PAGES};
use super::{CHANGES_HEAD, DecodeError, Header, MAX_ENTRIES, PACKED_LEN, RUN_LEN, SENTENCE};
use crate::encoding::Codec;
use crate::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};

/// Appends one message to a buffer; its length is filled in at the end.
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    contents: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>, tag: u16) -> Self {
        let start = out.len();
        out.extend(tag.to_le_bytes());
        out.extend([0; 6]);
        Self { out, start, contents: 0 }
    }

    pub(super) fn end(self) {
        let length = (self.out.len() - self.start - Header::LEN + self.contents) as u32;
        self.out[self.start + 4..self.start + 8].copy_from_slice(&length.to_le_bytes());
    }

    /// Announces page contents that follow the message.
    pub(super) fn contents(&mut self, bytes: usize) {
        self.contents = bytes;
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.bytes(text.as_bytes());
    }

    /// Fills the rest of the message; a longer one is cut between characters.
    pub(super) fn sentence(&mut self, text: &str) {
        self.bytes(cut(text, SENTENCE).as_bytes());
    }

    pub(super) fn run(&mut self, run: PageRun) {
        self.u32(u32::from(run.block.0));
        self.u32(run.count);
        self.u64(run.start.0);
    }

    pub(super) fn fragment(&mut self, fragment: &Fragment) {
        self.u32(u32::from(fragment.block.0));
        self.u32(fragment.words.len() as u32);
        self.u64(fragment.first_word);
        fragment.words.iter().for_each(|word| self.u64(*word));
    }
}

/// Takes fields off the front of one message's body.
pub(super) struct Reader<'a> {
    pub(super) tag: u16,
    pub(super) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Short(self.tag))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Short(self.tag))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn field(&self, field: &'static str) -> DecodeError {
        DecodeError::Field { tag: self.tag, field }
    }

    pub(super) fn text(&mut self) -> Result<String, DecodeError> {
        let length = self.u32()? as usize;
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.field("text"))
    }

    pub(super) fn text_to_end(&mut self) -> Result<String, DecodeError> {
        let bytes = self.take(self.rest.len())?;
        // A sentence meant for a person: show what can be shown.
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    /// A counted list whose entries take at least `least` bytes each, so that a lying count
    /// allocates nothing.
    pub(super) fn list<T>(
        &mut self,
        least: usize,
        mut entry: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.u32()? as usize;
        if count > MAX_ENTRIES || count > self.rest.len() / least {
            return Err(self.field("count"));
        }
        (0..count).map(|_| entry(self)).collect()
    }

    pub(super) fn block(&mut self) -> Result<BlockId, DecodeError> {
        u16::try_from(self.u32()?).map(BlockId).map_err(|_| self.field("block number"))
    }

    pub(super) fn run(&mut self, most: u32) -> Result<PageRun, DecodeError> {
        let block = self.block()?;
        let count = self.u32()?;
        let start = PageIndex(self.u64()?);
        if count == 0 || count > most || start.0.checked_add(u64::from(count)).is_none() {
            return Err(self.field("page count"));
        }
        Ok(PageRun { block, start, count })
    }

    pub(super) fn pages(&mut self, header: Header) -> Result<PageRun, DecodeError> {
        let run = self.run(MAX_RUN_PAGES)?;
        if header.length as usize != RUN_LEN + run.bytes() {
            return Err(self.field("length"));
        }
        Ok(run)
    }

    /// What is as long as its pages gains nothing, and is longer than anything honest.
    pub(super) fn packed(&mut self, header: Header) -> Result<Forward, DecodeError> {
        let run = self.run(MAX_COMPRESSED_PAGES)?;
        let codec = self.u32().and_then(|number| Codec::of(number).ok_or(self.field("codec")))?;
        match (header.length as usize).saturating_sub(PACKED_LEN) {
            length if length < run.bytes() => Ok(Forward::Compressed { run, codec, length: length as u32 }),
            _ => Err(self.field("length")),
        }
    }

    pub(super) fn delta(&mut self, header: Header) -> Result<Forward, DecodeError> {
        let run = self.run(MAX_COMPRESSED_PAGES)?;
        let length = header.length.saturating_sub(RUN_LEN as u32);
        // Each page has its length, and less than a page after it.
        match (run.count * CHANGES_HEAD..run.count * (CHANGES_HEAD + PAGE_SIZE as u32)).contains(&length) {
            true => Ok(Forward::Xbzrle { run, length }),
            false => Err(self.field("length")),
        }
    }

    pub(super) fn runs(&mut self, most: u32) -> Result<Vec<PageRun>, DecodeError> {
        if self.rest.is_empty() || !self.rest.len().is_multiple_of(RUN_LEN) {
            return Err(self.field("length"));
        }
        (0..self.rest.len() / RUN_LEN).map(|_| self.run(most)).collect()
    }

    pub(super) fn fragment(&mut self) -> Result<Fragment, DecodeError> {
        let block = self.block()?;
        let count = self.u32()? as usize;
        let first_word = self.u64()?;
        if count == 0 || count > MAX_WORDS || count * 8 != self.rest.len() {
            return Err(self.field("word count"));
        }
        let words = (0..count).map(|_| self.u64()).collect::<Result<_, _>>()?;
        Ok(Fragment { block, first_word, words })
    }

    pub(super) fn end(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Rest { tag: self.tag, rest: self.rest.len() }) }
    }
}
