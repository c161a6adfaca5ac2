//! Raw access to guest RAM.
//!
//! Guest RAM is written by running vCPUs while the engine reads it. No Rust reference to it is ever
//! made: every access is a volatile read, a raw copy, or a system call on the address.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, PoisonError};

use crate::host::{Mutex, MutexGuard, calls, touches};
use crate::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};

mod anonymous;
pub mod shared;
mod zero;

pub use anonymous::{AnonymousRam, SharedRam};
pub use shared::AdoptError;

/// Pages in a huge page of the host: the piece in which memory is given to a guest so that it keeps
/// huge pages.
pub const HUGE_PAGES: u32 = 512;
const HUGE_BYTES: usize = HUGE_PAGES as usize * PAGE_SIZE;
/// Huge pages that go into a guest together, as far as they can: every change of its memory map
/// interrupts each vCPU, however much changes at once.
pub const HUGE_TOGETHER: u32 = 4;
/// Room for pages that lie aside, in pages. Their memory is given back when it is used up, not each
/// time: that interrupts the vCPUs, too.
const ASIDE_ROOM: u64 = 16 * (HUGE_TOGETHER * HUGE_PAGES) as u64;
/// It is given back earlier when so many pages are there: they cost memory, room does not.
const ASIDE_PAGES: u64 = 2048;

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
    /// `host` is page-aligned and `pages * PAGE_SIZE` bytes from it stay mapped readable and
    /// writable, as `backing` says, for as long as `owner` lives; nobody holds a Rust reference
    /// into the range.
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

/// A piece of memory for a system call to read or write: an address that stays valid for `'a`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawSlice<'a> {
    address: usize,
    len: usize,
    _valid: PhantomData<&'a ()>,
}

impl<'a> RawSlice<'a> {
    /// Bytes to be read by a system call.
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { address: bytes.as_ptr() as usize, len: bytes.len(), _valid: PhantomData }
    }

    pub fn address(self) -> usize {
        self.address
    }

    pub fn len(self) -> usize {
        self.len
    }

    /// At most its first `most` bytes.
    pub fn first(self, most: usize) -> Self {
        Self { len: self.len.min(most), ..self }
    }

    /// Without its first `count` bytes.
    pub fn skip(self, count: usize) -> Self {
        let count = count.min(self.len);
        Self { address: self.address + count, len: self.len - count, ..self }
    }
}

