//! Saving a guest that stays: [`save`] writes the stream that a migration would write, and the
//! guest goes on in this process.
//!
//! ```text
//!  SaveMode::Paused      pause, state, pages ................ state's message, end, resume
//!  SaveMode::Background  pause, state, protect, resume, pages  state's message, end
//! ```
//!
//! In the background, a page that the guest is about to write is saved first.
//! The pages come before the state in either case, as readers want them; until then the state is
//! held.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::chunk::Chunk;
use super::sink::Sink;
use super::write::Writer;
use super::write_protect::WriteProtect;
use crate::bitmap::RamBitmap;
use crate::channel::Wake;
use crate::error::{MigrationError, failed_to, sentence};
use crate::guest::{EngineThread, PauseLock, PausedGuest, SnapshotGuest};
use crate::logging as log;
use crate::memory::HUGE_PAGES;
use crate::panics::catch;
use crate::progress::{Observer, Phase, Progress};
use crate::ram::{PAGE_SIZE, PageIndex, PageRun};
use crate::source::introduction;
use crate::stats::{PageMap, Report, Status, Whereabouts};
use crate::thread_priority::lower_priority;
use crate::uffd::Uffd;
use crate::wire::Forward;

/// This thread, in messages.
const SNAPSHOT: &str = "snapshot";

/// How a guest that stays is saved.
pub enum SaveMode {
    /// It stands still until all of it is written.
    Paused,
    /// It stands still for a moment.
    Background {
        /// What it writes afterwards is seen by this, which is of [`Uffd::open_for_writes`].
        uffd: Uffd,
        /// So much is written at most, in bytes per second; 0: no limit.
        bandwidth: u64,
    },
}

/// What the thread and the handle share.
struct Shared {
    wake: Wake,
    cancelled: AtomicBool,
    progress: Arc<Progress>,
    pending: Arc<RamBitmap>,
}

/// A guest that is being saved. Dropping it does not end that.
pub struct Saving {
    shared: Arc<Shared>,
    observer: Arc<dyn Observer>,
    thread: Option<JoinHandle<()>>,
}

/// Begins to write `guest` into `sink`. Returns at once; the end comes by the report and the
/// observer. However it ends the guest is here, and runs if it ran.
pub fn save(
    guest: Arc<dyn SnapshotGuest>,
    sink: Box<dyn Sink>,
    way: SaveMode,
    observer: Arc<dyn Observer>,
) -> io::Result<Saving> {
    let pending = Arc::new(RamBitmap::new(guest.ram()));
    pending.set_all();
    let shared = Arc::new(Shared {
        wake: Wake::new()?,
        cancelled: AtomicBool::new(false),
        progress: Arc::new(Progress::new(pending.pages())),
        pending,
    });
    observer.status(Status::Setup);
    let saver = Saver { guest, shared: shared.clone(), observer: observer.clone(), lock: PauseLock::default() };
    let thread = std::thread::Builder::new().name(SNAPSHOT.into()).spawn(move || saver.run(sink, way))?;
    Ok(Saving { shared, observer, thread: Some(thread) })
}

impl Saving {
    /// Gives it up, unless it has ended.
    pub fn cancel(&self) {
        self.shared.cancelled.store(true, Ordering::Release);
        if !self.report().status.is_ended() && self.shared.progress.enter(Status::Cancelling) {
            self.observer.status(Status::Cancelling);
        }
        self.shared.wake.ring();
    }

    /// How it stands. Its downtime is how long the guest stood still.
    pub fn report(&self) -> Report {
        self.shared.progress.report(self.shared.pending.count())
    }

    /// Which pages are written, in so many parts of guest RAM: none if what was written is of no
    /// use.
    pub fn page_map(&self, buckets: u32) -> PageMap {
        let pending = &self.shared.pending;
        if self.shared.progress.status().came_to_nothing() {
            return PageMap::nothing(pending.pages(), buckets);
        }
        PageMap::new(pending.pages(), buckets, |start, end| end - start - pending.count_range(start, end))
    }

