//! [`WriteProtect`]: guest RAM as it was at one moment, while the guest goes on writing to it.
//!
//! Every page is protected against writes while nothing runs. A page that is written to before it
//! was saved stops its writer in the kernel, becomes an event here, is copied, and let go. One
//! thread does this and nothing else: it takes no lock that a writer may hold, and never writes to
//! guest RAM itself, for then nobody would be left to let it go on.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::chunk::Chunk;
use crate::bitmap::{PageBitmap, RamBitmap};
use crate::channel::Wake;
use crate::error::MigrationError;
use crate::guest::{EngineThread, GuestRam};
use crate::logging as log;
use crate::memory::{HUGE_PAGES, RamBlock};
use crate::panics::catch;
use crate::ram::{BlockId, PageIndex, PageRun};
use crate::thread_priority::raise_priority;
use crate::uffd::{FAULTS_A_READ, Uffd, UffdError};

/// So much is copied ahead, in bytes; beyond that writers wait until some of it is written.
const MOST_AHEAD: usize = 64 << 20;
/// Pages of which it is noted at once that they are zero.
const PIECE: u32 = 1 << 18;

/// Everything that is watched, and the thread that lets writers go on.
pub(super) struct WriteProtect {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    guest: Arc<dyn GuestRam>,
    uffd: Uffd,
    /// Pages that are neither saved nor being copied.
    pending: Arc<RamBitmap>,
    /// Huge pages that writers broke up.
    broken: RamBitmap,
    ahead: Mutex<Chunk>,
    room: Condvar,
    wake: Wake,
    stop: AtomicBool,
    /// Nothing is watched any more, before it should be.
    lost: Mutex<Option<MigrationError>>,
}

