//! [`PageCache`]: pages as they were sent, so that what changes of them later can go alone.

use super::Page;
use crate::memory::RamBlock;
use crate::ram::{BlockId, PAGE_SIZE, PageIndex};

/// A page that was not asked for in so many passes makes room for another one.
const LIFETIME: u32 = 2;

/// What a page was when it was sent last.
struct Entry {
    page: u64,
    /// The pass in which it was sent last. In the first pass all pages are sent, which says nothing
    /// of them: that counts as none.
    used: u32,
    bytes: Page,
}

/// Pages as they were sent. Each page has one place, which it shares with others.
pub(crate) struct PageCache {
    places: Vec<Option<Box<Entry>>>,
    /// The number of each block's first page, counted through all of RAM.
    begins: Vec<u64>,
    pages: u64,
    pass: u32,
}

impl PageCache {
    /// For this guest's RAM, with room for `bytes` bytes of pages, a power of two, or for all of
    /// RAM if that is less.
    pub fn new(ram: &[RamBlock], bytes: u64) -> Self {
        let begins: Vec<u64> =
            ram.iter().scan(0, |next, block| Some(std::mem::replace(next, *next + block.pages()))).collect();
        let pages = ram.iter().map(RamBlock::pages).sum();
        let mut cache = Self { places: Vec::new(), begins, pages, pass: 1 };
        cache.resize(bytes);
        cache
    }

    /// Room for so many bytes from now on. What has a place in it stays.
    pub fn resize(&mut self, bytes: u64) {
        let most = self.pages.max(1).next_power_of_two();
        let count = (bytes / PAGE_SIZE as u64).clamp(1, most) as usize;
        if count == self.places.len() {
            return;
        }
        let old = std::mem::replace(&mut self.places, std::iter::repeat_with(|| None).take(count).collect());
        for entry in old.into_iter().flatten() {
            let place = self.place(entry.page);
            // Of two that share a place now, the one that was of use later stays.
            if place.as_ref().is_none_or(|other| other.used < entry.used) {
                *place = Some(entry);
            }
        }
    }

    /// A pass begins, counted from 1.
    pub fn begin_pass(&mut self, pass: u32) {
        self.pass = pass;
    }

    /// Whether this is the first pass: nothing was sent before.
    pub fn is_first_pass(&self) -> bool {
        self.pass <= 1
    }

    fn number(&self, block: BlockId, page: PageIndex) -> u64 {
        self.begins.get(usize::from(block.0)).map_or(0, |begin| begin + page.0)
    }

    fn place(&mut self, page: u64) -> &mut Option<Box<Entry>> {
        let count = self.places.len();
        &mut self.places[(page % count as u64) as usize]
    }

    fn used(&self) -> u32 {
        if self.is_first_pass() { 0 } else { self.pass }
    }

    /// The page as it was sent last, to be replaced by what is sent now; `None` if that is not
    /// known.
    pub fn sent(&mut self, block: BlockId, page: PageIndex) -> Option<&mut Page> {
        let (page, used) = (self.number(block, page), self.used());
        let entry = self.place(page).as_mut().filter(|entry| entry.page == page)?;
        entry.used = used;
        Some(&mut entry.bytes)
    }

    /// The page, which has no place here, is sent with these bytes: keeps them, unless its place
    /// has something that is used more.
    pub fn keep(&mut self, block: BlockId, page: PageIndex, bytes: &Page) {
        let (page, used, pass) = (self.number(block, page), self.used(), self.pass);
        match self.place(page) {
            // The room is used again as it is.
            Some(entry) if entry.page == page || entry.used + LIFETIME <= pass => {
                (entry.page, entry.used) = (page, used);
                entry.bytes.copy_from_slice(bytes);
            }
            Some(_) => {}
            place => *place = Some(Box::new(Entry { page, used, bytes: *bytes })),
        }
    }

    /// The page is sent in another way: what was sent before says nothing any more.
    pub fn forget(&mut self, block: BlockId, page: PageIndex) {
        let page = self.number(block, page);
        let place = self.place(page);
        if place.as_ref().is_some_and(|entry| entry.page == page) {
            *place = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::AnonymousRam;

    const ROOM: u64 = 4 * PAGE_SIZE as u64;
    const BLOCK: BlockId = BlockId(0);

    fn cache(pages: u64, bytes: u64) -> PageCache {
        PageCache::new(&[AnonymousRam::block("ram0", pages).unwrap(), AnonymousRam::block("ram1", 3).unwrap()], bytes)
    }

    fn has(cache: &mut PageCache, page: u64) -> Option<u8> {
        cache.sent(BLOCK, PageIndex(page)).map(|bytes| bytes[0])
    }

    fn keep(cache: &mut PageCache, page: u64) {
        cache.keep(BLOCK, PageIndex(page), &[page as u8; PAGE_SIZE]);
    }

    #[test]
    fn a_page_is_found_as_it_was_sent_and_no_other_in_its_place() {
        let mut cache = cache(16, ROOM);
        keep(&mut cache, 1);
        assert_eq!((has(&mut cache, 1), has(&mut cache, 5), has(&mut cache, 2)), (Some(1), None, None));
        cache.keep(BlockId(1), PageIndex(0), &[99; PAGE_SIZE]);
        assert_eq!(cache.sent(BlockId(1), PageIndex(0)).map(|bytes| bytes[0]), Some(99));
        assert_eq!(has(&mut cache, 0), None, "the other block's page has its place");
        cache.forget(BLOCK, PageIndex(5));
        assert_eq!(has(&mut cache, 1), Some(1), "another page of its place was forgotten");
        cache.forget(BLOCK, PageIndex(1));
        assert_eq!(has(&mut cache, 1), None);
    }

    #[test]
    fn what_is_sent_again_and_again_stays_and_what_is_not_makes_room() {
        let mut cache = cache(16, ROOM);
        keep(&mut cache, 1);
        cache.begin_pass(2);
        keep(&mut cache, 5);
        assert_eq!(has(&mut cache, 5), Some(5), "all pages go in the first pass: that is no reason to stay");
        cache.begin_pass(3);
        keep(&mut cache, 9);
        assert_eq!((has(&mut cache, 9), has(&mut cache, 5)), (None, Some(5)));
        cache.begin_pass(4);
        keep(&mut cache, 9);
        assert_eq!(has(&mut cache, 5), Some(5));
        cache.begin_pass(6);
        keep(&mut cache, 9);
        assert_eq!((has(&mut cache, 9), has(&mut cache, 5)), (Some(9), None));
    }

    #[test]
    fn another_size_keeps_what_has_a_place_in_it_and_takes_no_more_than_ram() {
        let mut cache = cache(16, ROOM);
        (0..4).for_each(|page| keep(&mut cache, page));
        cache.resize(2 * PAGE_SIZE as u64);
        assert_eq!(cache.places.len(), 2);
        cache.resize(1 << 50);
        assert_eq!(cache.places.len(), 32, "19 pages of RAM");
        let left: Vec<u64> = (0..16).filter(|page| has(&mut cache, *page).is_some()).collect();
        assert_eq!(left.len(), 2);
        left.into_iter().for_each(|page| assert_eq!(has(&mut cache, page), Some(page as u8)));
    }
}