    /// The process ends.
    pub fn abandon(&mut self) {
        self.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread.
struct Saver {
    guest: Arc<dyn SnapshotGuest>,
    shared: Arc<Shared>,
    observer: Arc<dyn Observer>,
    /// Gets the right to resume the guest back from whatever fails or panics meanwhile.
    lock: PauseLock,
}

impl Saver {
    fn run(self, sink: Box<dyn Sink>, way: SaveMode) {
        log::enter(log::Side::Snapshot, &self.shared.progress);
        self.guest.thread_begins(EngineThread::Snapshot);
        self.shared.progress.begin();
        let saved = catch(SNAPSHOT, || self.save(sink, way));
        let resumed = catch(SNAPSHOT, || {
            self.take_back();
            Ok(())
        });
        let saved = resumed.and(saved);
        let (status, broken) = match saved {
            Ok(broken) => {
                self.shared.progress.stays(Whereabouts::Here);
                (Status::Completed, broken)
            }
            Err(_) if self.is_cancelled() => (Status::Cancelled, Vec::new()),
            Err(error) => {
                let text = sentence(&error);
                log::error!("the guest was not saved, and stays as it is: {text}");
                self.shared.progress.fail(text);
                self.enter(Status::Failing);
                (Status::Failed, Vec::new())
            }
        };
        self.enter(status);
        self.mend(broken);
    }

    fn is_cancelled(&self) -> bool {
        self.shared.cancelled.load(Ordering::Acquire)
    }

    fn enter(&self, status: Status) {
        if self.shared.progress.enter(status) {
            log::info!("snapshot: {}", status.name());
            self.observer.status(status);
        }
    }

    /// Gives the huge pages that were broken up.
    fn save(&self, sink: Box<dyn Sink>, way: SaveMode) -> Result<Vec<PageRun>, MigrationError> {
        let shared = &self.shared;
        let cancelled = || self.is_cancelled();
        let mut writer = Writer::begin(sink, &shared.wake, &cancelled)?;
        introduction(&*self.guest).iter().try_for_each(|message| writer.say(message))?;
        writer.say(&Forward::PassBegin(1))?;
        let watch = match way {
            SaveMode::Paused => None,
            SaveMode::Background { uffd, bandwidth } => {
                writer.limit(bandwidth);
                Some(WriteProtect::prepare(self.guest.clone(), uffd, shared.pending.clone())?)
            }
        };
        self.guest.prepare_pause();
        self.enter(Status::Active);
        let written = self.save_now(&mut writer, watch);
        // It does not wait for the disk, which the end of the writer may.
        self.take_back();
        let broken = written?;
        writer.commit()?;
        Ok(broken)
    }

    /// Pauses the guest, writes all of it, and resumes it on the way.
    fn save_now(&self, writer: &mut Writer<'_>, watch: Option<WriteProtect>) -> Result<Vec<PageRun>, MigrationError> {
        let paused = self.pause()?;
        let state = Forward::State(self.guest.save_staying().map_err(failed_to("save its state"))?);
        self.shared.progress.step("save");
        let last = [Forward::PassEnd(1), state, Forward::HandOver { running: paused.running() }, Forward::Complete];
        let Some(watch) = watch else {
            self.pages(writer, None, &last)?;
            self.resume(paused)?;
            return Ok(Vec::new());
        };
        // What is given back to the host reads as zero, and nobody is told before.
        self.guest.keep_memory(true);
        let written = self.go_on(&watch, paused).and_then(|()| self.pages(writer, Some(&watch), &last));
        let broken = watch.end();
        self.guest.keep_memory(false);
        written.map(|()| broken)
    }

    /// The guest runs on, and RAM stays as it was.
    fn go_on(&self, watch: &WriteProtect, paused: PausedGuest) -> Result<(), MigrationError> {
        watch.protect()?;
        self.shared.progress.step("protect");
        self.resume(paused)
    }

    fn pause(&self) -> Result<PausedGuest, MigrationError> {
        self.shared.progress.stopping();
        let paused = self.lock.pause(&*self.guest).map_err(failed_to("pause"))?;
        self.shared.progress.step("pause");
        Ok(paused)
    }

    /// The guest goes on, if it ran.
    fn resume(&self, paused: PausedGuest) -> Result<(), MigrationError> {
        self.lock.resume(&*self.guest, paused).map_err(failed_to("resume"))?;
        self.shared.progress.running();
        Ok(())
    }

    /// The same, where something failed before it came so far.
    fn take_back(&self) {
        if self.lock.take_back(&*self.guest) {
            self.shared.progress.running();
        }
    }

    /// The pages, and what comes behind them.
    fn pages(
        &self,
        writer: &mut Writer<'_>,
        watch: Option<&WriteProtect>,
        last: &[Forward],
    ) -> Result<(), MigrationError> {
        self.all_pages(writer, watch)?;
        if let Some(watch) = watch {
            watch.check()?;
        }
        match self.shared.pending.pages() - writer.pages() {
            0 => last.iter().try_for_each(|message| writer.say(message)),
            missing => Err(MigrationError::PagesMissing(missing)),
        }
    }

    /// Every page, a huge page's worth at a time, so that none is broken up for this; in between
    /// what others are about to write.
    fn all_pages(&self, writer: &mut Writer<'_>, watch: Option<&WriteProtect>) -> Result<(), MigrationError> {
        let (mut chunk, mut spare) = (Chunk::default(), Chunk::default());
        for ((id, pending), block) in self.shared.pending.blocks().zip(self.guest.ram()) {
            let mut from = PageIndex(0);
            while let Some(next) = pending.next_set(from) {
                let most = HUGE_PAGES - (next.0 % u64::from(HUGE_PAGES)) as u32;
                let Some(run) = pending.claim_run(id, next, most) else { break };
                from = run.end();
                chunk.copy(block, run);
                if let Some(watch) = watch {
                    watch.let_go(run)?;
                    spare = self.write_ahead(writer, watch, spare)?;
                }
                self.write(writer, &mut chunk)?;
                self.shared.progress.sample();
            }
        }
        if let Some(watch) = watch {
            self.write_ahead(writer, watch, spare)?;
        }
        Ok(())
    }

    /// What was copied for others; gives its memory for the next time.
    fn write_ahead(
        &self,
        writer: &mut Writer<'_>,
        watch: &WriteProtect,
        spare: Chunk,
    ) -> Result<Chunk, MigrationError> {
        let mut ahead = watch.take_ahead(spare);
        self.write(writer, &mut ahead)?;
        Ok(ahead)
    }

    fn write(&self, writer: &mut Writer<'_>, chunk: &mut Chunk) -> Result<(), MigrationError> {
        if chunk.is_empty() {
            return Ok(());
        }
        let count = |zero: bool| {
            let those = chunk.places().iter().filter(|place| place.at.is_none() == zero);
            those.map(|place| u64::from(place.run.count)).sum::<u64>()
        };
        self.shared.progress.moved(Phase::Precopy, chunk.bytes().len() as u64, count(false), count(true));
        writer.add(chunk)?;
        chunk.clear();
        Ok(())
    }

    /// Writers broke huge pages up; a guest on small ones is slower for good.
    fn mend(&self, broken: Vec<PageRun>) {
        if !broken.is_empty() {
            lower_priority();
        }
        for run in broken {
            if self.is_cancelled() {
                return;
            }
            let Some(block) = self.guest.ram().get(usize::from(run.block.0)) else { continue };
            if let Err(error) = block.collapse(run) {
                log::debug!("{} bytes at page {} stay in small pages: {error}", run.bytes(), run.start.0);
            }
        }
    }
}

const _: () = assert!(HUGE_PAGES <= crate::wire::MAX_RUN_PAGES && PAGE_SIZE == 4096);
