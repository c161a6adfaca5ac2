//! Precopied pages on their way out of which only the changes go: a copy of each page is made, sent
//! and kept.
//!
//! What is kept must be what was sent, to the byte: the guest writes its pages meanwhile, so each
//! is read once, and everything else is done with the copy.

use crate::channel::Batch;
use crate::encoding::{Page, PageCache, encode_xbzrle};
use crate::memory::RamBlock;
use crate::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};
use crate::stats::XbzrleReport;
use crate::wire::{Forward, Header, MAX_COMPRESSED_PAGES};

/// Bytes of a message besides the changes.
const MESSAGE: usize = Header::LEN + 16;

/// How a page goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SentAs {
    Whole,
    Changes,
}

/// Pages in a row that go the same way: one message.
#[derive(Debug)]
struct Open {
    way: SentAs,
    run: PageRun,
}

/// Pages as they were sent, and what is made of them.
pub(super) struct XbzrleEncoder {
    cache: PageCache,
    room: u64,
    page: Box<Page>,
    open: Option<Open>,
    /// What follows its message.
    bytes: Vec<u8>,
    changes: Vec<u8>,
    report: XbzrleReport,
    /// At the last reading of the log: the pages and bytes of changes, and the misses.
    then: (u64, u64, u64),
}

/// What went of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct XbzrleSent {
    pub whole: u64,
    pub changes: u64,
}

impl XbzrleEncoder {
    pub fn new(ram: &[RamBlock], room: u64) -> Self {
        Self {
            cache: PageCache::new(ram, room),
            room,
            page: Box::new([0; PAGE_SIZE]),
            open: None,
            bytes: Vec::new(),
            changes: Vec::new(),
            report: XbzrleReport { cache_size: room, ..XbzrleReport::default() },
            then: (0, 0, 0),
        }
    }

    /// The user wants the cache to have this size.
    pub fn resize(&mut self, room: u64) {
        if room != self.room {
            self.cache.resize(room);
            (self.room, self.report.cache_size) = (room, room);
        }
    }

    pub fn begin_pass(&mut self, pass: u32) {
        self.cache.begin_pass(pass);
    }

    /// The log was read: the rates are of the time since the last time.
    pub fn synced(&mut self) {
        let now = (self.report.pages, self.report.bytes, self.report.cache_miss);
        let (pages, bytes, missed) = (now.0 - self.then.0, now.1 - self.then.1, now.2 - self.then.2);
        let part = |of: u64, all: u64| if all == 0 { 0.0 } else { of as f64 / all as f64 };
        self.report.cache_miss_rate = part(missed, missed + pages);
        self.report.encoding_rate = part(pages * PAGE_SIZE as u64, bytes);
        self.then = now;
    }

    pub fn report(&self) -> XbzrleReport {
        self.report
    }

    /// Adds the run as it is now. Pages that are zero, if that is of interest, are given to `zero`
    /// instead.
    pub fn push(
        &mut self,
        block: &RamBlock,
        run: PageRun,
        batch: &mut Batch,
        mut zero: Option<impl FnMut(PageRun)>,
    ) -> XbzrleSent {
        let mut went = XbzrleSent::default();
        for page in run.pages() {
            block.read(page, &mut self.page);
            if let Some(zero) = &mut zero
                && is_zero(&self.page)
            {
                self.cache.forget(run.block, page);
                zero(PageRun::single(run.block, page));
                continue;
            }
            match self.push_page(run.block, page, batch) {
                SentAs::Whole => went.whole += 1,
                SentAs::Changes => went.changes += 1,
            }
        }
        self.end(batch);
        went
    }

    fn push_page(&mut self, block: BlockId, page: PageIndex, batch: &mut Batch) -> SentAs {
        self.changes.clear();
        let way = match self.cache.sent(block, page) {
            None => {
                self.report.cache_miss += u64::from(!self.cache.is_first_pass());
                self.cache.keep(block, page, &self.page);
                SentAs::Whole
            }
            Some(sent) => {
                let shorter = encode_xbzrle(sent, &self.page, &mut self.changes);
                sent.copy_from_slice(&*self.page);
                self.report.overflow += u64::from(!shorter);
                if shorter { SentAs::Changes } else { SentAs::Whole }
            }
        };
        self.join(PageRun::single(block, page), way, batch);
        match way {
            SentAs::Whole => self.bytes.extend_from_slice(&*self.page),
            SentAs::Changes => {
                self.bytes.extend((self.changes.len() as u16).to_le_bytes());
                self.bytes.extend_from_slice(&self.changes);
            }
        }
        way
    }