fn whole(id: BlockId, block: &RamBlock) -> PageRun {
    PageRun { block: id, start: PageIndex(0), count: block.pages() as u32 }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What they guard is whole after each change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WriteProtect {
    /// Gets everything ready while the guest runs. `pending`: all pages.
    pub fn prepare(guest: Arc<dyn GuestRam>, uffd: Uffd, pending: Arc<RamBitmap>) -> Result<Self, MigrationError> {
        for (number, block) in (0..).zip(guest.ram()) {
            // Page tables that have to be made only to protect nothing would be made in the pause.
            for piece in whole(BlockId(number), block).pieces(PIECE) {
                if let Err(error) = block.note_zeros(piece) {
                    log::debug!("the pause will be longer: {error}");
                }
            }
        }
        let chunks = |pages: u64| pages.div_ceil(u64::from(HUGE_PAGES));
        let broken = RamBitmap::with_pages(guest.ram().iter().map(|block| chunks(block.pages())));
        let shared = Arc::new(Shared {
            guest,
            uffd,
            pending,
            broken,
            ahead: Mutex::default(),
            room: Condvar::new(),
            wake: Wake::new()?,
            stop: AtomicBool::new(false),
            lost: Mutex::default(),
        });
        for block in shared.guest.ram() {
            shared.uffd.register_writes(block)?;
        }
        let thread = shared.clone();
        let thread =
            std::thread::Builder::new().name("snap-writes".into()).spawn(log::carried(move || thread.run()))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// From here on RAM is kept as it is. The guest stands still.
    pub fn protect(&self) -> Result<(), UffdError> {
        self.shared.guest.ram().iter().try_for_each(|block| self.shared.uffd.protect(block))
    }

    /// The run was copied: who waits to write to it goes on.
    pub fn let_go(&self, run: PageRun) -> Result<(), MigrationError> {
        // Where nothing is watched any more this fails, and why that is so is the reason.
        self.shared.let_go(run).map_err(|error| self.check().err().unwrap_or(error.into()))
    }

    /// Exchanges what was copied ahead for `empty`. Once no page is pending, this has the last of
    /// it.
    pub fn take_ahead(&self, empty: Chunk) -> Chunk {
        let mut ahead = lock(&self.shared.ahead);
        let taken = std::mem::replace(&mut *ahead, empty);
        self.shared.room.notify_all();
        taken
    }

    /// Why what is saved is not what was there, if it is not.
    pub fn check(&self) -> Result<(), MigrationError> {
        lock(&self.shared.lost).take().map_or(Ok(()), Err)
    }

    /// Ends it, whatever it is at, and gives the huge pages that it broke up.
    pub fn end(mut self) -> Vec<PageRun> {
        self.shut();
        let mut broken = Vec::new();
        for (id, chunks) in self.shared.broken.blocks() {
            for run in chunks.runs(id, 1) {
                let first = PageIndex(run.start.0 * u64::from(HUGE_PAGES));
                broken.push(PageRun { block: id, start: first, count: HUGE_PAGES });
            }
        }
        broken.retain(|run| self.shared.guest.ram().get(usize::from(run.block.0)).is_some_and(|it| it.holds(*run)));
        broken
    }

    fn shut(&mut self) {
        // First, so that nobody waits for a thread that has ended.
        self.shared.unwatch();
        self.shared.stop.store(true, Ordering::Release);
        // With the lock, so that it is seen before the thread sleeps.
        drop(lock(&self.shared.ahead));
        self.shared.room.notify_all();
        self.shared.wake.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for WriteProtect {
    fn drop(&mut self) {
        self.shut();
    }
}

impl Shared {
    fn run(&self) {
        self.guest.thread_begins(EngineThread::SnapshotWrites);
        raise_priority();
        while let Err(error) = catch("snap-writes", || self.serve()) {
            if self.stops() {
                return;
            }
            // What is written from here on is not copied first: the snapshot is none, and the guest
            // goes on.
            *lock(&self.lost) = Some(error);
            self.unwatch();
            self.wake.wait();
        }
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Until told to stop.
    fn serve(&self) -> Result<(), MigrationError> {
        let mut faults = Vec::with_capacity(FAULTS_A_READ);
        while !self.stops() {
            let mut fds =
                [PollFd::new(self.wake.as_fd(), PollFlags::POLLIN), PollFd::new(self.uffd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(std::io::Error::from(error).into()),
            }
            faults.clear();
            self.uffd.read(&mut faults)?;
            for fault in &faults {
                let pages = |(block, it): (usize, &RamBlock)| Some((block, it.page_of(fault.address)?));
                match self.guest.ram().iter().enumerate().find_map(pages) {
                    Some((block, page)) => self.written(PageRun::single(BlockId(block as u16), page))?,
                    None => log::warn!("a write to {:#x} is outside guest RAM", fault.address),
                }
            }
        }
        Ok(())
    }

    /// Somebody waits to write to this page.
    fn written(&self, page: PageRun) -> Result<(), MigrationError> {
        let (Some(pending), Some(block)) =
            (self.pending.block(page.block), self.guest.ram().get(usize::from(page.block.0)))
        else {
            return Ok(());
        };
        let ahead = lock(&self.ahead);
        let full = |ahead: &mut Chunk| ahead.bytes().len() >= MOST_AHEAD && !self.stops();
        let mut ahead = self.room.wait_while(ahead, full).unwrap_or_else(PoisonError::into_inner);
        // With the lock held: who finds nothing pending, and has the lock, has all that was copied
        // here.
        if !pending.claim(page.start) {
            // It is being copied, and let go behind that.
            return Ok(());
        }
        ahead.copy(block, page);
        drop(ahead);
        self.note_broken(page);
        Ok(self.let_go(page)?)
    }

    fn note_broken(&self, page: PageRun) {
        if let Some(chunks) = self.broken.block(page.block) {
            PageBitmap::set(chunks, PageIndex(page.start.0 / u64::from(HUGE_PAGES)));
        }
    }

    fn let_go(&self, run: PageRun) -> Result<(), UffdError> {
        match self.guest.ram().get(usize::from(run.block.0)) {
            Some(block) => self.uffd.let_go(block, run),
            None => Ok(()),
        }
    }

    /// Takes all protection away, and wakes who waits.
    fn unwatch(&self) {
        for (number, block) in (0..).zip(self.guest.ram()) {
            // Fails where it is not watched any more. Writers that wait are not woken by it, unlike
            // readers of missing pages.
            let _ = self.uffd.unregister(block);
            if let Err(error) = self.uffd.wake(block, whole(BlockId(number), block)) {
                log::error!("a writer may wait for ever: {error}");
            }
        }
    }
}
