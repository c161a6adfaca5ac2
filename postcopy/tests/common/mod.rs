//! A guest without KVM: RAM, a software dirty log, and an application that writes numbered values.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use whimbrel_postcopy::bitmap::{PageBitmap, RamBitmap};
use whimbrel_postcopy::guest::{
    Configuration, DestinationGuest, DirtyLog, GuestError, GuestRam, OutgoingGuest, PausableGuest, PausedGuest,
    Pausing, Section, SnapshotGuest, SourceGuest,
};
use whimbrel_postcopy::memory::{AnonymousRam, RamBlock, SharedRam};
use whimbrel_postcopy::progress::Observer;
use whimbrel_postcopy::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};
use whimbrel_postcopy::stats::Status;

/// RAM, its dirty log and whether the "vCPUs" may run.
pub struct TestGuest {
    pub ram: Vec<RamBlock>,
    /// What RAM is a mapping of, if it is shared.
    files: Vec<Arc<OwnedFd>>,
    /// Another's RAM may be in the place of its own.
    adopted: AtomicBool,
    log: RamBitmap,
    logging: AtomicBool,
    running: (Mutex<bool>, Condvar),
    /// Before it was paused.
    ran: AtomicBool,
    pub configuration: Mutex<Configuration>,
    pub state: Mutex<Vec<u8>>,
    pub refuse_load: AtomicBool,
    pub refuse_run: AtomicBool,
    /// Loading the state reads the first page of RAM.
    pub load_touches: AtomicBool,
    /// Blocks, pages and generations that the guest writes as the last thing before it stands
    /// still.
    pub last_writes: Mutex<Vec<(usize, u64, u64)>>,
    pub handed_over: AtomicBool,
    pub resumed: AtomicU64,
    /// The call that panics, if one is to.
    pub fault: Mutex<Option<Fault>>,
}

/// A call of the engine that panics, once.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// By a thread whose name begins so.
    pub thread: &'static str,
    /// Of this method of [`Guest`].
    pub method: &'static str,
    /// The so manieth one panics, from 1.
    pub call: u64,
}

impl TestGuest {
    pub fn new(blocks: &[u64], running: bool) -> Arc<Self> {
        let block = |(n, pages): (usize, &u64)| AnonymousRam::block(&format!("ram{n}"), *pages).unwrap();
        Self::of(blocks.iter().enumerate().map(block).collect(), Vec::new(), running)
    }

    /// The same, of shared memory.
    pub fn shared(blocks: &[u64], running: bool) -> Arc<Self> {
        let block = |(n, pages): (usize, &u64)| SharedRam::block(&format!("ram{n}"), *pages).unwrap();
        let (ram, files): (Vec<_>, Vec<_>) = blocks.iter().enumerate().map(block).unzip();
        Self::of(ram, files.into_iter().map(Arc::new).collect(), running)
    }

    fn of(ram: Vec<RamBlock>, files: Vec<Arc<OwnedFd>>, running: bool) -> Arc<Self> {
        Arc::new(Self {
            files,
            adopted: AtomicBool::new(false),
            log: RamBitmap::new(&ram),
            ram,
            logging: AtomicBool::new(false),
            running: (Mutex::new(running), Condvar::new()),
            ran: AtomicBool::new(false),
            configuration: Mutex::new(vec![("vcpus".into(), "1".into())]),
            state: Mutex::new(vec![1, 2, 3]),
            refuse_load: AtomicBool::new(false),
            refuse_run: AtomicBool::new(false),
            load_touches: AtomicBool::new(false),
            last_writes: Mutex::default(),
            handed_over: AtomicBool::new(false),
            resumed: AtomicU64::new(0),
            fault: Mutex::default(),
        })
    }

    /// What page `page` holds in generation `generation`: both ends and the middle tell.
    pub fn stamp(page: u64, generation: u64) -> [u8; PAGE_SIZE] {
        let mut bytes = [0; PAGE_SIZE];
        if generation > 0 {
            for at in [0, 1000, PAGE_SIZE - 16] {
                bytes[at..at + 8].copy_from_slice(&page.to_le_bytes());
                bytes[at + 8..at + 16].copy_from_slice(&generation.to_le_bytes());
            }
        }
        bytes
    }

    /// A vCPU's write: contents first, then the log, as hardware sets the dirty bit no later than
    /// the write is seen.
    pub fn write(&self, block: usize, page: u64, generation: u64) {
        self.log.block(BlockId(block as u16)).unwrap().set(PageIndex(page));
        self.ram[block].write(PageIndex(page), 0, &Self::stamp(page, generation));
        self.log.block(BlockId(block as u16)).unwrap().set(PageIndex(page));
    }