impl RamBlock {
    /// The run as something that a system call reads or fills. The run must lie inside the block.
    pub(crate) fn raw(&self, run: PageRun) -> RawSlice<'_> {
        assert!(self.holds(run), "{run} outside RAM block {}", self.name);
        RawSlice { address: self.address(run.start), len: run.bytes(), _valid: PhantomData }
    }

    /// Whether every byte of the page is zero at the moment of looking. The guest may write
    /// meanwhile: then the dirty log tells of it, because logging is armed before the page is
    /// looked at.
    pub fn is_zero(&self, page: PageIndex) -> bool {
        assert!(page.0 < self.pages);
        touches(self.address(page), PAGE_SIZE);
        // SAFETY: the page is mapped (contract of `new`) and aligned.
        unsafe { zero::is_zero(self.address(page) as *const u8) }
    }

    /// Writes `bytes` at `offset` bytes into the page. What is written must stay inside the block.
    pub fn write(&self, page: PageIndex, offset: usize, bytes: &[u8]) {
        let room = (self.pages - page.0) as usize * PAGE_SIZE;
        assert!(offset + bytes.len() <= room, "write past the end of RAM block {}", self.name);
        let target = (self.address(page) + offset) as *mut u8;
        touches(target as usize, bytes.len());
        // SAFETY: the range is mapped writable (contract of `new`) and was checked to lie inside
        // the block; `bytes` is not guest RAM, since no reference to guest RAM exists.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) }
    }

    /// Copies the page out.
    pub fn read(&self, page: PageIndex, bytes: &mut [u8; PAGE_SIZE]) {
        assert!(page.0 < self.pages);
        let source = self.address(page) as *const u8;
        touches(source as usize, PAGE_SIZE);
        // SAFETY: the page is mapped (contract of `new`) and `bytes` is not guest RAM.
        unsafe { std::ptr::copy_nonoverlapping(source, bytes.as_mut_ptr(), PAGE_SIZE) }
    }

    /// Gives the run's memory back to the host: it reads as zero from here on, or faults where
    /// userfaultfd watches it.
    pub fn discard(&self, run: PageRun) -> io::Result<()> {
        let advice = match self.backing {
            Backing::Anonymous => libc::MADV_DONTNEED,
            Backing::Shared => libc::MADV_REMOVE,
        };
        self.advise(run, advice)
    }

    /// Has the host provide the run's memory now, in huge pages where it can: what is in it stays,
    /// the rest reads as zero.
    pub fn populate(&self, run: PageRun) -> io::Result<()> {
        self.advise(run, libc::MADV_POPULATE_WRITE)
    }

    /// Has the host note for each page of the run that was never touched that it is zero, which
    /// takes no memory.
    pub(crate) fn note_zeros(&self, run: PageRun) -> io::Result<()> {
        self.advise(run, libc::MADV_POPULATE_READ)
    }

    /// Has the host make huge pages of the run again, where it broke them up.
    pub(crate) fn collapse(&self, run: PageRun) -> io::Result<()> {
        self.advise(run, libc::MADV_COLLAPSE)
    }

    /// Whether the host's huge pages begin where the block's groups of [`HUGE_PAGES`] pages do.
    pub(crate) fn is_aligned(&self) -> bool {
        self.host.is_multiple_of(HUGE_BYTES)
    }

    /// Moves the run's memory, contents and all, to `target` in `to`, in no time: what was there is
    /// gone, and the run is as if it had never been touched. The two blocks are private anonymous
    /// memory.
    fn remap(&self, run: PageRun, to: &Self, target: PageRun) -> io::Result<()> {
        assert!(self.backing == Backing::Anonymous && to.backing == Backing::Anonymous && run.count == target.count);
        let (from, to) = (self.raw(run), to.raw(target));
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        // SAFETY: both ranges lie inside mappings to which no Rust reference exists (contract of
        // `new`). The old range stays mapped (DONTUNMAP), and the new one is replaced by a mapping
        // of the same kind, so that both owners' promises still hold.
        let moved = unsafe {
            calls::mremap(from.address as *mut _, from.len, from.len, flags, to.address as *mut libc::c_void)
        };
        if moved == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Maps `file` in the place of the block's memory, whose contents are dropped here; another
    /// process may have it mapped as well. It has to be shared memory of exactly the block's size
    /// that nobody can shrink, for a touch behind its end would be this process's end.
    pub fn adopt(&self, file: BorrowedFd<'_>) -> Result<(), AdoptError> {
        if self.backing != Backing::Shared {
            return Err(AdoptError::NotShared);
        }
        shared::check(file, self.pages * PAGE_SIZE as u64)?;
        self.map_over(Some(file)).map_err(AdoptError::System)
    }

    /// Puts fresh memory that reads as zero in the place of the block's, which may be another
    /// process's as well and stays as it is.
    pub fn disown(&self) -> io::Result<()> {
        assert!(self.backing == Backing::Shared, "RAM block {} is nobody else's", self.name);
        self.map_over(None)
    }

    fn map_over(&self, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let raw = self.whole();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let flags = flags | if file.is_none() { libc::MAP_ANONYMOUS } else { 0 };
        let number = file.map_or(-1, |file| file.as_raw_fd());
        // SAFETY: the range is the block's own mapping, to which no Rust reference exists (contract
        // of `new`); what replaces it is as long, readable, writable and shared, as `new` was
        // promised. A file that does not end early was seen to by `shared::check`.
        let mapped = unsafe { calls::mmap(raw.address as *mut _, raw.len, protection, flags, number, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // As for memory that is made here: advice that a host may refuse.
        let _ = self.advise_raw(raw, libc::MADV_HUGEPAGE);
        self.advise_raw(raw, libc::MADV_DONTDUMP)
    }

    fn advise(&self, run: PageRun, advice: libc::c_int) -> io::Result<()> {
        self.advise_raw(self.raw(run), advice)
    }

    fn whole(&self) -> RawSlice<'_> {
        RawSlice { address: self.host, len: self.pages as usize * PAGE_SIZE, _valid: PhantomData }
    }

    fn advise_raw(&self, raw: RawSlice<'_>, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: the range lies inside the block's mapping, to which no Rust reference exists
        // (contract of `new`).
        match unsafe { calls::madvise(raw.address as *mut _, raw.len, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Memory opposite to a RAM block, page for page, in which pages wait until whole huge pages of
/// them go into the guest.
pub(crate) struct Shadow {
    memory: RamBlock,
    aside: Mutex<AsideRoom>,
}

/// Room for what is taken out of the guest for a moment.
struct AsideRoom {
    memory: RamBlock,
    /// So much of it is used up, in pages.
    used: u64,
    /// So many pages are in it.
    pages: u64,
}

impl Shadow {
    /// For `block`; `None` if its memory cannot go to and fro in huge pages.
    pub fn new(block: &RamBlock) -> io::Result<Option<Self>> {
        if block.backing != Backing::Anonymous || !block.is_aligned() || block.pages < u64::from(HUGE_PAGES) {
            return Ok(None);
        }
        let memory = AnonymousRam::block(block.name(), block.pages)?;
        let aside = AsideRoom { memory: AnonymousRam::block(block.name(), ASIDE_ROOM)?, used: 0, pages: 0 };
        Ok(Some(Self { memory, aside: Mutex::new(aside) }))
    }

    /// The memory, to be filled.
    pub fn memory(&self) -> &RamBlock {
        &self.memory
    }

    /// Takes the run's memory over from the guest, with its contents: there it is missing from here
    /// on.
    pub fn take(&self, block: &RamBlock, run: PageRun) -> io::Result<()> {
        block.remap(run, &self.memory, run)
    }

    /// The opposite. Nobody may be watching the block.
    pub fn give_back(&self, block: &RamBlock, run: PageRun) -> io::Result<()> {
        self.memory.remap(run, block, run)
    }

    /// Takes whole huge pages' worth of pages out of the guest, at most [`HUGE_TOGETHER`] of them,
    /// so that nobody changes them any more; there they are missing from here on. There is one such
    /// room: another thread waits until what this gives is dropped.
    pub fn take_aside(&self, block: &RamBlock, run: PageRun) -> io::Result<Aside<'_>> {
        let in_aside = |start, count| PageRun { block: BlockId(0), start: PageIndex(start), count };
        let mut room = self.room();
        if room.used + u64::from(run.count) > ASIDE_ROOM || room.pages >= ASIDE_PAGES {
            room.memory.discard(in_aside(0, ASIDE_ROOM as u32))?;
            (room.used, room.pages) = (0, 0);
        }
        let at = in_aside(room.used, run.count);
        block.remap(run, &room.memory, at)?;
        room.used += u64::from(run.count);
        // Nothing is left there but empty page tables, in whose way no huge page goes in; this
        // frees them (Linux 6.14 and later). Where it does not, the pages go in one by one.
        let _ = block.discard(run);
        Ok(Aside { shadow: &self.memory, room, run, at: at.start })
    }

    fn room(&self) -> MutexGuard<'_, AsideRoom> {
        // A panic leaves at most less room than there could be.
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives all its memory back to the host.
    pub fn release(&self) -> io::Result<()> {
        [&self.memory, &self.room().memory]
            .into_iter()
            .try_for_each(|block| block.advise_raw(block.whole(), libc::MADV_DONTNEED))
    }
}

/// Pages that were taken out of the guest.
pub(crate) struct Aside<'a> {
    shadow: &'a RamBlock,
    room: MutexGuard<'a, AsideRoom>,
    run: PageRun,
    at: PageIndex,
}

impl Aside<'_> {
    /// What is in the page, which is one of those taken, is what the shadow holds of it.
    pub fn keep(&mut self, page: PageIndex) {
        assert!(self.run.start <= page && page < self.run.end());
        let mut bytes = [0; PAGE_SIZE];
        self.room.memory.read(PageIndex(self.at.0 + page.0 - self.run.start.0), &mut bytes);
        self.shadow.write(page, 0, &bytes);
        self.room.pages += 1;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram::BlockId;

    #[test]
    fn discarded_pages_read_as_zero() {
        let ram = AnonymousRam::block("ram", 3).unwrap();
        for page in 0..3 {
            ram.write(PageIndex(page), 5, &[9; 4]);
        }
        ram.discard(PageRun::single(BlockId(0), PageIndex(1))).unwrap();
        assert_eq!([0, 1, 2].map(|page| ram.is_zero(PageIndex(page))), [false, true, false]);
    }

    #[test]
    fn memory_goes_to_the_shadow_and_comes_back() {
        let ram = AnonymousRam::block("ram", 1100).unwrap();
        let shadow = Shadow::new(&ram).unwrap().unwrap();
        let chunk = |number: u64| PageRun { block: BlockId(0), start: PageIndex(number * 512), count: HUGE_PAGES };
        for page in [3, 511, 512, 1000] {
            ram.write(PageIndex(page), 0, &[page as u8 | 1]);
        }
        shadow.take(&ram, chunk(0)).unwrap();
        assert!(ram.is_zero(PageIndex(3)) && !shadow.memory().is_zero(PageIndex(3)) && !ram.is_zero(PageIndex(1000)));
        shadow.memory().write(PageIndex(7), 0, &[7]);
        // Written meanwhile where it was taken from: that one counts.
        ram.write(PageIndex(3), 0, &[9]);
        shadow.take_aside(&ram, chunk(0)).unwrap().keep(PageIndex(3));
        assert!(ram.is_zero(PageIndex(3)));
        shadow.give_back(&ram, chunk(0)).unwrap();
        let first = |page| {
            let mut bytes = [0; PAGE_SIZE];
            ram.read(PageIndex(page), &mut bytes);
            bytes[0]
        };
        assert_eq!([3, 7, 511, 512, 1000].map(first), [9, 7, 255, 1, 1000u64 as u8 | 1]);
    }

    #[test]
    fn what_has_no_whole_huge_page_has_no_shadow() {
        assert!(Shadow::new(&AnonymousRam::block("ram", 511).unwrap()).unwrap().is_none());
    }

    #[test]
    #[should_panic(expected = "past the end")]
    fn nothing_is_written_outside_the_block() {
        AnonymousRam::block("ram", 1).unwrap().write(PageIndex(0), 4090, &[0; 10]);
    }
}
