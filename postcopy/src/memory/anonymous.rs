//! Memory of this process with a [`RamBlock`] over it: [`AnonymousRam`] and [`SharedRam`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::{Backing, HUGE_BYTES, RamBlock, shared};
use crate::host::calls;
use crate::ram::PAGE_SIZE;

/// Shared memory with a [`RamBlock`] over it.
pub struct SharedRam {
    _room: AnonymousRam,
}

impl SharedRam {
    /// `pages` pages that read as zero, and the file that they are a mapping of.
    pub fn block(name: &str, pages: u64) -> io::Result<(RamBlock, OwnedFd)> {
        let file = shared::create(name, pages * PAGE_SIZE as u64)?;
        let (room, first) = AnonymousRam::reserve(pages)?;
        let owner = Arc::new(Self { _room: room });
        // SAFETY: from `first` on the mapping of `room` has at least `pages` pages and lives as
        // long as `owner`; what `adopt` puts there next is shared.
        let block = unsafe { RamBlock::new(name, 0, first, pages, Backing::Shared, owner) };
        block.map_over(Some(file.as_fd()))?;
        Ok((block, file))
    }
}

/// Private anonymous memory with a [`RamBlock`] over it, beginning where a huge page may.
pub struct AnonymousRam {
    host: usize,
    bytes: usize,
}

impl AnonymousRam {
    /// Room for `pages` pages, and where a huge page may begin in it.
    fn reserve(pages: u64) -> io::Result<(Self, *mut u8)> {
        let bytes = pages as usize * PAGE_SIZE + HUGE_BYTES;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let host = unsafe { calls::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if host == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = (host as usize).next_multiple_of(HUGE_BYTES) as *mut u8;
        Ok((Self { host: host as usize, bytes }, first))
    }

    /// `pages` pages that read as zero.
    pub fn block(name: &str, pages: u64) -> io::Result<RamBlock> {
        let (room, first) = Self::reserve(pages)?;
        let owner = Arc::new(room);
        // SAFETY: from `first` on the mapping above has at least `pages` pages, is private
        // anonymous, and lives as long as `owner`.
        let block = unsafe { RamBlock::new(name, 0, first, pages, Backing::Anonymous, owner) };
        // A host without huge pages refuses, which makes it slower, and no error.
        let _ = block.advise_raw(block.whole(), libc::MADV_HUGEPAGE);
        // What a guest has in memory is not for a core file. An old kernel that cannot do this
        // dumps it.
        let _ = block.advise_raw(block.whole(), libc::MADV_DONTDUMP);
        Ok(block)
    }
}

impl Drop for AnonymousRam {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `block`; every `RamBlock` over it is gone, for they own this
        // value.
        unsafe { calls::munmap(self.host as *mut _, self.bytes) };
    }
}
