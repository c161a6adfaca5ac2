//! Guest RAM's mappings.
//!
//! RAM is private anonymous memory unless it is to be shared, then a memfd. It is aligned to 2 MiB,
//! so that huge pages fit, and never populated: on a migration's destination a page that is there
//! already would never fault.

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, bitmap::NewBitmap};
use whimbrel_postcopy::memory::{AdoptError, Backing, RamBlock, shared};
use whimbrel_postcopy::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};

use super::{KvmError, RamMode};

/// Guest memory that notes which pages this process writes through it: KVM's log does not see
/// those.
pub type GuestMemory = GuestMemoryMmap<AtomicBitmap>;

const HUGE_PAGE: usize = 2 << 20;
/// The most pages that are discarded at once.
const RUN: usize = 1 << 30;

/// A contiguous piece of guest-physical RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// The block's name, the same on every host.
    pub name: &'static str,
    /// Where the guest sees it, in bytes.
    pub guest_address: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// A mapping of ours, unmapped when dropped.
struct Mapping {
    start: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: The address is only handed out; whoever uses it answers for that.
unsafe impl Send for Mapping {}
// SAFETY: As above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: The range is a mapping of ours, and all users of it hold an `Arc` of its owner.
        let _ = unsafe { munmap(self.start, self.bytes) };
    }
}

/// All of a guest's RAM.
pub struct GuestRam {
    memory: GuestMemory,
    ranges: Vec<RamRange>,
    blocks: Vec<RamBlock>,
    mappings: Vec<Arc<Mapping>>,
    /// A [`RamMode`].
    mode: AtomicU8,
    files: Mutex<Files>,
}

/// What shared memory is a mapping of, in the order of the ranges.
enum Files {
    /// Private memory.
    None,
    /// This process's alone, as far as it knows.
    Own(Vec<Arc<OwnedFd>>),
    /// Another process may have them mapped as well.
    Shared(Vec<Arc<OwnedFd>>),
    /// They were let go of: the memory is shared memory without a file.
    Left,
}

impl GuestRam {
    /// Maps `ranges`, which are in order and do not overlap.
    pub fn new(ranges: &[RamRange], shared: bool) -> Result<Self, KvmError> {
        let mut mappings = Vec::new();
        let mut regions = Vec::new();
        let mut blocks = Vec::new();
        let mut files = Vec::new();
        for range in ranges {
            let failed = |source| KvmError::Ram { bytes: range.bytes, source };
            let file = shared.then(|| shared::create(range.name, range.bytes)).transpose().map_err(failed)?;
            let mapping = Arc::new(map(range, file.as_ref()).map_err(failed)?);
            files.extend(file.map(Arc::new));
            regions.push(region(&mapping, range).ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?);
            let backing = if shared { Backing::Shared } else { Backing::Anonymous };
            // SAFETY: The mapping is aligned, readable and writable, and lives as long as its
            // owner, `mapping`; vm-memory makes no references into it.
            blocks.push(unsafe {
                RamBlock::new(
                    range.name,
                    range.guest_address,
                    mapping.start.as_ptr().cast(),
                    range.bytes / PAGE_SIZE as u64,
                    backing,
                    mapping.clone(),
                )
            });
            mappings.push(mapping);
        }
        let memory = GuestMemory::from_regions(regions).map_err(|error| KvmError::Ram {
            bytes: ranges.iter().map(|range| range.bytes).sum(),
            source: io::Error::other(error),
        })?;
        let files = Mutex::new(if shared { Files::Own(files) } else { Files::None });
        Ok(Self {
            memory,
            ranges: ranges.to_vec(),
            blocks,
            mappings,
            mode: AtomicU8::new(RamMode::Normal as u8),
            files,
        })
    }

    /// The memory, for this process's own reads and writes.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The ranges, in the order of the memory slots.
    pub fn ranges(&self) -> &[RamRange] {
        &self.ranges
    }

    /// The ranges as the migration engine sees them, in the same order.
    pub fn blocks(&self) -> &[RamBlock] {
        &self.blocks
    }

