//! The fault loop: the only thread on the destination that a demanded page passes through.
//!
//! A touch arrives on the userfaultfd, goes out as a request on the demand channel, comes back on
//! the same channel and is placed, all here. Requests are pipelined: none waits for the answer to
//! another.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::place::{PIECE, Place, Placed};
use super::tracker::Touch;
use crate::channel::{Channel, ChannelError, MessageReader, Wake};
use crate::error::MigrationError;
use crate::guest::{DestinationGuest, EngineThread};
use crate::host::{Instant, Mutex, poll};
use crate::logging as log;
use crate::panics::catch;
use crate::progress::{Phase, Progress};
use crate::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};
use crate::thread_priority::raise_priority;
use crate::uffd::{FAULTS_A_READ, Fault, UffdError};
use crate::wire::{Forward, Header, Request, decode_demand};

/// The demand channel's read buffer: some answers at once.
const READ_BUFFER: usize = 256 * 1024;
/// What a run of zeros costs on the wire, without its share of a header.
const ZERO_BYTES: u64 = 16;

/// What a lost demand channel means to RAM that is watched for missing pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    /// The guest is still the source's: whoever waits for a page (loading the state may) is let go,
    /// and nothing runs here.
    Wanted,
    /// Let go: the guest must not run here any more.
    Given,
    /// The guest is this side's: whoever waits for a page waits until there is a new channel.
    Kept,
}

/// What the fault loop and the control thread tell each other.
pub(super) struct FaultLoopShared {
    /// Rung by the control thread.
    pub wake: Wake,
    /// A new demand channel, after a reconnect.
    pub channel: Mutex<Option<Arc<Channel>>>,
    /// The loop is to end.
    pub stop: AtomicBool,
    /// Whether anything may still rely on missing pages being watched.
    watch: Mutex<Watch>,
    /// Why the demand channel is gone, if it is.
    pub lost: Mutex<Option<MigrationError>>,
    /// Rung by the loop: the channel was lost, or the last page came.
    pub control: Arc<Wake>,
}

impl FaultLoopShared {
    pub fn new(control: Arc<Wake>) -> std::io::Result<Self> {
        Ok(Self {
            wake: Wake::new()?,
            channel: Mutex::default(),
            stop: AtomicBool::new(false),
            watch: Mutex::new(Watch::Wanted),
            lost: Mutex::default(),
            control,
        })
    }

    pub fn join_channel(&self, channel: Arc<Channel>) {
        let mut waiting = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        *waiting = Some(channel);
        // What the old channel still had to say is no news.
        let _ = self.take_lost();
        drop(waiting);
        self.wake.ring();
    }

    /// The new channel, if one waits; it waits no longer, so that its own end is its own.
    fn take_channel(&self) -> Option<Arc<Channel>> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn take_lost(&self) -> Option<MigrationError> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Carries out `register` unless the demand channel was lost before.
    pub fn begin_watch(&self, register: impl FnOnce() -> Result<(), UffdError>) -> Result<(), MigrationError> {
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if *watch == Watch::Given { Err(self.why_lost()) } else { Ok(register()?) }
    }

    /// The guest is about to run here: from now on a lost channel is waited for.
    pub fn keep_watch(&self) -> Result<(), MigrationError> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if *watch == Watch::Given {
            return Err(self.why_lost());
        }
        *watch = Watch::Kept;
        Ok(())
    }

    /// Calls `unregister`, which wakes whoever waits for a page, unless the guest is this side's.
    fn end_watch(&self, unregister: impl FnOnce()) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if *watch == Watch::Wanted {
            *watch = Watch::Given;
            unregister();
        }
    }

    fn why_lost(&self) -> MigrationError {
        self.take_lost().unwrap_or(lost(ChannelError::Closed(None)))
    }

    fn lose(&self, error: MigrationError) {
        let waiting = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_some() {
            // It was the old channel, whose end the loop saw late: the new one must not be taken
            // for lost.
            return;
        }
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.control.ring();
    }
}

