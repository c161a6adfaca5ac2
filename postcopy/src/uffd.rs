//! userfaultfd: the only file that speaks its interface.
//!
//! Guest RAM is registered for missing pages. A touch of a missing page stops the toucher (a vCPU
//! in KVM_RUN, a device thread) and becomes a [`Fault`]; placing the page wakes it.
//!
//! Or it is registered for writes ([`Uffd::open_for_writes`]): then a write to a page that is
//! protected is the fault, and letting go of the page's protection wakes the writer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use userfaultfd::{Error, Event, EventBuffer, FeatureFlags, IoctlFlags, RegisterMode, UffdBuilder};

use crate::memory::{AnonymousRam, Backing, RamBlock, RawSlice};
use crate::ram::{PAGE_SIZE, PageIndex, PageRun};

/// Why missing pages cannot be watched or filled.
#[derive(Debug, thiserror::Error)]
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
    #[error("RAM block {0} is shared memory, which is not watched for writes; use --memory without shared=on")]
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
    fd: userfaultfd::Uffd,
    moves: bool,
}

nix::ioctl_readwrite!(
    /// The handshake that every userfaultfd needs before anything else.
    uffdio_api, 0xAA, 0x3F, UffdioApi
);

/// `struct uffdio_api` of linux/userfaultfd.h.
#[repr(C)]
pub struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

const _: () = assert!(size_of::<UffdioApi>() == 24);

/// `UFFD_API` of linux/userfaultfd.h.
const UFFD_API: u64 = 0xAA;

nix::ioctl_readwrite!(
    /// Moves pages instead of copying them.
    uffdio_move, 0xAA, 0x05, UffdioMove
);

/// `struct uffdio_move` of linux/userfaultfd.h.
#[repr(C)]
pub struct UffdioMove {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    moved: i64,
}

const _: () = assert!(size_of::<UffdioMove>() == 40);

/// `_UFFDIO_MOVE`, as a bit of what a registered range can do.
const MOVE: u64 = 1 << 0x05;
/// `UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES`: what is missing at the source stays missing at the target.
const ALLOW_HOLES: u64 = 1 << 1;

/// `UFFD_FEATURE_WP_UNPOPULATED` (Linux 6.4): a page that was never touched is protected like any
/// other.
const WP_UNPOPULATED: u64 = 1 << 13;

/// A new userfaultfd with these features. An error is of whoever denies it; `EINVAL` is a feature
/// that the kernel lacks.
fn create(features: FeatureFlags) -> io::Result<userfaultfd::Uffd> {
    let device = UffdBuilder::new()
        .close_on_exec(true)
        .non_blocking(true)
        .user_mode_only(false)
        .require_features(features)
        .create();
    match device {
        Ok(fd) => Ok(fd),
        // What the device denies is told, unless the call has more to say than that it does so too.
        Err(Error::OpenDevUserfaultfd(denied)) => {
            by_system_call(features).map_err(|error| match error.raw_os_error() {
                Some(libc::EINVAL) => error,
                _ => denied,
            })
        }
        Err(error) => Err(io_error(error)),
    }
}

/// The device exists but is denied: the system call may still be allowed.
fn by_system_call(features: FeatureFlags) -> io::Result<userfaultfd::Uffd> {
    // SAFETY: the call takes flags only and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let mut api = UffdioApi { api: UFFD_API, features: features.bits(), ioctls: 0 };
    // SAFETY: `api` is a `struct uffdio_api`, valid for the call.
    unsafe { uffdio_api(std::os::fd::AsRawFd::as_raw_fd(&fd), &mut api) }?;
    // SAFETY: the descriptor is a userfaultfd after its handshake; ownership passes on.
    Ok(unsafe { userfaultfd::Uffd::from_raw_fd(fd.into_raw_fd()) })
}

/// Whether pages can be moved; found out on a page of our own.
fn can_move(fd: &userfaultfd::Uffd) -> bool {
    let Ok(probe) = AnonymousRam::block("probe", 1) else { return false };
    let start = probe.address(PageIndex(0)) as *mut _;
    let ioctls = fd.register(start, PAGE_SIZE);
    // The memory goes away with its registration.
    let _ = fd.unregister(start, PAGE_SIZE);
    ioctls.is_ok_and(|ioctls| ioctls.bits() & MOVE != 0)
}

