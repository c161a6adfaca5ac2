//! The multifd channels of the source: many pages go on several connections, each with a thread
//! that looks for zero pages and sends.
//!
//! The migration's thread gives jobs out, the senders take them, whoever is free first. It waits
//! for room before it gives the next one, and for the last one before anything that must not
//! overtake the pages (`Action::MultifdFlush`); the senders ring for it if it waits.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::control::Shared;
use super::outgoing::{Outgoing, Sent};
use super::pacing::Pacer;
use crate::channel::{Channel, ChannelError, Wake};
use crate::encoding::Encoding;
use crate::error::MigrationError;
use crate::guest::{EngineThread, GuestRam, SourceGuest};
use crate::host::thread::{self, JoinHandle};
use crate::host::{Mutex, MutexGuard, next, scaled};
use crate::ram::PageRun;
use crate::wire::Forward;

/// Fewer pages than this go on the control channel: on several the waiting for each other at the
/// end takes as long.
pub(super) const MANY_PAGES: u64 = 1024;
/// A job is given out once it has so many pages or runs: giving one out wakes a thread, as a rule.
const JOB_PAGES: u64 = 512;
const JOB_RUNS: usize = 256;

/// Runs that one sender sends.
#[derive(Debug, Default)]
struct Job {
    /// With whether it is zero, where somebody has looked already.
    runs: Vec<(PageRun, Option<bool>)>,
    pages: u64,
}

/// What the senders tell the migration's thread.
#[derive(Default)]
struct SendersShared {
    /// Jobs given out and not done.
    open: AtomicUsize,
    /// The migration's thread waits for a job to be taken or done.
    awaited: AtomicBool,
    told: Mutex<SendersReport>,
}

#[derive(Default)]
struct SendersReport {
    sent: Sent,
    lost: Option<MigrationError>,
}

impl SendersShared {
    fn told(&self) -> MutexGuard<'_, SendersReport> {
        // Plain values: as good as before, whoever panicked.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, wake: &Wake) {
        if self.awaited.swap(false, Ordering::SeqCst) {
            wake.ring();
        }
    }
}

/// The source's end of all multifd channels.
pub(super) struct Senders {
    channels: Vec<Arc<Channel>>,
    jobs: Option<Sender<Job>>,
    next: Job,
    desk: Arc<SendersShared>,
    threads: Vec<JoinHandle<()>>,
    /// Whether runs go here.
    spread: bool,
}

impl Senders {
    /// With a thread for each channel.
    pub fn begin(
        channels: Vec<Arc<Channel>>,
        guest: &Arc<dyn SourceGuest>,
        shared: &Arc<Shared>,
        pacer: &Arc<Pacer>,
        encoding: Encoding,
    ) -> Result<Self, MigrationError> {
        let (jobs, taken) = bounded(channels.len());
        let desk = Arc::new(SendersShared::default());
        let mut senders =
            Self { channels, jobs: Some(jobs), next: Job::default(), desk, threads: Vec::new(), spread: false };
        for (number, channel) in senders.channels.iter().enumerate() {
            let sender = JobSender {
                guest: guest.clone(),
                shared: shared.clone(),
                pacer: pacer.clone(),
                channel: channel.clone(),
                desk: senders.desk.clone(),
                jobs: taken.clone(),
                wake: Wake::new()?,
            };
            let outgoing = Outgoing::new(encoding, guest.ram())?;
            let thread = thread::Builder::new()
                .name(format!("mig-fd-{number}"))
                .spawn(crate::logging::carried(move || sender.run(outgoing)))?;
            senders.threads.push(thread);
        }
        Ok(senders)
    }

    /// Runs go here from now on.
    pub fn start_multifd(&mut self) {
        self.spread = true;
    }

    /// Whether runs go here.
    pub fn is_started(&self) -> bool {
        self.spread
    }

    /// Adds a run to the next job; whether that is to be given out. `zero`: whether it is zero, if
    /// that is known. `alone`: at once.
    pub fn push(&mut self, run: PageRun, zero: Option<bool>, alone: bool) -> bool {
        self.next.runs.push((run, zero));
        self.next.pages += u64::from(run.count);
        alone || self.next.pages >= scaled(JOB_PAGES) || self.next.runs.len() >= JOB_RUNS
    }

