//! What has to be in a qcow2 file before something else is, so that whoever ends this process at
//! any moment leaves an image in which nothing refers to a cluster that counts as free, and nothing
//! to one that two have.
//!
//! The crate keeps reference counts in memory until a flush. It orders them before the L2 entries
//! that rely on them, but not before its new tables: an L2 table's place goes into the L1 table at
//! once, so does a refcount block's into the refcount table. A process that was killed then would
//! leave a table whose cluster the next one gives to somebody else. So:
//!
//! - the count of a cluster that a table is put into goes into the file before the table's place
//!   does ([`Tables::write`]);
//! - before a new table is made, everything that was freed is free in the file, too, because the
//!   crate may put it there ([`Tables::lacks`] tells `chain` when);
//! - what the crate remembers as written, though the host failed to, is written before anything
//!   else ([`Tables::settle`]).
//!
//! What a killed process leaves is clusters that count as used and are not. They take room, and
//! nothing else.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imago::file::File;
use imago::{Storage, StorageExt};

use super::header::{AUTOCLEAR, Header, RAW_DATA_FILE};

/// Where the header has the refcount table's place (u64) and clusters (u32).
const REFCOUNTS: Range<usize> = 48..60;
/// Bits of a table's entry that are a place in the file.
const PLACE: u64 = 0x00ff_ffff_ffff_fe00;
/// Says of an L1 entry that nobody else has its table.
const COPIED: u64 = 1 << 63;
/// Bytes of an entry.
const ENTRY: u64 = 8;
/// The most entries of a table, QEMU's limit and the crate's.
const MAX_ENTRIES: u64 = 4 << 20;

/// One of the two tables that stand at the root, as it is in the file once nothing is owed.
#[derive(Debug, Default)]
struct Root {
    at: u64,
    entries: Vec<u64>,
}

impl Root {
    fn read(file: &File, at: u64, entries: u64) -> io::Result<Self> {
        if entries > MAX_ENTRIES {
            return Err(io::Error::other(format!("a table of {entries} entries is too long")));
        }
        let mut bytes = vec![0; (entries * ENTRY) as usize];
        file.read(&mut bytes, at)?;
        let (words, _) = bytes.as_chunks();
        Ok(Self { at, entries: words.iter().map(|word| u64::from_be_bytes(*word)).collect() })
    }

    fn end(&self) -> u64 {
        self.at.saturating_add(self.entries.len() as u64 * ENTRY)
    }

    fn overlaps(&self, offset: u64, length: u64) -> bool {
        offset < self.end() && offset.saturating_add(length) > self.at
    }

    /// Takes over what `bytes` at `offset` say; the places that are new.
    fn update(&mut self, bytes: &[u8], offset: u64) -> Vec<u64> {
        // The first entry that begins in there.
        let first = offset.saturating_sub(self.at).div_ceil(ENTRY);
        let skipped = (self.at + first * ENTRY).saturating_sub(offset) as usize;
        let (words, _) = bytes.get(skipped..).unwrap_or_default().as_chunks();
        let known = self.entries.iter_mut().skip(first as usize);
        let mut new = Vec::new();
        for (known, word) in known.zip(words) {
            let value = u64::from_be_bytes(*word);
            if value & PLACE != 0 && value & PLACE != *known & PLACE {
                new.push(value & PLACE);
            }
            *known = value;
        }
        new
    }
}

/// A write to a root that the crate takes for done.
#[derive(Debug)]
struct Owed {
    offset: u64,
    bytes: Vec<u8>,
    /// What it refers to and did not before: places in the file.
    new: Vec<u64>,
}

#[derive(Debug)]
struct State {
    l1: Root,
    refcounts: Root,
    /// In their order.
    owed: VecDeque<Owed>,
}

/// Where in the file a reference count is.
#[derive(Clone, Copy)]
struct Count {
    at: u64,
    /// Bytes, of which those of less than a byte have `mask`'s bits.
    length: usize,
    mask: u8,
}

