//! userfaultfd: the only file that speaks its interface.
//!
//! Guest RAM is registered for missing pages. A touch of a missing page stops the toucher (a vCPU
//! in KVM_RUN, a device thread) and becomes a [`Fault`]; placing the page wakes it.
//!
//! Or it is registered for writes ([`Uffd::open_for_writes`]): then a write to a page that is
//! protected is the fault, and letting go of the page's protection wakes the writer.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use linux_raw_sys::general::{
    _UFFDIO_COPY, _UFFDIO_MOVE, _UFFDIO_WAKE, _UFFDIO_ZEROPAGE, UFFD_EVENT_PAGEFAULT, UFFD_FEATURE_PAGEFAULT_FLAG_WP,
    UFFD_FEATURE_THREAD_ID, UFFD_FEATURE_WP_UNPOPULATED, UFFDIO_REGISTER_MODE_MISSING, UFFDIO_REGISTER_MODE_WP,
    uffd_msg, uffd_msg__bindgen_ty_1__bindgen_ty_1, uffdio_copy, uffdio_move, uffdio_range, uffdio_register,
    uffdio_writeprotect, uffdio_zeropage,
};
use nix::errno::Errno;

use crate::host::Descriptor;
use crate::host::uffd::{calls, open, read};
use crate::logging as log;
use crate::memory::{AnonymousRam, Backing, RamBlock, RawSlice};
use crate::ram::{PAGE_SIZE, PageIndex, PageRun};