    /// Gives the next job out, if there is room; whether nothing is left to give. If not, the
    /// caller is rung for.
    pub fn give(&mut self) -> Result<bool, MigrationError> {
        if self.next.runs.is_empty() {
            return Ok(true);
        }
        let Some(jobs) = &self.jobs else { return Err(MigrationError::ThreadDied("multifd")) };
        self.desk.open.fetch_add(1, Ordering::SeqCst);
        let mut job = std::mem::take(&mut self.next);
        // Once more after saying that somebody waits: else the room may have come just before.
        for _ in 0..2 {
            job = match jobs.try_send(job) {
                Ok(()) => return Ok(true),
                Err(TrySendError::Full(job)) => job,
                Err(TrySendError::Disconnected(_)) => return Err(MigrationError::ThreadDied("multifd")),
            };
            self.desk.awaited.store(true, Ordering::SeqCst);
        }
        self.next = job;
        self.desk.open.fetch_sub(1, Ordering::SeqCst);
        Ok(false)
    }

    /// Whether every job that was given out is done. If not, the caller is rung for.
    pub fn is_idle(&self) -> bool {
        self.desk.awaited.store(true, Ordering::SeqCst);
        self.desk.open.load(Ordering::SeqCst) == 0
    }

    /// What the senders have sent since the last time.
    pub fn sent(&self) -> Result<Sent, MigrationError> {
        let mut told = self.desk.told();
        match told.lost.take() {
            Some(error) => Err(error),
            None => Ok(std::mem::take(&mut told.sent)),
        }
    }

    /// Ends the stretch on every channel. Only while idle.
    pub fn flush_multifd(&mut self, wake: &Wake, interrupted: &dyn Fn() -> bool) -> Result<(), ChannelError> {
        let mut bytes = Vec::new();
        Forward::MultifdFlush.encode(&mut bytes);
        self.spread = false;
        self.channels.iter().try_for_each(|channel| channel.send(&bytes, wake, interrupted))
    }

    /// Forgets what was not given out.
    pub fn clear(&mut self) {
        self.next = Job::default();
    }

    /// Ends the channels and waits for the threads.
    pub fn close(&mut self) {
        self.jobs = None;
        self.channels.iter().for_each(|channel| channel.shutdown());
        for thread in self.threads.drain(..) {
            // A panic was printed, and told at the desk.
            let _ = thread.join();
        }
    }
}

impl Drop for Senders {
    fn drop(&mut self) {
        self.close();
    }
}

/// One channel's thread.
struct JobSender {
    guest: Arc<dyn GuestRam>,
    shared: Arc<Shared>,
    pacer: Arc<Pacer>,
    channel: Arc<Channel>,
    desk: Arc<SendersShared>,
    jobs: Receiver<Job>,
    /// Nobody rings it: whoever wants the thread to end shuts the channel down.
    wake: Wake,
}

/// A job is done, also if its sender panics.
struct Done<'a>(&'a JobSender);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        let sender = self.0;
        if thread::panicking() {
            sender.lose(MigrationError::ThreadDied("multifd"));
        }
        sender.desk.open.fetch_sub(1, Ordering::SeqCst);
        sender.desk.changed(&sender.shared.wake);
    }
}

impl JobSender {
    fn run(self, mut outgoing: Outgoing) {
        self.guest.thread_begins(EngineThread::MultifdSender);
        while let Some(job) = next(&self.jobs) {
            let done = Done(&self);
            self.desk.changed(&self.shared.wake);
            match self.send(&mut outgoing, &job) {
                Ok(sent) => self.desk.told().sent += sent,
                Err(source) => self.lose(MigrationError::Link { peer: "destination", source }),
            }
            drop(done);
        }
    }

    fn send(&self, outgoing: &mut Outgoing, job: &Job) -> Result<Sent, ChannelError> {
        let ram = self.guest.ram();
        let interrupted = || {
            self.pacer.look(&self.shared);
            self.shared.interrupted()
        };
        let mut sent = Sent::default();
        for (run, zero) in &job.runs {
            match zero {
                None => outgoing.push_run(ram, *run),
                Some(zero) => outgoing.push_known(ram, *run, *zero),
            }
            if outgoing.is_due() {
                sent += outgoing.send(ram, &self.channel, &self.wake, &interrupted)?;
            }
        }
        sent += outgoing.send(ram, &self.channel, &self.wake, &interrupted)?;
        Ok(sent)
    }

    fn lose(&self, error: MigrationError) {
        self.desk.told().lost.get_or_insert(error);
        self.shared.wake.ring();
    }
}