/// The tables of an image that is written to. See the module's text.
#[derive(Debug)]
pub struct Tables {
    file: Arc<File>,
    header: Header,
    /// Whether something was written.
    begun: AtomicBool,
    state: Mutex<State>,
}

impl Tables {
    /// Reads them from the file that has `header`. Nothing is written.
    pub fn read(file: Arc<File>, header: Header) -> io::Result<Self> {
        let clusters = u64::from(header.refcounts_clusters) << header.cluster_bits;
        let state = State {
            l1: Root::read(&file, header.l1_offset, header.l1_entries.into())?,
            refcounts: Root::read(&file, header.refcounts_offset, clusters / ENTRY)?,
            owed: VecDeque::new(),
        };
        Ok(Self { file, header, begun: AtomicBool::new(false), state: Mutex::new(state) })
    }

    /// What the image relies on and counts as free, if there is such a thing: it would be given to
    /// somebody else. Cluster 0 has the header.
    pub fn counted_as_free(&self) -> io::Result<Option<&'static str>> {
        let state = self.state();
        let bits = self.header.cluster_bits;
        let roots = [("header", 0..1), ("L1 table", state.l1.at..state.l1.end())];
        let refcounts = [("refcount table", state.refcounts.at..state.refcounts.end())];
        for (what, range) in roots.into_iter().chain(refcounts) {
            let clusters = (range.start >> bits)..range.end.div_ceil(1 << bits);
            for cluster in clusters {
                if !self.is_counted(&state, cluster)? {
                    return Ok(Some(what));
                }
            }
        }
        for (what, entries) in [("refcount block", &state.refcounts.entries), ("L2 table", &state.l1.entries)] {
            for place in entries.iter().map(|entry| entry & PLACE).filter(|place| *place != 0) {
                if !self.is_counted(&state, place >> bits)? {
                    return Ok(Some(what));
                }
            }
        }
        Ok(None)
    }

    /// Whether a part of the disk has a place for its mapping, but in a table that is yet to be
    /// made or copied.
    pub fn lacks(&self, offset: u64, length: u64) -> bool {
        let state = self.state();
        let mut tables = self.tables(offset, length);
        tables.any(|table| state.l1.entries.get(table as usize).is_none_or(|it| it & PLACE == 0 || it & COPIED == 0))
    }

    /// Whether a part of the disk, with no more than one table, has none: nothing is mapped there.
    pub fn is_unmapped(&self, offset: u64) -> bool {
        let entry = self.state().l1.entries.get((offset >> self.header.table_bits()) as usize).copied();
        entry.is_none_or(|it| it & PLACE == 0)
    }

    /// Where the part of the disk ends that has its mapping in one table with the byte at `offset`.
    pub fn end_of_table(&self, offset: u64) -> u64 {
        let bits = self.header.table_bits();
        ((offset >> bits) + 1).checked_shl(bits).filter(|end| *end > offset).unwrap_or(u64::MAX)
    }

    /// Whether the external data file is to be a raw image by itself.
    pub fn keeps_raw_data(&self) -> bool {
        self.header.keeps_raw_data()
    }

    fn tables(&self, offset: u64, length: u64) -> Range<u64> {
        let bits = self.header.table_bits();
        match offset.saturating_add(length).checked_sub(1) {
            Some(last) if length > 0 => offset >> bits..(last >> bits) + 1,
            _ => 0..0,
        }
    }

    /// Before the first write: the bits go that say of something in the image (QEMU's dirty
    /// bitmaps) that it is up to date. Not before there is something to write, so that an image
    /// that is opened and refused, or only read, stays as it is.
    pub fn begin(&self) -> io::Result<()> {
        if self.begun.load(Ordering::Relaxed) {
            return Ok(());
        }
        let kept = if self.keeps_raw_data() { RAW_DATA_FILE } else { 0 };
        if self.header.autoclear & !kept != 0 {
            self.put(&(self.header.autoclear & kept).to_be_bytes(), AUTOCLEAR)?;
            self.file.sync()?;
        }
        self.begun.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether a write there is [`Tables::write`]'s.
    pub fn concerns(&self, offset: u64, length: u64) -> bool {
        let state = self.state();
        offset < REFCOUNTS.end as u64 || state.l1.overlaps(offset, length) || state.refcounts.overlaps(offset, length)
    }

    /// Writes to the header or to a root, and before that the counts of what is referred to.
    pub fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        if offset < REFCOUNTS.end as u64 {
            self.begin()?;
            self.pay(&mut state)?;
            return self.write_header(&mut state, bytes, offset);
        }
        let mut new = state.refcounts.update(bytes, offset);
        new.extend(state.l1.update(bytes, offset));
        state.owed.push_back(Owed { offset, bytes: bytes.to_vec(), new });
        self.pay(&mut state)
    }

    /// Writes what the host failed to. Comes before every other write to the file, and at a flush,
    /// when there may be nothing to write.
    pub fn settle(&self) -> io::Result<()> {
        self.pay(&mut self.state())
    }

    fn pay(&self, state: &mut State) -> io::Result<()> {
        while let Some(owed) = state.owed.front() {
            self.begin()?;
            owed.new.iter().try_for_each(|place| self.count(state, place >> self.header.cluster_bits))?;
            self.put(&owed.bytes, owed.offset)?;
            state.owed.pop_front();
        }
        Ok(())
    }

    /// The crate writes all of a header's older part when the refcount table has moved. (The L1
    /// table is long enough from the start.)
    fn write_header(&self, state: &mut State, bytes: &[u8], offset: u64) -> io::Result<()> {
        let pointer = bytes.get(REFCOUNTS).filter(|_| offset == 0);
        let moved = match pointer.and_then(|it| Some((it.first_chunk()?, it.last_chunk()?))) {
            Some((at, clusters)) => {
                let entries = (u64::from(u32::from_be_bytes(*clusters)) << self.header.cluster_bits) / ENTRY;
                // It was written before.
                Some(Root::read(&self.file, u64::from_be_bytes(*at), entries)?)
            }
            None => None,
        };
        self.put(bytes, offset)?;
        state.refcounts = moved.unwrap_or(std::mem::take(&mut state.refcounts));
        Ok(())
    }

    /// Has the file count `cluster` as used.
    fn count(&self, state: &State, cluster: u64) -> io::Result<()> {
        let Some(count) = self.place(state, cluster) else {
            return Err(io::Error::other(format!("no refcount block has cluster {cluster}")));
        };
        let mut bytes = [0; 8];
        let bytes = &mut bytes[..count.length];
        self.file.read(&mut *bytes, count.at)?;
        if bytes.iter().any(|byte| byte & count.mask != 0) {
            return Ok(());
        }
        // One, and of several bytes the last is the lowest.
        bytes[count.length - 1] |= 1 << count.mask.trailing_zeros();
        self.put(bytes, count.at)
    }

    fn is_counted(&self, state: &State, cluster: u64) -> io::Result<bool> {
        let Some(count) = self.place(state, cluster) else { return Ok(false) };
        let mut bytes = [0; 8];
        let bytes = &mut bytes[..count.length];
        self.file.read(&mut *bytes, count.at)?;
        Ok(bytes.iter().any(|byte| byte & count.mask != 0))
    }

    /// `None` if it counts as free for want of a refcount block.
    fn place(&self, state: &State, cluster: u64) -> Option<Count> {
        let order = self.header.refcount_order;
        let bits = self.header.cluster_bits + 3 - order;
        let block = state.refcounts.entries.get(usize::try_from(cluster >> bits).ok()?)? & PLACE;
        let bit = (cluster & ((1 << bits) - 1)) << order;
        // Those of less than a byte begin at its lowest bits.
        let mask = if order < 3 { ((1 << (1 << order)) - 1) << (bit % 8) } else { 0xff };
        (block != 0).then_some(Count { at: block + bit / 8, length: (1 << order >> 3).max(1), mask })
    }

    fn put(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        let bytes = &bytes[..super::fuse::takes(bytes.len() as u64)? as usize];
        self.file.write(bytes, offset)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
