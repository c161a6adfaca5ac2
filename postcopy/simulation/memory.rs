//! Which pages of the mappings are there, as Linux keeps it. The memory itself is real.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use libc::{c_int, c_void, off_t, size_t};

use super::{now, point, random, uffd};

pub const PAGE: usize = 4096;
const HUGE: usize = 512;

/// One mapping: which of its pages are there.
struct Mapping {
    pages: Vec<bool>,
    /// The host gives it huge pages where it can.
    huge: bool,
}

#[derive(Default)]
struct Memory {
    mappings: BTreeMap<usize, Mapping>,
    /// The host has no memory for a fault until then.
    none_until: Duration,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

pub(super) fn begin() {
    MEMORY.set(Memory::default());
}

/// The host has no memory for the pages of guests for so long.
pub fn out_of_memory(time: Duration) {
    MEMORY.with_borrow_mut(|it| it.none_until = now() + time);
}

/// Whether it has none.
pub(super) fn is_short() -> bool {
    MEMORY.with_borrow(|it| now() < it.none_until)
}

/// Looks at a page's bit, or changes it; `None` outside of all mappings.
pub(super) fn page<T>(address: usize, look: impl FnOnce(&mut bool) -> T) -> Option<T> {
    MEMORY.with_borrow_mut(|it| {
        let (base, mapping) = it.mappings.range_mut(..=address).next_back()?;
        mapping.pages.get_mut((address - base) / PAGE).map(look)
    })
}

impl crate::memory::RamBlock {
    /// Whether the page is there: a touch of it does not fault.
    pub fn is_present(&self, page: crate::ram::PageIndex) -> bool {
        is_present(self.address(page))
    }
}

/// Whether the page at this address is there.
pub fn is_present(address: usize) -> bool {
    page(address, |there| *there).unwrap_or(true)
}

fn set(address: usize, bytes: usize, there: bool) {
    for at in (address..address + bytes).step_by(PAGE) {
        page(at, |it| *it = there);
    }
}

/// The calling thread touches memory: a page that is not there comes, or faults where it is
/// watched, and comes later.
pub fn touches(address: usize, bytes: usize) {
    point();
    let end = address + bytes.max(1);
    let mut at = address / PAGE * PAGE;
    while at < end {
        while !is_present(at) {
            match uffd::watcher(at) {
                Some(number) => uffd::fault(number, at),
                None => populate(at),
            }
        }
        at += PAGE;
    }
}

/// Fresh memory, a huge page of it where that may be.
fn populate(address: usize) {
    MEMORY.with_borrow_mut(|it| {
        let Some((base, mapping)) = it.mappings.range_mut(..=address).next_back() else { return };
        let at = (address - base) / PAGE;
        let first = (address / PAGE / HUGE * HUGE).checked_sub(base / PAGE);
        let chunk = first.filter(|first| mapping.huge && first + HUGE <= mapping.pages.len());
        match chunk.map(|first| &mut mapping.pages[first..first + HUGE]) {
            Some(chunk) if chunk.iter().all(|there| !there) => chunk.fill(true),
            _ => mapping.pages[at] = true,
        }
    });
}

/// As mmap(2).
///
/// # Safety
/// As the call.
pub unsafe fn mmap(at: *mut c_void, bytes: size_t, prot: c_int, flags: c_int, fd: c_int, offset: off_t) -> *mut c_void {
    // SAFETY: the caller's.
    let host = unsafe { libc::mmap(at, bytes, prot, flags, fd, offset) };
    if host != libc::MAP_FAILED {
        if flags & libc::MAP_FIXED != 0 {
            set(host as usize, bytes, false);
        } else {
            let huge = random(2) == 0;
            let mapping = Mapping { pages: vec![false; bytes.div_ceil(PAGE)], huge };
            MEMORY.with_borrow_mut(|it| it.mappings.insert(host as usize, mapping));
        }
    }
    host
}

/// As munmap(2), of a whole mapping.
///
/// # Safety
/// As the call.
pub unsafe fn munmap(at: *mut c_void, bytes: size_t) -> c_int {
    MEMORY.with_borrow_mut(|it| it.mappings.remove(&(at as usize)));
    // SAFETY: the caller's.
    unsafe { libc::munmap(at, bytes) }
}

/// As mremap(2) with MREMAP_FIXED and MREMAP_DONTUNMAP.
///
/// # Safety
/// As the call.
pub unsafe fn mremap(from: *mut c_void, old: size_t, new: size_t, flags: c_int, to: *mut c_void) -> *mut c_void {
    point();
    // SAFETY: the caller's.
    let moved = unsafe { libc::mremap(from, old, new, flags, to) };
    if moved != libc::MAP_FAILED {
        for at in (0..old).step_by(PAGE) {
            let there = page(from as usize + at, std::mem::take).unwrap_or(false);
            page(to as usize + at, |it| *it = there);
        }
    }
    moved
}

/// As madvise(2), of what the engine asks for.
///
/// # Safety
/// As the call.
pub unsafe fn madvise(at: *mut c_void, bytes: size_t, advice: c_int) -> c_int {
    match advice {
        libc::MADV_DONTNEED | libc::MADV_REMOVE => {
            point();
            set(at as usize, bytes, false);
            // SAFETY: the caller's.
            unsafe { libc::madvise(at, bytes, advice) }
        }
        libc::MADV_POPULATE_WRITE | libc::MADV_POPULATE_READ => {
            touches(at as usize, bytes);
            0
        }
        // Huge pages and core files are the real host's business.
        _ => 0,
    }
}