/// Why missing pages cannot be watched or filled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UffdError {
    /// The kernel or its configuration does not allow it to this process.
    #[error(
        "userfaultfd is not available: run as root, give this user access to /dev/userfaultfd (Linux 6.1 and later), \
         or set vm.unprivileged_userfaultfd=1"
    )]
    Unavailable(#[source] io::Error),
    /// The kernel does not watch for writes.
    #[error(
        "this host cannot watch guest RAM for writes: that needs Linux 6.4 or later with userfaultfd write protection \
         (CONFIG_HAVE_ARCH_USERFAULTFD_WP)"
    )]
    NoWriteProtection(#[source] io::Error),
    /// Memory that is shared cannot be watched for writes.
    #[error("RAM block {0} is shared memory, which is not watched for writes")]
    SharedMemory(String),
    /// A page's protection cannot be changed.
    #[error("pages of RAM block {block} cannot be protected (is the host out of memory?)")]
    Protect {
        /// The block's name.
        block: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A RAM block cannot be watched.
    #[error("RAM block {block} cannot be watched for missing pages")]
    Register {
        /// The block's name.
        block: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A page cannot be placed: most often the host is out of memory.
    #[error("pages of RAM block {block} cannot be placed (is the host out of memory?)")]
    Place {
        /// The block's name.
        block: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The descriptor cannot be read.
    #[error("page faults cannot be read")]
    Read(#[source] io::Error),
}

/// A touch of a missing page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The touched host address.
    pub address: usize,
    /// The thread that touched it.
    pub thread: i32,
}

/// A userfaultfd. Its descriptor is non-blocking: wait with `poll`.
#[derive(Debug)]
pub struct Uffd {
    fd: Descriptor,
    moves: bool,
}

/// Of linux/userfaultfd.h, for what linux-raw-sys has as numbers of bits or not at all.
const UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES: u64 = 1 << 1;
const UFFDIO_WRITEPROTECT_MODE_WP: u64 = 1 << 0;

/// The most faults that [`Uffd::read`] takes with one call.
pub(crate) const FAULTS_A_READ: usize = 64;

/// Whether `ioctls`, what a registration answers, has all of these calls.
fn allows(ioctls: u64, calls: &[u32]) -> bool {
    calls.iter().all(|call| ioctls & (1 << call) != 0)
}

fn whole(block: &RamBlock) -> uffdio_range {
    range(block.address(PageIndex(0)), block.pages() as usize * PAGE_SIZE)
}

fn range(start: usize, len: usize) -> uffdio_range {
    uffdio_range { start: start as u64, len: len as u64 }
}

impl Uffd {
    /// A new one: from /dev/userfaultfd if that is there and allowed, else by the system call.
    /// Faults that the kernel itself takes (KVM does) are included, which is what needs privilege.
    pub fn open() -> Result<Self, UffdError> {
        let fd = open(UFFD_FEATURE_THREAD_ID).map_err(UffdError::Unavailable)?;
        let mut uffd = Self { fd, moves: false };
        uffd.moves = uffd.can_move();
        Ok(uffd)
    }

    /// One that watches for writes instead, to pages that are there and to those that are not yet.
    pub fn open_for_writes() -> Result<Self, UffdError> {
        match open(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED) {
            Ok(fd) => Ok(Self { moves: false, fd }),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(UffdError::NoWriteProtection(error)),
            Err(error) => Err(UffdError::Unavailable(error)),
        }
    }

    /// Whether the kernel can move pages into the block that stand elsewhere (UFFDIO_MOVE: Linux
    /// 6.8 and later).
    pub fn moves(&self) -> bool {
        self.moves
    }

    /// Found out on a page of our own.
    fn can_move(&self) -> bool {
        let Ok(probe) = AnonymousRam::block("probe", 1) else { return false };
        let ioctls = self.register_range(&probe, UFFDIO_REGISTER_MODE_MISSING);
        // The memory goes away with its registration.
        let _ = self.unregister(&probe);
        ioctls.is_ok_and(|ioctls| allows(ioctls, &[_UFFDIO_MOVE]))
    }

    /// Registers the whole block; returns which calls its kind of memory allows, a bit each.
    fn register_range(&self, block: &RamBlock, mode: u32) -> Result<u64, UffdError> {
        let mut order = uffdio_register { range: whole(block), mode: mode.into(), ioctls: 0 };
        // SAFETY: `order` is the call's structure and outlives it; registering changes no memory.
        unsafe { calls::register(self.fd.as_raw_fd(), &mut order) }
            .map_err(|error| UffdError::Register { block: block.name().to_owned(), source: error.into() })?;
        Ok(order.ioctls)
    }

    /// Watches the whole block for missing pages. Pages that are populated already never fault.
    pub fn register(&self, block: &RamBlock) -> Result<(), UffdError> {
        let ioctls = self.register_range(block, UFFDIO_REGISTER_MODE_MISSING)?;
        if allows(ioctls, &[_UFFDIO_COPY, _UFFDIO_WAKE, _UFFDIO_ZEROPAGE]) {
            return Ok(());
        }
        let source = io::Error::new(io::ErrorKind::Unsupported, "its kind of memory cannot be filled page by page");
        Err(UffdError::Register { block: block.name().to_owned(), source })
    }

    /// Watches the whole block for writes, of which none faults before [`Self::protect`]. Private
    /// anonymous memory only.
    pub fn register_writes(&self, block: &RamBlock) -> Result<(), UffdError> {
        if block.backing() == Backing::Shared {
            return Err(UffdError::SharedMemory(block.name().to_owned()));
        }
        self.register_range(block, UFFDIO_REGISTER_MODE_WP).map(drop)
    }

    /// From now on a write to any page of the block faults. Nobody may be writing meanwhile who is
    /// not to be watched.
    pub fn protect(&self, block: &RamBlock) -> Result<(), UffdError> {
        self.change_protection(block, whole(block), UFFDIO_WRITEPROTECT_MODE_WP)
    }

    /// The run can be written again; wakes who waits to.
    pub fn let_go(&self, block: &RamBlock, run: PageRun) -> Result<(), UffdError> {
        let target = block.raw(run);
        self.change_protection(block, range(target.address(), target.len()), 0)
    }

    fn change_protection(&self, block: &RamBlock, range: uffdio_range, mode: u64) -> Result<(), UffdError> {
        loop {
            let mut order = uffdio_writeprotect { range, mode };
            // SAFETY: `order` is the call's structure and outlives it; a protection changes no
            // contents.
            match unsafe { calls::write_protect(self.fd.as_raw_fd(), &mut order) } {
                Ok(_) => return Ok(()),
                // The memory map changes at this moment.
                Err(Errno::EAGAIN) => {}
                Err(error) => {
                    return Err(UffdError::Protect { block: block.name().to_owned(), source: error.into() });
                }
            }
        }
    }

    /// Watches no more; whoever still waits touches again and finds what is there.
    pub fn unregister(&self, block: &RamBlock) -> Result<(), UffdError> {
        let mut range = whole(block);
        // SAFETY: `range` is the call's structure and outlives it.
        unsafe { calls::unregister(self.fd.as_raw_fd(), &mut range) }
            .map(drop)
            .map_err(|error| UffdError::Register { block: block.name().to_owned(), source: error.into() })
    }

    /// The faults that wait to be read, appended to `faults`; none if there are none.
    pub fn read(&self, faults: &mut Vec<Fault>) -> Result<(), UffdError> {
        let mut bytes = [0; FAULTS_A_READ * size_of::<uffd_msg>()];
        let count = match read(&self.fd, &mut bytes) {
            Ok(count) => count,
            Err(Errno::EAGAIN) => 0,
            Err(error) => return Err(UffdError::Read(error.into())),
        };
        for message in bytes[..count].chunks_exact(size_of::<uffd_msg>()) {
            match u32::from(message[offset_of!(uffd_msg, event)]) {
                UFFD_EVENT_PAGEFAULT => faults.push(Fault::of(message)),
                // The others must be asked for, and are not.
                other => log::warn!("unexpected userfaultfd event {other:#x}"),
            }
        }
        Ok(())
    }

    /// Fills the run with `contents` and wakes who waits for it. Pages that are there already keep
    /// what they hold.
    pub fn copy(&self, block: &RamBlock, run: PageRun, contents: &[u8]) -> Result<(), UffdError> {
        self.copy_raw(block, run, RawSlice::of(contents))
    }

    /// The same with what stands in the same run of `from`.
    pub(crate) fn copy_from(&self, block: &RamBlock, run: PageRun, from: &RamBlock) -> Result<(), UffdError> {
        self.copy_raw(block, run, from.raw(run))
    }

    /// Moves what stands in the same run of `from` into the block, and wakes who waits for it: a
    /// whole huge page in one piece, if none of its pages is there. Pages that are there already
    /// make it fail: so many pages before them, which the error tells as well, have gone in, or are
    /// missing on both sides.
    pub(crate) fn move_in(&self, block: &RamBlock, run: PageRun, from: &RamBlock) -> Result<(), (u32, io::Error)> {
        let (target, source) = (block.raw(run), from.raw(run));
        let mut done = 0;
        while done < target.len() {
            let mut order = uffdio_move {
                dst: (target.address() + done) as u64,
                src: (source.address() + done) as u64,
                len: (target.len() - done) as u64,
                mode: UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES,
                move_: 0,
            };
            // SAFETY: `order` is the call's structure and outlives it. Both ranges were checked to
            // lie inside their blocks, to whose memory no Rust reference exists; the source's pages
            // are gone afterwards, which leaves fresh memory there.
            let result = unsafe { calls::move_pages(self.fd.as_raw_fd(), &mut order) };
            // After some pages it fails with EAGAIN, and tells how far it came.
            done += usize::try_from(order.move_).unwrap_or(0);
            match result {
                Ok(_) | Err(Errno::EAGAIN) => {}
                Err(errno) => return Err(((done / PAGE_SIZE) as u32, errno.into())),
            }
        }
        Ok(())
    }

    fn copy_raw(&self, block: &RamBlock, run: PageRun, contents: RawSlice<'_>) -> Result<(), UffdError> {
        assert_eq!(contents.len(), run.bytes());
        let target = block.raw(run);
        let mut done = 0;
        while done < contents.len() {
            let mut order = uffdio_copy {
                dst: (target.address() + done) as u64,
                src: (contents.address() + done) as u64,
                len: (contents.len() - done) as u64,
                mode: 0,
                copy: 0,
            };
            // SAFETY: `order` is the call's structure and outlives it. Its source is readable for
            // its length; its target was checked to lie inside the block, and the kernel fills only
            // pages of it that are missing, which nobody can hold a reference to.
            let result = unsafe { calls::copy(self.fd.as_raw_fd(), &mut order) };
            done += self.filled(block, run, done, result, order.copy)?;
        }
        Ok(())
    }

    /// Fills the run with zeros and wakes who waits for it. Pages that are there already keep what
    /// they hold.
    pub fn zero(&self, block: &RamBlock, run: PageRun) -> Result<(), UffdError> {
        let target = block.raw(run);
        let mut done = 0;
        while done < target.len() {
            let mut order =
                uffdio_zeropage { range: range(target.address() + done, target.len() - done), mode: 0, zeropage: 0 };
            // SAFETY: `order` is the call's structure and outlives it. Its range was checked to lie
            // inside the block; only missing pages are filled.
            let result = unsafe { calls::zeropage(self.fd.as_raw_fd(), &mut order) };
            done += self.filled(block, run, done, result, order.zeropage)?;
        }
        Ok(())
    }

    /// How many bytes a call got further, `done` bytes into the run. `filled` is what it tells of
    /// that: bytes, or a negative error number.
    fn filled(
        &self,
        block: &RamBlock,
        run: PageRun,
        done: usize,
        result: nix::Result<i32>,
        filled: i64,
    ) -> Result<usize, UffdError> {
        match result {
            // EAGAIN: interrupted after some pages, or before the first.
            Ok(_) | Err(Errno::EAGAIN) => Ok(usize::try_from(filled).unwrap_or(0)),
            Err(Errno::EEXIST) => self.step_over_present(block, run, done),
            Err(error) => Err(UffdError::Place { block: block.name().to_owned(), source: error.into() }),
        }
    }

    /// A page that is there already is woken and stepped over.
    fn step_over_present(&self, block: &RamBlock, run: PageRun, done: usize) -> Result<usize, UffdError> {
        self.wake(block, PageRun::single(run.block, PageIndex(run.start.0 + (done / PAGE_SIZE) as u64)))?;
        Ok(PAGE_SIZE)
    }

    /// Wakes who waits for pages of the run: placing fails on a page that is there, and then wakes
    /// nobody.
    pub fn wake(&self, block: &RamBlock, run: PageRun) -> Result<(), UffdError> {
        let target = block.raw(run);
        let mut range = range(target.address(), target.len());
        // SAFETY: `range` is the call's structure and outlives it.
        unsafe { calls::wake(self.fd.as_raw_fd(), &mut range) }
            .map(drop)
            .map_err(|error| UffdError::Place { block: block.name().to_owned(), source: error.into() })
    }
}

impl Fault {
    /// Of a `struct uffd_msg` that reports a page fault.
    fn of(message: &[u8]) -> Self {
        type PageFault = uffd_msg__bindgen_ty_1__bindgen_ty_1;
        const ARGUMENT: usize = offset_of!(uffd_msg, arg);
        Self {
            address: usize::from_ne_bytes(bytes_at(message, ARGUMENT + offset_of!(PageFault, address))),
            thread: i32::from_ne_bytes(bytes_at(message, ARGUMENT + offset_of!(PageFault, feat))),
        }
    }
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes[at + index])
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