    /// A vCPU's read: faults if the page is missing.
    pub fn read(&self, block: usize, page: u64) -> Box<[u8; PAGE_SIZE]> {
        let mut bytes = Box::new([0; PAGE_SIZE]);
        self.ram[block].read(PageIndex(page), &mut bytes);
        bytes
    }

    pub fn is_running(&self) -> bool {
        *self.running.0.lock().unwrap()
    }

    /// What a user's `stop` does.
    pub fn stop(&self) {
        self.set_running(false);
    }

    /// Runs `work` as a vCPU instruction would: never while the guest is paused.
    pub fn step(&self, work: impl FnOnce()) -> bool {
        let running = self.running.0.lock().unwrap();
        if *running {
            work();
        }
        *running
    }

    pub fn await_running(&self) {
        let running = self.running.0.lock().unwrap();
        drop(self.running.1.wait_while(running, |running| !*running).unwrap());
    }

    /// Panics if it is this call's turn.
    fn called(&self, method: &str) {
        let mut fault = self.fault.lock().unwrap();
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let Some(next) = fault.as_mut().filter(|fault| fault.method == method && name.starts_with(fault.thread)) else {
            return;
        };
        next.call -= 1;
        if next.call == 0 {
            *fault = None;
            // Whoever holds the lock meanwhile would poison it.
            drop(fault);
            panic!("{method} fails on {name}");
        }
    }

    fn set_running(&self, to: bool) -> bool {
        let before = std::mem::replace(&mut *self.running.0.lock().unwrap(), to);
        self.running.1.notify_all();
        before
    }
}

impl PausableGuest for TestGuest {
    fn pause(&self, pausing: Pausing) -> Result<PausedGuest, GuestError> {
        for (block, page, generation) in self.last_writes.lock().unwrap().drain(..) {
            self.write(block, page, generation);
        }
        self.ran.store(self.is_running(), Ordering::SeqCst);
        let before = self.set_running(false);
        self.called("pause");
        Ok(pausing.paused(before))
    }
    fn resume(&self, guest: PausedGuest) -> Result<(), GuestError> {
        self.resumed.fetch_add(1, Ordering::SeqCst);
        let ran = if guest.is_uncertain() { self.ran.load(Ordering::SeqCst) } else { guest.running() };
        self.set_running(ran);
        Ok(())
    }
}

impl GuestRam for TestGuest {
    fn ram(&self) -> &[RamBlock] {
        self.called("ram");
        &self.ram
    }
}

impl DirtyLog for TestGuest {
    fn start_dirty_log(&self) -> Result<(), GuestError> {
        self.called("start_dirty_log");
        self.logging.store(true, Ordering::SeqCst);
        Ok(())
    }
    fn sync_dirty(&self, block: BlockId, dirty: &PageBitmap) -> Result<(), GuestError> {
        self.called("sync_dirty");
        assert!(self.logging.load(Ordering::SeqCst), "the log is read while it is off");
        let log = self.log.block(block).unwrap();
        for word in 0..log.len_words() {
            dirty.or_word(word, log.word(word));
        }
        Ok(())
    }
    fn clear_dirty(&self, run: PageRun, dirty: &PageBitmap) -> Result<(), GuestError> {
        self.called("clear_dirty");
        assert_eq!(run.start.0 % 64, 0);
        let log = self.log.block(run.block).unwrap();
        for word in (run.start.0 / 64) as usize..run.end().0.div_ceil(64) as usize {
            log.clear_word(word, dirty.word(word));
        }
        Ok(())
    }
    fn stop_dirty_log(&self) -> Result<(), GuestError> {
        self.logging.store(false, Ordering::SeqCst);
        self.called("stop_dirty_log");
        Ok(())
    }
}

impl OutgoingGuest for TestGuest {
    fn configuration(&self) -> Configuration {
        self.configuration.lock().unwrap().clone()
    }
}

impl SourceGuest for TestGuest {
    fn save(&self) -> Result<Vec<Section>, GuestError> {
        self.called("save");
        let bytes = self.state.lock().unwrap().clone();
        Ok(vec![Section { name: "test".into(), instance: 0, version: 1, bytes }])
    }
    fn shared_ram(&self) -> Option<Vec<Arc<OwnedFd>>> {
        Some(self.files.clone()).filter(|files| !files.is_empty())
    }
    fn leave_ram(&self) {
        for (number, block) in (0..).map(BlockId).zip(&self.ram) {
            let all = PageRun { block: number, start: PageIndex(0), count: block.pages() as u32 };
            let left = if self.files.is_empty() { block.discard(all) } else { block.disown() };
            left.unwrap();
        }
    }
    fn handed_over(&self) {
        self.handed_over.store(true, Ordering::SeqCst);
        self.called("handed_over");
    }
}