impl Uffd {
    /// A new one: from /dev/userfaultfd if that is there and allowed, else by the system call.
    /// Faults that the kernel itself takes (KVM does) are included, which is what needs privilege.
    pub fn open() -> Result<Self, UffdError> {
        let fd = create(FeatureFlags::THREAD_ID).map_err(UffdError::Unavailable)?;
        Ok(Self { moves: can_move(&fd), fd })
    }

    /// One that watches for writes instead, to pages that are there and to those that are not yet.
    pub fn open_for_writes() -> Result<Self, UffdError> {
        let features = FeatureFlags::PAGEFAULT_FLAG_WP | FeatureFlags::from_bits_retain(WP_UNPOPULATED);
        match create(features) {
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

    /// Watches the whole block for missing pages. Pages that are populated already never fault.
    pub fn register(&self, block: &RamBlock) -> Result<(), UffdError> {
        let raise = |source| UffdError::Register { block: block.name().to_owned(), source };
        let ioctls = self
            .fd
            .register(block.address(PageIndex(0)) as *mut _, block.pages() as usize * PAGE_SIZE)
            .map_err(|error| raise(io_error(error)))?;
        if ioctls.contains(IoctlFlags::COPY | IoctlFlags::WAKE | IoctlFlags::ZEROPAGE) {
            Ok(())
        } else {
            Err(raise(io::Error::new(io::ErrorKind::Unsupported, "its kind of memory cannot be filled page by page")))
        }
    }

    /// Watches the whole block for writes, of which none faults before [`Self::protect`]. Private
    /// anonymous memory only.
    pub fn register_writes(&self, block: &RamBlock) -> Result<(), UffdError> {
        if block.backing() == Backing::Shared {
            return Err(UffdError::SharedMemory(block.name().to_owned()));
        }
        let start = block.address(PageIndex(0)) as *mut _;
        self.fd
            .register_with_mode(start, block.pages() as usize * PAGE_SIZE, RegisterMode::WRITE_PROTECT)
            .map(drop)
            .map_err(|error| UffdError::Register { block: block.name().to_owned(), source: io_error(error) })
    }

    /// From now on a write to any page of the block faults. Nobody may be writing meanwhile who is
    /// not to be watched.
    pub fn protect(&self, block: &RamBlock) -> Result<(), UffdError> {
        let start = block.address(PageIndex(0)) as *mut _;
        self.change_protection(block, || self.fd.write_protect(start, block.pages() as usize * PAGE_SIZE))
    }

    /// The run can be written again; wakes who waits to.
    pub fn let_go(&self, block: &RamBlock, run: PageRun) -> Result<(), UffdError> {
        let target = block.raw(run);
        let start = target.address() as *mut _;
        self.change_protection(block, || self.fd.remove_write_protection(start, target.len(), true))
    }

    fn change_protection(&self, block: &RamBlock, change: impl Fn() -> Result<(), Error>) -> Result<(), UffdError> {
        loop {
            match change().map_err(io_error) {
                Ok(()) => return Ok(()),
                // The memory map changes at this moment.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                Err(source) => return Err(UffdError::Protect { block: block.name().to_owned(), source }),
            }
        }
    }

    /// Watches no more; whoever still waits touches again and finds what is there.
    pub fn unregister(&self, block: &RamBlock) -> Result<(), UffdError> {
        let start = block.address(PageIndex(0)) as *mut _;
        self.fd
            .unregister(start, block.pages() as usize * PAGE_SIZE)
            .map_err(|error| UffdError::Register { block: block.name().to_owned(), source: io_error(error) })
    }

    /// The faults that wait to be read, appended to `faults`; none if there are none.
    pub fn read(&self, buffer: &mut EventBuffer, faults: &mut Vec<Fault>) -> Result<(), UffdError> {
        for event in self.fd.read_events(buffer).map_err(|error| UffdError::Read(io_error(error)))? {
            match event.map_err(|error| UffdError::Read(io_error(error)))? {
                Event::Pagefault { addr, thread_id, .. } => {
                    faults.push(Fault { address: addr as usize, thread: thread_id.as_raw() });
                }
                // The others must be asked for, and are not.
                other => log::warn!("unexpected userfaultfd event {other:?}"),
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
    /// make it fail.
    pub(crate) fn move_in(&self, block: &RamBlock, run: PageRun, from: &RamBlock) -> io::Result<()> {
        let (target, source) = (block.raw(run), from.raw(run));
        let mut done = 0;
        while done < target.len() {
            let mut order = UffdioMove {
                dst: (target.address() + done) as u64,
                src: (source.address() + done) as u64,
                len: (target.len() - done) as u64,
                mode: ALLOW_HOLES,
                moved: 0,
            };
            // SAFETY: `order` is a `struct uffdio_move`, valid for the call. Both ranges were
            // checked to lie inside their blocks, to whose memory no Rust reference exists; the
            // source's pages are gone afterwards, which leaves fresh memory there.
            let result = unsafe { uffdio_move(std::os::fd::AsRawFd::as_raw_fd(&self.fd), &mut order) };
            // After some pages it fails with EAGAIN, and tells how far it came.
            done += usize::try_from(order.moved).unwrap_or(0);
            match result {
                Ok(_) | Err(nix::errno::Errno::EAGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn copy_raw(&self, block: &RamBlock, run: PageRun, contents: RawSlice<'_>) -> Result<(), UffdError> {
        assert_eq!(contents.len(), run.bytes());
        let target = block.raw(run);
        let mut done = 0;
        while done < contents.len() {
            let rest = contents.skip(done);
            // SAFETY: `rest` is readable for its length; the target range was checked to lie inside
            // the block and is registered. The kernel fills only pages that are missing, which
            // nobody can hold a reference to.
            let copied = unsafe {
                self.fd.copy(rest.address() as *const _, (target.address() + done) as *mut _, rest.len(), true)
            };
            done += match copied {
                Ok(count) => count,
                // Interrupted after some pages (or before the first: then the count is a negative
                // error number).
                Err(Error::PartiallyCopied(count)) => (count as isize).max(0) as usize,
                Err(error) => self.step_over_present(block, run, done, error)?,
            };
        }
        Ok(())
    }

    /// Fills the run with zeros and wakes who waits for it. Pages that are there already keep what
    /// they hold.
    pub fn zero(&self, block: &RamBlock, run: PageRun) -> Result<(), UffdError> {
        let target = block.raw(run);
        // SAFETY: the range was checked to lie inside the block and is registered; only missing
        // pages are filled.
        let whole = unsafe { self.fd.zeropage(target.address() as *mut _, target.len(), true) };
        if whole.is_ok_and(|count| count == target.len()) {
            return Ok(());
        }
        let mut done = 0;
        while done < target.len() {
            // SAFETY: as above, one page of it.
            let one = unsafe { self.fd.zeropage((target.address() + done) as *mut _, PAGE_SIZE, true) };
            done += match one {
                Ok(count) => count,
                Err(Error::ZeropageFailed(errno)) if errno as i32 == libc::EAGAIN => 0,
                Err(error) => self.step_over_present(block, run, done, error)?,
            };
        }
        Ok(())
    }

    /// A page that is there already (EEXIST) is woken and stepped over; anything else is an error.
    fn step_over_present(&self, block: &RamBlock, run: PageRun, done: usize, error: Error) -> Result<usize, UffdError> {
        let error = io_error(error);
        if error.raw_os_error() != Some(libc::EEXIST) {
            return Err(UffdError::Place { block: block.name().to_owned(), source: error });
        }
        self.wake(block, PageRun::single(run.block, PageIndex(run.start.0 + (done / PAGE_SIZE) as u64)))?;
        Ok(PAGE_SIZE)
    }

    /// Wakes who waits for pages of the run: placing fails on a page that is there, and then wakes
    /// nobody.
    pub fn wake(&self, block: &RamBlock, run: PageRun) -> Result<(), UffdError> {
        let target = block.raw(run);
        self.fd
            .wake(target.address() as *mut _, target.len())
            .map_err(|error| UffdError::Place { block: block.name().to_owned(), source: io_error(error) })
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open as long as `self.fd` lives.
        unsafe { BorrowedFd::borrow_raw(self.fd.as_raw_fd()) }
    }
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::CopyFailed(errno) | Error::ZeropageFailed(errno) => io::Error::from_raw_os_error(errno as i32),
        Error::SystemError(errno) => io::Error::from_raw_os_error(errno as i32),
        Error::OpenDevUserfaultfd(error) => error,
        other => io::Error::other(other),
    }
}