    /// All RAM in bytes.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.bytes).sum()
    }

    /// What RAM is for from here on.
    pub fn set_mode(&self, mode: RamMode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// Whether a touch of a page may wait for somebody: for a page that has not arrived, or for one
    /// that is not written to the snapshot yet.
    pub fn touch_may_wait(&self) -> bool {
        self.mode.load(Ordering::SeqCst) != RamMode::Normal as u8
    }

    /// Gives the whole pages of RAM in the `bytes` bytes from guest-physical `address` on back to
    /// the host: they read as zero. What is not RAM is passed over. Outside of
    /// [`RamMode::Normal`] nothing happens.
    pub fn discard(&self, address: u64, bytes: u64) -> io::Result<()> {
        if self.touch_may_wait() {
            return Ok(());
        }
        let end = address.saturating_add(bytes);
        for ((number, range), block) in (0..).zip(&self.ranges).zip(&self.blocks) {
            let page = PAGE_SIZE as u64;
            let first = address.max(range.guest_address) - range.guest_address;
            let first = first.min(range.bytes).div_ceil(page);
            let last = end.saturating_sub(range.guest_address).min(range.bytes) / page;
            // A run counts its pages in 32 bits.
            for start in (first..last).step_by(RUN) {
                let count = (last - start).min(RUN as u64) as u32;
                block.discard(PageRun { block: BlockId(number), start: PageIndex(start), count })?;
            }
        }
        Ok(())
    }

    /// Gives all of RAM back to the host: another guest takes this one's place.
    pub fn clear(&self) -> io::Result<()> {
        for (number, block) in (0..).zip(&self.blocks) {
            for start in (0..block.pages()).step_by(RUN) {
                let count = (block.pages() - start).min(RUN as u64) as u32;
                block.discard(PageRun { block: BlockId(number), start: PageIndex(start), count })?;
            }
        }
        Ok(())
    }

    /// Whether the memory is such that another process can map it, too.
    pub fn is_shared(&self) -> bool {
        !matches!(*self.files(), Files::None)
    }

    /// The files that another process may map from here on, in the order of the ranges. `None` if
    /// there are none.
    pub fn share(&self) -> Option<Vec<Arc<OwnedFd>>> {
        let mut files = self.files();
        match std::mem::replace(&mut *files, Files::Left) {
            Files::Own(all) | Files::Shared(all) => {
                *files = Files::Shared(all.clone());
                Some(all)
            }
            none => {
                *files = none;
                None
            }
        }
    }

    /// Puts another process's memory, one file a range, in the place of this one's. KVM's slots are
    /// addresses, and stay as they are. After an error some of it may be there: [`Self::leave`]
    /// takes it out again.
    pub fn adopt(&self, adopted: Vec<OwnedFd>) -> Result<(), AdoptError> {
        let mut files = self.files();
        let adopted: Vec<_> = adopted.into_iter().map(Arc::new).collect();
        if matches!(*files, Files::None) || adopted.len() != self.blocks.len() {
            return Err(AdoptError::NotShared);
        }
        *files = Files::Shared(adopted.clone());
        self.blocks.iter().zip(&adopted).try_for_each(|(block, file)| block.adopt(file.as_fd()))
    }

    /// Lets go of memory that may be another process's: this one's is fresh and reads as zero.
    /// Nothing to do if it is nobody else's.
    pub fn leave(&self) -> io::Result<()> {
        let mut files = self.files();
        if matches!(*files, Files::Shared(_)) {
            self.blocks.iter().try_for_each(RamBlock::disown)?;
            *files = Files::Left;
        }
        Ok(())
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        // A panic leaves at most files marked as shared that are not.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the range `slot` is in this process.
    pub(super) fn host_address(&self, slot: usize) -> u64 {
        self.mappings[slot].start.as_ptr() as u64
    }
}

/// vm-memory's view of a mapping.
fn region(mapping: &Mapping, range: &RamRange) -> Option<GuestRegionMmap<AtomicBitmap>> {
    let flags = libc::MAP_NORESERVE | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let builder = MmapRegionBuilder::new_with_bitmap(mapping.bytes, AtomicBitmap::with_len(mapping.bytes))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(flags);
    // SAFETY: The mapping has this length; `GuestRam` keeps it for as long as the region.
    let region = unsafe { builder.with_raw_mmap_pointer(mapping.start.as_ptr().cast()) }.build().ok()?;
    GuestRegionMmap::new(region, GuestAddress(range.guest_address))
}

/// Maps one range at a multiple of the huge page size, without populating it.
fn map(range: &RamRange, file: Option<&OwnedFd>) -> io::Result<Mapping> {
    let bytes = range.bytes as usize;
    let reserved = NonZeroUsize::new(bytes + HUGE_PAGE).ok_or(io::ErrorKind::InvalidInput)?;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    // SAFETY: A new mapping at an address that the kernel chooses.
    let start = unsafe { mmap_anonymous(None, reserved, ProtFlags::PROT_NONE, flags) }?;
    let head = start.as_ptr().align_offset(HUGE_PAGE);
    let tail = HUGE_PAGE - head;
    // SAFETY: All addresses are inside, or at the end of, the reservation just made, which nobody
    // else knows.
    let aligned = unsafe {
        let aligned = start.byte_add(head);
        if head > 0 {
            munmap(start, head)?;
        }
        if tail > 0 {
            munmap(aligned.byte_add(bytes), tail)?;
        }
        aligned
    };
    let mapping = Mapping { start: aligned, bytes };
    back(&mapping, file)?;
    // Without transparent huge pages in the host this fails, and the guest runs on small ones.
    // SAFETY: The range is ours; the advice changes no content.
    let _ = unsafe { madvise(mapping.start, bytes, MmapAdvise::MADV_HUGEPAGE) };
    // What a guest has in memory is not for a core file.
    // SAFETY: As above.
    unsafe { madvise(mapping.start, bytes, MmapAdvise::MADV_DONTDUMP) }?;
    Ok(mapping)
}

/// Puts readable and writable memory into a reservation.
fn back(mapping: &Mapping, file: Option<&OwnedFd>) -> io::Result<()> {
    let length = NonZeroUsize::new(mapping.bytes).ok_or(io::ErrorKind::InvalidInput)?;
    let address = NonZeroUsize::new(mapping.start.as_ptr() as usize);
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = MapFlags::MAP_FIXED | MapFlags::MAP_NORESERVE;
    if let Some(file) = file {
        // SAFETY: MAP_FIXED replaces exactly the reservation, which is ours.
        unsafe { mmap(address, length, prot, flags | MapFlags::MAP_SHARED, file.as_fd(), 0) }?;
    } else {
        // SAFETY: As above.
        unsafe { mmap_anonymous(address, length, prot, flags | MapFlags::MAP_PRIVATE) }?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use vm_memory::bitmap::Bitmap;
    use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

    fn two(shared: bool) -> GuestRam {
        let ranges = [
            RamRange { name: "ram.low", guest_address: 0, bytes: 4 << 20 },
            RamRange { name: "ram.high", guest_address: 4 << 30, bytes: 2 << 20 },
        ];
        GuestRam::new(&ranges, shared).unwrap()
    }

    #[test]
    fn both_backings_hold_what_is_written_and_note_the_page() {
        for shared in [false, true] {
            let ram = two(shared);
            let address = GuestAddress((4 << 30) + 0x3008);
            ram.memory().write_obj(0x55aa_u16, address).unwrap();
            assert_eq!(ram.memory().read_obj::<u16>(address).unwrap(), 0x55aa);
            let region = ram.memory().iter().nth(1).unwrap();
            assert!(region.bitmap().dirty_at(0x3000));
            assert!(!region.bitmap().dirty_at(0x2000));
            assert_eq!(ram.blocks()[1].pages(), 512);
            assert_eq!(ram.host_address(0) % HUGE_PAGE as u64, 0);
            assert_eq!(ram.bytes(), 6 << 20);
        }
    }

    /// What the kernel says of the mapping at that address (`VmFlags` in proc(5)).
    fn flags(address: u64) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            let range = line.split(' ').next().unwrap().split_once('-');
            let bounds = range.map(|(from, to)| (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16)));
            match bounds {
                Some((Ok(from), Ok(to))) => inside = (from..to).contains(&address),
                _ if inside && line.starts_with("VmFlags:") => return line.to_owned(),
                _ => {}
            }
        }
        panic!("nothing is mapped at {address:#x}");
    }

    #[test]
    fn no_core_file_holds_guest_ram() {
        for shared in [false, true] {
            let ram = two(shared);
            for slot in [0, 1] {
                let flags = flags(ram.host_address(slot));
                assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
            }
        }
    }

    /// The numbers of those of the first 8 pages, and of the last 2 before the hole, that hold
    /// something.
    fn left(ram: &GuestRam) -> Vec<u64> {
        let holds = |page: &u64| ram.memory().read_obj::<u8>(GuestAddress(page * 4096 + 5)).unwrap() != 0;
        (0..8).chain(1022..1024).filter(holds).collect()
    }

    #[test]
    fn whole_pages_of_ram_are_discarded_and_nothing_else_is() {
        for shared in [false, true] {
            let ram = two(shared);
            let fill = || {
                for page in (0..8).chain(1022..1024) {
                    ram.memory().write_obj(7u8, GuestAddress(page * 4096 + 5)).unwrap();
                }
            };
            for (address, bytes, kept) in [
                (0x1000, 0x2000, vec![0, 3, 4, 5, 6, 7, 1022, 1023]),
                (0x1001, 0x2fff, vec![0, 1, 4, 5, 6, 7, 1022, 1023]),
                (0x0fff, 0x1000, vec![0, 1, 2, 3, 4, 5, 6, 7, 1022, 1023]),
                (0x2000, 0, vec![0, 1, 2, 3, 4, 5, 6, 7, 1022, 1023]),
                (0x3f_f000, 8 << 30, vec![0, 1, 2, 3, 4, 5, 6, 7, 1022]),
                (u64::MAX - 5, u64::MAX, vec![0, 1, 2, 3, 4, 5, 6, 7, 1022, 1023]),
                (0, u64::MAX, vec![]),
            ] {
                fill();
                ram.discard(address, bytes).unwrap();
                assert_eq!(left(&ram), kept, "{address:#x}+{bytes:#x}");
            }
            // The second range, by its own addresses.
            let high = GuestAddress((4 << 30) + 0x1000);
            ram.memory().write_obj(7u8, high).unwrap();
            ram.discard(0x1000, 0x1000).unwrap();
            assert_eq!(ram.memory().read_obj::<u8>(high).unwrap(), 7);
            ram.discard(high.0, 0x1000).unwrap();
            assert_eq!(ram.memory().read_obj::<u8>(high).unwrap(), 0);
        }
    }

    #[test]
    fn memory_goes_from_one_owner_to_the_other_and_is_nobody_elses_then() {
        let (source, destination) = (two(true), two(true));
        let high = GuestAddress((4 << 30) + 0x3008);
        source.memory().write_obj(0x55aa_u16, high).unwrap();
        let files = source.share().unwrap();
        let handed = || files.iter().map(|file| file.try_clone().unwrap()).collect::<Vec<_>>();
        destination.adopt(handed()).unwrap();
        assert_eq!(destination.memory().read_obj::<u16>(high).unwrap(), 0x55aa);
        let flags = flags(destination.host_address(1));
        assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
        source.leave().unwrap();
        assert_eq!(source.memory().read_obj::<u16>(high).unwrap(), 0);
        source.memory().write_obj(1_u16, high).unwrap();
        assert_eq!(destination.memory().read_obj::<u16>(high).unwrap(), 0x55aa);
        // What was left has no file any more; what was taken goes on to the next.
        assert!(source.share().is_none() && source.is_shared());
        assert_eq!(destination.share().unwrap().len(), 2);
        // The wrong way round, and too few.
        let third = two(true);
        assert!(matches!(third.adopt(handed().into_iter().rev().collect()), Err(AdoptError::Size { .. })));
        third.leave().unwrap();
        assert_eq!(third.memory().read_obj::<u16>(high).unwrap(), 0);
        assert!(third.adopt(handed().into_iter().take(1).collect()).is_err());
        assert!(two(false).adopt(handed()).is_err() && two(false).share().is_none());
    }

    #[test]
    fn while_a_guest_arrives_nothing_is_discarded() {
        let ram = two(false);
        ram.memory().write_obj(7u8, GuestAddress(5)).unwrap();
        ram.set_mode(RamMode::Arriving);
        ram.discard(0, 0x1000).unwrap();
        assert_eq!(left(&ram), [0]);
        ram.set_mode(RamMode::Normal);
        ram.discard(0, 0x1000).unwrap();
        assert_eq!(left(&ram), [0; 0]);
    }

    #[test]
    fn nothing_outside_is_reachable() {
        let ram = two(false);
        assert!(ram.memory().write_obj(1u8, GuestAddress(4 << 20)).is_err());
    }
}