/// The loop's own.
pub(super) struct FaultLoop {
    pub guest: Arc<dyn DestinationGuest>,
    pub place: Arc<Place>,
    pub line: Arc<FaultLoopShared>,
    pub progress: Arc<Progress>,
}

/// What a poll found.
struct Found {
    faults: bool,
    answers: bool,
    woken: bool,
}

impl FaultLoop {
    /// Until told to stop. Losing the channel is no end: faults are still noted, to be asked for
    /// once there is a new one.
    pub fn run(self) {
        self.guest.thread_begins(EngineThread::Faults);
        raise_priority();
        let mut reader: Option<MessageReader> = None;
        let mut faults = Vec::with_capacity(FAULTS_A_READ);
        // After a panic whatever led to it may be there still: faults wait until there is a new
        // channel to ask on.
        let mut watches = true;
        while !self.line.stop.load(Ordering::Acquire) {
            let found = match self.wait(reader.as_ref(), watches) {
                Ok(found) => found,
                Err(error) => return self.lose(error.into()),
            };
            let stepped = catch("faults", || {
                if found.woken {
                    self.line.wake.clear();
                    if let Some(channel) = self.line.take_channel() {
                        watches = true;
                        reader = self.join(channel);
                    }
                }
                if found.faults {
                    self.take_faults(&mut faults, reader.as_ref())?;
                }
                match reader.as_mut() {
                    Some(open) if found.answers => self.take_answers(open),
                    _ => Ok(()),
                }
            });
            if let Err(error) = stepped {
                watches = !matches!(error, MigrationError::Panicked { .. });
                self.give_up(&mut reader, error);
            }
        }
    }

    fn give_up(&self, reader: &mut Option<MessageReader>, error: MigrationError) {
        // Before the source hears of it, and closes what else there is: that would be taken for the
        // reason.
        self.lose(error);
        if let Some(open) = reader.take() {
            open.channel().shutdown();
        }
        // A send that waited on the old channel may have cleared the ring for a new one: look
        // again.
        self.line.wake.ring();
    }

    fn lose(&self, error: MigrationError) {
        self.line.lose(error);
        self.line.end_watch(|| {
            for block in self.guest.ram() {
                // Before it is armed nothing is registered, which makes this fail.
                let _ = self.place.uffd.unregister(block);
            }
        });
    }