impl SnapshotGuest for TestGuest {
    fn save_staying(&self) -> Result<Vec<Section>, GuestError> {
        self.save()
    }
}

impl DestinationGuest for TestGuest {
    fn check_configuration(&self, source: &Configuration) -> Result<(), GuestError> {
        self.called("check_configuration");
        let ours = self.configuration();
        if *source == ours { Ok(()) } else { Err(format!("the source has {source:?}, this side {ours:?}").into()) }
    }
    fn load(&self, sections: &[Section]) -> Result<(), GuestError> {
        self.called("load");
        if self.refuse_load.load(Ordering::SeqCst) {
            return Err("the state is refused".into());
        }
        if self.load_touches.load(Ordering::SeqCst) {
            self.read(0, 0);
        }
        *self.state.lock().unwrap() = sections[0].bytes.clone();
        Ok(())
    }
    fn run(&self, running: bool, sure: &dyn Fn()) -> Result<(), GuestError> {
        if self.refuse_run.load(Ordering::SeqCst) {
            return Err("the vCPUs are refused".into());
        }
        sure();
        self.set_running(running);
        self.called("run");
        Ok(())
    }
    fn adopt_ram(&self, files: Vec<OwnedFd>) -> Result<(), GuestError> {
        self.called("adopt_ram");
        self.adopted.store(true, Ordering::SeqCst);
        for (block, file) in self.ram.iter().zip(&files) {
            block.adopt(file.as_fd())?;
        }
        Ok(())
    }
    fn not_started(&self) {
        if self.adopted.load(Ordering::SeqCst) && !self.files.is_empty() {
            self.leave_ram();
        }
    }
    fn vcpu_of_thread(&self, _tid: i32) -> Option<usize> {
        self.called("vcpu_of_thread");
        Some(0)
    }
    fn vcpus(&self) -> usize {
        1
    }
}

/// Waits for statuses.
#[derive(Default)]
pub struct Watch {
    seen: Mutex<Vec<Status>>,
    changed: Condvar,
}

impl Watch {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Waits until one of the statuses was entered; a minute without it is a failed test.
    pub fn until(&self, any: &[Status]) -> Status {
        let seen = self.seen.lock().unwrap();
        let limit = std::time::Duration::from_secs(60);
        let hit = |seen: &Vec<Status>| seen.iter().copied().find(|status| any.contains(status));
        let (seen, _) = self.changed.wait_timeout_while(seen, limit, |seen| hit(seen).is_none()).unwrap();
        hit(&seen).unwrap_or_else(|| panic!("none of {any:?} within a minute, only {seen:?}"))
    }

    /// Waits until the status was entered for the `n`th time.
    pub fn until_nth(&self, status: Status, n: usize) {
        let seen = self.seen.lock().unwrap();
        let limit = std::time::Duration::from_secs(60);
        let count = |seen: &Vec<Status>| seen.iter().filter(|&&one| one == status).count();
        let (seen, late) = self.changed.wait_timeout_while(seen, limit, |seen| count(seen) < n).unwrap();
        assert!(!late.timed_out(), "{status:?} not entered {n} times within a minute: {seen:?}");
    }

    /// Waits until the newest status is one of these.
    pub fn until_last(&self, any: &[Status]) -> Status {
        let seen = self.seen.lock().unwrap();
        let limit = std::time::Duration::from_secs(60);
        let hit = |seen: &Vec<Status>| seen.last().copied().filter(|status| any.contains(status));
        let (seen, _) = self.changed.wait_timeout_while(seen, limit, |seen| hit(seen).is_none()).unwrap();
        hit(&seen).unwrap_or_else(|| panic!("none of {any:?} within a minute, only {seen:?}"))
    }

    pub fn seen(&self) -> Vec<Status> {
        self.seen.lock().unwrap().clone()
    }
}

impl Observer for Watch {
    fn status(&self, status: Status) {
        self.seen.lock().unwrap().push(status);
        self.changed.notify_all();
    }
    fn pass(&self, _pass: u64) {}
}

/// A small pseudo-random sequence: tests print its seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