    /// The page goes with those before it, or they go first.
    fn join(&mut self, page: PageRun, way: SentAs, batch: &mut Batch) {
        match &mut self.open {
            Some(open) if open.way == way && open.run.end() == page.start && open.run.count < MAX_COMPRESSED_PAGES => {
                open.run.count += 1;
            }
            _ => {
                self.end(batch);
                self.open = Some(Open { way, run: page });
            }
        }
    }

    fn end(&mut self, batch: &mut Batch) {
        let Some(Open { way, run }) = self.open.take() else { return };
        let message = match way {
            SentAs::Whole => Forward::Pages(run),
            SentAs::Changes => {
                self.report.pages += u64::from(run.count);
                self.report.bytes += (MESSAGE + self.bytes.len()) as u64;
                Forward::Xbzrle { run, length: self.bytes.len() as u32 }
            }
        };
        batch.push_with(&message, &self.bytes);
        self.bytes.clear();
    }
}

/// Whether every byte of the copy is zero.
fn is_zero(page: &Page) -> bool {
    page.as_chunks::<64>().0.iter().all(|line| line.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::AnonymousRam;

    const ROOM: u64 = 1 << 20;

    fn ram() -> RamBlock {
        let block = AnonymousRam::block("ram0", 200).unwrap();
        (0..100).for_each(|page| block.write(PageIndex(page), 0, &[page as u8 + 1; PAGE_SIZE]));
        block
    }

    fn run(start: u64, count: u32) -> PageRun {
        PageRun { block: BlockId(0), start: PageIndex(start), count }
    }

    /// What the run goes as, zeros apart.
    fn went(changed: &mut XbzrleEncoder, block: &RamBlock, run: PageRun) -> (u64, u64, Vec<u64>) {
        let (mut batch, mut zeros) = (Batch::default(), Vec::new());
        let went = changed.push(block, run, &mut batch, Some(|run: PageRun| zeros.push(run.start.0)));
        (went.whole, went.changes, zeros)
    }

    #[test]
    fn a_page_goes_whole_once_and_then_as_what_changed_of_it() {
        let (block, mut changed) = (ram(), XbzrleEncoder::new(&[ram()], ROOM));
        assert_eq!(went(&mut changed, &block, run(98, 4)), (2, 0, vec![100, 101]));
        changed.begin_pass(2);
        block.write(PageIndex(98), 7, &[1, 2, 3]);
        block.write(PageIndex(100), 7, &[1, 2, 3]);
        assert_eq!(went(&mut changed, &block, run(98, 3)), (1, 2, vec![]), "of what was zero nothing is known");
        changed.synced();
        let report = changed.report();
        assert_eq!((report.pages, report.cache_miss, report.overflow), (2, 1, 0));
        assert_eq!(report.bytes, 24 + (2 + 2 + 3) + 2);
        assert_eq!(report.cache_miss_rate, 1.0 / 3.0);
        assert_eq!(report.encoding_rate, 2.0 * PAGE_SIZE as f64 / report.bytes as f64);
        changed.synced();
        assert_eq!((changed.report().cache_miss_rate, changed.report().encoding_rate), (0.0, 0.0));
    }

    #[test]
    fn a_page_that_is_another_one_goes_whole_and_is_known_from_then_on() {
        let (block, mut changed) = (ram(), XbzrleEncoder::new(&[ram()], ROOM));
        went(&mut changed, &block, run(0, 1));
        block.write(PageIndex(0), 0, &[99; PAGE_SIZE]);
        changed.begin_pass(2);
        assert_eq!(went(&mut changed, &block, run(0, 1)), (1, 0, vec![]));
        assert_eq!(changed.report().overflow, 1);
        assert_eq!(went(&mut changed, &block, run(0, 1)), (0, 1, vec![]));
    }
}