    fn wait(&self, reader: Option<&MessageReader>, watches: bool) -> std::io::Result<Found> {
        let uffd = self.place.uffd.as_fd();
        let faults = if watches { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut fds = [
            PollFd::new(self.line.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(uffd, faults),
            match reader {
                Some(reader) => PollFd::new(reader.channel().as_fd(), PollFlags::POLLIN),
                None => PollFd::new(uffd, PollFlags::empty()),
            },
        ];
        // What TLS has read ahead is seen by no poll.
        let held = reader.is_some_and(|reader| reader.channel().holds_received());
        match poll(&mut fds, if held { PollTimeout::ZERO } else { PollTimeout::NONE }) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let any = |at: usize| fds[at].revents().is_some_and(|events| !events.is_empty());
        Ok(Found { woken: any(0), faults: watches && any(1), answers: reader.is_some() && (held || any(2)) })
    }

    /// A (new) demand channel: whatever was asked for and has not come is asked for again.
    fn join(&self, channel: Arc<Channel>) -> Option<MessageReader> {
        let reader = MessageReader::new(channel, READ_BUFFER);
        match self.request(self.place.tracker.ask_again(), &reader) {
            Ok(()) => Some(reader),
            Err(error) => {
                self.lose(error);
                None
            }
        }
    }

    fn take_faults(&self, faults: &mut Vec<Fault>, reader: Option<&MessageReader>) -> Result<(), MigrationError> {
        faults.clear();
        self.place.uffd.read(faults)?;
        let now = Instant::now();
        let mut wanted = Vec::new();
        for fault in faults.iter() {
            let Some((block, page)) = self.locate(fault.address) else {
                log::warn!("a page fault at {:#x} is outside guest RAM", fault.address);
                continue;
            };
            match self.place.tracker.touched(block, page) {
                Touch::Here => {
                    let placed = self.place.serve(self.guest.ram(), block, page)?;
                    self.tell(placed);
                    continue;
                }
                Touch::Ask => wanted.push(PageRun::single(block, page)),
                Touch::Asked => {}
            }
            self.note(block, page, fault.thread, now)?;
        }
        match reader {
            Some(reader) => self.request(wanted, reader),
            None => Ok(()),
        }
    }

    /// Begins to measure. A page that came between the fault and this note was measured by nobody,
    /// and whoever touched it may not have been woken.
    fn note(&self, block: BlockId, page: PageIndex, thread: i32, now: Instant) -> Result<(), MigrationError> {
        self.place.latency.waits(block, page, self.guest.vcpu_of_thread(thread), now);
        if self.place.tracker.has(block, page) {
            let placed = self.place.serve(self.guest.ram(), block, page)?;
            self.tell(placed);
        }
        Ok(())
    }

    fn locate(&self, address: usize) -> Option<(BlockId, PageIndex)> {
        self.guest
            .ram()
            .iter()
            .enumerate()
            .find_map(|(index, block)| Some((BlockId(index as u16), block.page_of(address)?)))
    }

    fn request(&self, wanted: Vec<PageRun>, reader: &MessageReader) -> Result<(), MigrationError> {
        if wanted.is_empty() {
            return Ok(());
        }
        self.progress.requested(wanted.len() as u64);
        for some in wanted.chunks(FAULTS_A_READ) {
            let mut bytes = Vec::with_capacity(Header::LEN + 16 * some.len());
            Request(some.to_vec()).encode(&mut bytes);
            reader.channel().send(&bytes, &self.line.wake, &|| self.line.stop.load(Ordering::Acquire)).map_err(lost)?;
        }
        Ok(())
    }

    fn take_answers(&self, reader: &mut MessageReader) -> Result<(), MigrationError> {
        while let Some(header) = reader.try_header().map_err(lost)? {
            let fields = reader.fields_in_place(header).map_err(lost)?;
            match decode_demand(header, fields).map_err(|error| lost(error.into()))? {
                Forward::Pages(run) => self.take_page(reader, run)?,
                Forward::Zeros(runs) => {
                    for run in runs {
                        let placed = self.place.zeros(self.guest.ram(), self.known(run)?)?;
                        self.progress.moved(Phase::Postcopy, ZERO_BYTES, 0, u64::from(run.count));
                        self.tell(placed);
                    }
                }
                other => return Err(MigrationError::OutOfOrder(crate::wire::tag::name(other.tag()))),
            }
        }
        Ok(())
    }

    fn take_page(&self, reader: &mut MessageReader, run: PageRun) -> Result<(), MigrationError> {
        for part in self.known(run)?.pieces(PIECE) {
            let contents = reader.contents(part.bytes()).map_err(lost)?;
            let placed = self.place.contents(self.guest.ram(), part, contents)?;
            self.progress.moved(Phase::Postcopy, part.bytes() as u64, u64::from(part.count), 0);
            self.tell(placed);
        }
        Ok(())
    }

    fn known(&self, run: PageRun) -> Result<PageRun, MigrationError> {
        if self.place.tracker.holds(run) { Ok(run) } else { Err(MigrationError::NoSuchPages(run.to_string())) }
    }

    /// What the incoming thread has to do about it.
    fn tell(&self, placed: Placed) {
        match placed {
            Placed::Some => {}
            Placed::Due | Placed::Last => self.line.control.ring(),
        }
    }
}

fn lost(source: ChannelError) -> MigrationError {
    MigrationError::Link { peer: "source", source }
}

const _: () = assert!(PIECE as usize * PAGE_SIZE <= READ_BUFFER);
