//! Raw access to guest RAM: the only file of the engine, besides `uffd.rs`, that holds unsafe code.
//!
//! Guest RAM is written by running vCPUs while the engine reads it. No Rust reference to it is ever
//! made: every access is a volatile read, a raw copy, or a system call on the address.

use std::fmt;
use std::sync::Arc;

use crate::ram::{PAGE_SIZE, PageIndex, PageRun};

/// What keeps a block's mapping alive.
pub trait RamOwner: Send + Sync {}
impl<T: Send + Sync> RamOwner for T {}

/// How a RAM block is backed, which decides how pages are dropped and placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Private anonymous memory.
    Anonymous,
    /// A shared mapping of a memfd.
    Shared,
}

/// A contiguous piece of guest RAM mapped into this process.
#[derive(Clone)]
pub struct RamBlock {
    name: String,
    guest_address: u64,
    host: usize,
    pages: u64,
    backing: Backing,
    _owner: Arc<dyn RamOwner>,
}

impl RamBlock {
    /// Describes `pages` pages of guest RAM mapped at host address `host`, seen by the guest at
    /// `guest_address`.
    ///
    /// # Safety
    /// `host` is page-aligned and `pages * PAGE_SIZE` bytes from it stay mapped readable and writable, as `backing`
    /// says, for as long as `owner` lives; nobody holds a Rust reference into the range.
    pub unsafe fn new(
        name: impl Into<String>,
        guest_address: u64,
        host: *mut u8,
        pages: u64,
        backing: Backing,
        owner: Arc<dyn RamOwner>,
    ) -> Self {
        Self { name: name.into(), guest_address, host: host as usize, pages, backing, _owner: owner }
    }

    /// The block's name, the same on both hosts.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the guest sees the block, in bytes.
    pub fn guest_address(&self) -> u64 {
        self.guest_address
    }

    /// The block's length in pages.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How the block is backed.
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// The host address of a page, as a number: never dereferenced outside this file.
    pub(crate) fn address(&self, page: PageIndex) -> usize {
        assert!(page.0 <= self.pages, "page {} outside RAM block {}", page.0, self.name);
        self.host + page.0 as usize * PAGE_SIZE
    }

    /// The page that holds a host address, if it is in this block.
    pub(crate) fn page_of(&self, address: usize) -> Option<PageIndex> {
        let offset = address.checked_sub(self.host)?;
        let page = (offset / PAGE_SIZE) as u64;
        (page < self.pages).then_some(PageIndex(page))
    }

    /// Whether `run` lies inside the block.
    pub fn holds(&self, run: PageRun) -> bool {
        run.count > 0 && run.start.0.checked_add(u64::from(run.count)).is_some_and(|end| end <= self.pages)
    }
}

impl fmt::Debug for RamBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RamBlock")
            .field("name", &self.name)
            .field("guest_address", &format_args!("{:#x}", self.guest_address))
            .field("pages", &self.pages)
            .field("backing", &self.backing)
            .finish()
    }
}
