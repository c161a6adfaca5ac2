//! Where RAM is: a few stretches of physical addresses, and the pages of the working set in them.

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;
const CAPACITY: usize = 16;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Extent {
    start: u64,
    end: u64,
    /// Index of its first page, counted over all extents.
    first_page: u64,
}

/// Ascending, disjoint stretches of whole pages. What does not fit into the table is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extents {
    list: [Extent; CAPACITY],
    len: usize,
}

impl Extents {
    /// No RAM at all.
    pub const fn new() -> Self {
        Self { list: [Extent { start: 0, end: 0, first_page: 0 }; CAPACITY], len: 0 }
    }

    /// Adds `start..end`, shrunk to whole pages. Must come in ascending order; one that does not is
    /// left out.
    pub fn push(&mut self, start: u64, end: u64) {
        let Some(start) = start.checked_next_multiple_of(PAGE_SIZE) else { return };
        let end = end & !(PAGE_SIZE - 1);
        let ascending = self.len == 0 || self.list[self.len - 1].end <= start;
        if start < end && ascending && self.len < CAPACITY {
            self.list[self.len] = Extent { start, end, first_page: self.pages() };
            self.len += 1;
        }
    }

    /// Takes `start..end` out, and every page that it touches.
    pub fn cut(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let old = self.clone();
        *self = Self::new();
        for extent in &old.list[..old.len] {
            self.push(extent.start, extent.end.min(start));
            self.push(extent.start.max(end), extent.end);
        }
    }

    /// Takes whole pages for `bytes` away from the low end, if the first extent has them; their
    /// address is the result.
    pub fn take(&mut self, bytes: u64) -> Option<u64> {
        let start = self.list[0].start;
        let end = start.checked_add(bytes.checked_next_multiple_of(PAGE_SIZE)?)?;
        if self.len == 0 || end > self.list[0].end {
            return None;
        }
        self.cut(start, end);
        Some(start)
    }

    /// All pages together.
    pub fn pages(&self) -> u64 {
        match self.len {
            0 => 0,
            n => self.list[n - 1].first_page + (self.list[n - 1].end - self.list[n - 1].start) / PAGE_SIZE,
        }
    }

    /// Behind the last byte.
    pub fn end(&self) -> u64 {
        match self.len {
            0 => 0,
            n => self.list[n - 1].end,
        }
    }

    /// The address of a page below [`Extents::pages`].
    #[inline(always)]
    pub fn address(&self, page: u64) -> u64 {
        let mut extent = &self.list[0];
        for next in &self.list[1..self.len.max(1)] {
            if page < next.first_page {
                break;
            }
            extent = next;
        }
        extent.start + (page - extent.first_page) * PAGE_SIZE
    }
}
