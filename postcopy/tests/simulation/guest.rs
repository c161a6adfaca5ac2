//! A modelled guest: RAM, a dirty log, vCPUs that touch pages, and a monitor that may refuse.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use whimbrel_postcopy::bitmap::PageBitmap;
use whimbrel_postcopy::guest::{
    Configuration, DestinationGuest, DirtyLog, GuestError, GuestRam, OutgoingGuest, PausableGuest, PausedGuest,
    Pausing, Section, SnapshotGuest, SourceGuest,
};
use whimbrel_postcopy::host::{block, now, point, random, thread};
use whimbrel_postcopy::memory::{AnonymousRam, RamBlock, SharedRam};
use whimbrel_postcopy::ram::{BlockId, PageIndex, PageRun};
use whimbrel_postcopy::throttle::Throttle;

use crate::memory::{Log, Page, Truth, contents, read};
use crate::plan::{Panic, Plan, Refusal};

/// What both guests of a schedule have in common: it is one guest.
pub struct Common {
    pub plan: Plan,
    pub truth: Mutex<Truth>,
    /// What was found wrong first.
    pub wrong: Mutex<Option<String>>,
    pub source_runs: AtomicBool,
    pub destination_runs: AtomicBool,
    /// It has run on the destination, or was to stand still there.
    pub has_run: AtomicBool,
    /// The source has it for good, or has handed it over.
    pub handed_over: AtomicBool,
    pub paused_at_source: AtomicBool,
    pub panic: Mutex<Option<Panic>>,
    pub stop: AtomicBool,
    /// What loading read wrong, which counts only if the load is taken for good.
    pub loaded_wrong: Mutex<Option<String>>,
}

impl Common {
    pub fn new(plan: Plan) -> Arc<Self> {
        Arc::new(Self {
            truth: Mutex::new(Truth::new(&plan.blocks)),
            wrong: Mutex::default(),
            source_runs: AtomicBool::new(plan.running),
            destination_runs: AtomicBool::new(false),
            has_run: AtomicBool::new(false),
            handed_over: AtomicBool::new(false),
            paused_at_source: AtomicBool::new(false),
            panic: Mutex::default(),
            stop: AtomicBool::new(false),
            loaded_wrong: Mutex::default(),
            plan,
        })
    }

    /// Something is wrong: the schedule fails at its next turn. Panics are not heard of, for the
    /// engine catches them.
    pub fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().get_or_insert(what);
    }

    pub fn require(&self, holds: bool, what: &str) {
        if !holds {
            self.wrong(what.to_owned());
        }
    }

    pub fn check(&self, ram: &[RamBlock], page: Page, whose: &str) {
        let bytes = read(ram, page);
        if let Some(fault) = self.truth.lock().unwrap().fault(page, &bytes) {
            self.wrong(format!("{fault} on the {whose}"));
        }
    }

    pub fn is_calm(&self) -> bool {
        now() >= self.plan.calm
    }
}

pub struct ModelGuest {
    pub common: Arc<Common>,
    is_source: bool,
    pub ram: Vec<RamBlock>,
    files: Vec<Arc<OwnedFd>>,
    adopted: AtomicBool,
    log: Log,
    pub logging: AtomicBool,
    /// vCPUs that are inside of an instruction.
    inside: AtomicU64,
    pub throttled: AtomicBool,
    pub left: AtomicBool,
    pub arrived: AtomicBool,
    pub not_started: AtomicBool,
}

impl ModelGuest {
    pub fn new(common: &Arc<Common>, is_source: bool) -> Arc<Self> {
        let plan = &common.plan;
        let (ram, files): (Vec<_>, Vec<_>) = plan
            .blocks
            .iter()
            .enumerate()
            .map(|(n, pages)| {
                let name = format!("ram{n}");
                match plan.shared {
                    true => SharedRam::block(&name, *pages).map(|(block, file)| (block, Some(Arc::new(file)))).unwrap(),
                    false => (AnonymousRam::block(&name, *pages).unwrap(), None),
                }
            })
            .unzip();
        Arc::new(Self {
            common: common.clone(),
            is_source,
            log: Log::new(&ram, plan.forgets),
            ram,
            files: files.into_iter().flatten().collect(),
            adopted: AtomicBool::new(false),
            logging: AtomicBool::new(false),
            inside: AtomicU64::new(0),
            throttled: AtomicBool::new(false),
            left: AtomicBool::new(false),
            arrived: AtomicBool::new(false),
            not_started: AtomicBool::new(false),
        })
    }

    fn runs(&self) -> &AtomicBool {
        if self.is_source { &self.common.source_runs } else { &self.common.destination_runs }
    }

    /// What the guest holds before the migration.
    pub fn fill(&self) {
        let pages = self.common.truth.lock().unwrap().all();
        let share = if pages.len() > 1000 { 10 } else { 70 };
        pages.into_iter().for_each(|page| {
            if random(100) < share {
                self.write(page);
            }
        });
    }

    /// The guest, or its monitor, writes a new number into the page.
    pub fn write(&self, page: Page) {
        let value = self.common.truth.lock().unwrap().next();
        self.ram[usize::from(page.0.0)].write(page.1, 0, &contents(value));
        // Nobody else has had a turn since the write.
        self.common.truth.lock().unwrap().wrote(page, value);
        if self.logging.load(SeqCst) {
            self.log.wrote(page);
        }
    }

    fn draw(&self) -> Page {
        self.common.truth.lock().unwrap().draw()
    }

    /// A vCPU, until the schedule ends.
    pub fn run_vcpu(&self) {
        let common = &self.common;
        for _ in 0..common.plan.touches {
            let may = || self.runs().load(SeqCst) && !(self.is_source && common.is_calm());
            block(None, &|| common.stop.load(SeqCst) || may());
            if common.stop.load(SeqCst) {
                return;
            }
            self.inside.fetch_add(1, SeqCst);
            let page = self.draw();
            if !self.is_source || random(4) == 0 {
                common.check(&self.ram, page, if self.is_source { "source's vCPU" } else { "destination's vCPU" });
            }
            if random(100) < common.plan.writes {
                self.write(page);
            }
            self.inside.fetch_sub(1, SeqCst);
            let pace = common.plan.pace.as_nanos() as u64;
            thread::sleep(std::time::Duration::from_nanos(1 + random(2 * pace)));
        }
    }

    /// A call of the engine's.
    fn called(&self, method: &str) {
        point();
        let mut panic = self.common.panic.lock().unwrap();
        let hit = panic.is_some_and(|it| {
            it.source == self.is_source && it.method == method && thread::name().starts_with(it.thread)
        });
        if hit && !std::thread::panicking() {
            *panic = None;
            drop(panic);
            // Without a word on the standard error, of which there would be too many.
            std::panic::resume_unwind(Box::new(format!("{method} fails")));
        }
    }

    fn refuses(&self, what: Refusal) -> Result<(), GuestError> {
        if self.common.plan.refusal == what { Err("it will not".into()) } else { Ok(()) }
    }
}

impl PausableGuest for ModelGuest {
    fn pause(&self, pausing: Pausing) -> Result<PausedGuest, GuestError> {
        self.refuses(Refusal::Pause)?;
        let running = self.runs().swap(false, SeqCst);
        // Those that are inside of an instruction end it.
        block(None, &|| self.inside.load(SeqCst) == 0);
        self.common.paused_at_source.store(true, SeqCst);
        self.called("pause");
        Ok(pausing.paused(running))
    }

    fn resume(&self, guest: PausedGuest) -> Result<(), GuestError> {
        let common = &self.common;
        common.require(!common.has_run.load(SeqCst), "the guest resumes on the source after it ran on the destination");
        common.require(!common.handed_over.load(SeqCst), "the guest resumes on the source that has handed it over");
        common.paused_at_source.store(false, SeqCst);
        let ran = if guest.is_uncertain() { common.plan.running } else { guest.running() };
        self.runs().store(ran, SeqCst);
        Ok(())
    }
}

impl GuestRam for ModelGuest {
    fn ram(&self) -> &[RamBlock] {
        self.called("ram");
        &self.ram
    }
}

impl DirtyLog for ModelGuest {
    fn start_dirty_log(&self) -> Result<(), GuestError> {
        self.called("start_dirty_log");
        self.logging.store(true, SeqCst);
        Ok(())
    }

    fn sync_dirty(&self, block: BlockId, dirty: &PageBitmap) -> Result<(), GuestError> {
        self.called("sync_dirty");
        self.common.require(self.logging.load(SeqCst), "the log is read while it is off");
        self.log.sync(block, dirty);
        Ok(())
    }

    fn clear_dirty(&self, run: PageRun, dirty: &PageBitmap) -> Result<(), GuestError> {
        self.called("clear_dirty");
        self.common.require(self.logging.load(SeqCst), "the log is armed while it is off");
        self.common.require(run.start.0.is_multiple_of(64), "the log is armed for a part of a word");
        self.log.clear(run, dirty);
        Ok(())
    }

    fn stop_dirty_log(&self) -> Result<(), GuestError> {
        self.called("stop_dirty_log");
        self.logging.store(false, SeqCst);
        Ok(())
    }
}

impl OutgoingGuest for ModelGuest {
    fn configuration(&self) -> Configuration {
        vec![("vcpus".into(), "2".into())]
    }
}

impl SourceGuest for ModelGuest {
    fn throttle(&self, throttle: Throttle) {
        self.throttled.store(throttle != Throttle::NONE, SeqCst);
    }

    fn save(&self) -> Result<Vec<Section>, GuestError> {
        self.called("save");
        self.refuses(Refusal::Save)?;
        // Saving may write RAM.
        (0..random(3)).for_each(|_| self.write(self.draw()));
        let mut truth = self.common.truth.lock().unwrap();
        truth.state += 1 + random(100);
        let bytes = truth.state.to_le_bytes().to_vec();
        Ok(vec![Section { name: "cpu".into(), instance: 0, version: 1, bytes }])
    }

    fn shared_ram(&self) -> Option<Vec<Arc<OwnedFd>>> {
        self.called("shared_ram");
        Some(self.files.clone()).filter(|files| !files.is_empty())
    }

    fn leave_ram(&self) {
        self.left.store(self.is_source, SeqCst);
        for (number, block) in (0..).map(BlockId).zip(&self.ram) {
            let all = PageRun { block: number, start: PageIndex(0), count: block.pages() as u32 };
            let left = if self.files.is_empty() { block.discard(all) } else { block.disown() };
            left.unwrap();
        }
    }

    fn first_pages(&self) -> Vec<PageRun> {
        self.called("first_pages");
        let count = random(6);
        (0..count).map(|_| self.draw()).map(|(block, page)| PageRun::single(block, page)).collect()
    }

    fn handed_over(&self) {
        self.common.require(self.common.has_run.load(SeqCst), "a guest is handed over that never ran there");
        self.common.handed_over.store(true, SeqCst);
    }
}

impl SnapshotGuest for ModelGuest {
    fn save_staying(&self) -> Result<Vec<Section>, GuestError> {
        self.save()
    }
}

impl DestinationGuest for ModelGuest {
    fn check_configuration(&self, _source: &Configuration) -> Result<(), GuestError> {
        self.called("check_configuration");
        self.refuses(Refusal::Check)
    }

    fn adopt_ram(&self, files: Vec<OwnedFd>) -> Result<(), GuestError> {
        self.called("adopt_ram");
        self.refuses(Refusal::Adopt)?;
        self.adopted.store(true, SeqCst);
        for (block, file) in self.ram.iter().zip(&files) {
            block.adopt(file.as_fd())?;
        }
        Ok(())
    }

    fn load(&self, sections: &[Section]) -> Result<(), GuestError> {
        self.called("load");
        let common = &self.common;
        self.refuses(Refusal::Load)?;
        let still = || common.paused_at_source.load(SeqCst);
        let want = common.truth.lock().unwrap().state.to_le_bytes();
        common.require(!still() || sections[0].bytes == want, "another state is loaded than was saved");
        for _ in 0..random(4) {
            let page = self.draw();
            let bytes = read(&self.ram, page);
            // A source that gave up has resumed its guest, which writes on: what is loaded here is
            // nobody's any more. Nor is it once nobody watches for missing pages.
            let fault = common.truth.lock().unwrap().fault(page, &bytes);
            if let Some(fault) = fault.filter(|_| still()) {
                common.loaded_wrong.lock().unwrap().get_or_insert(fault);
            }
        }
        Ok(())
    }

    fn run(&self, running: bool, sure: &dyn Fn()) -> Result<(), GuestError> {
        let common = &self.common;
        point();
        self.refuses(Refusal::Run)?;
        sure();
        common.require(common.paused_at_source.load(SeqCst), "the guest runs on both sides");
        if let Some(fault) = common.loaded_wrong.lock().unwrap().take() {
            common.wrong(format!("{fault} when the state was loaded"));
        }
        common.require(running == common.plan.running, "a guest that was paused runs, or the other way round");
        common.has_run.store(true, SeqCst);
        self.runs().store(running, SeqCst);
        self.called("run");
        Ok(())
    }

    fn not_started(&self) {
        self.not_started.store(true, SeqCst);
        self.common.require(!self.common.has_run.load(SeqCst), "a guest that ran is given up");
        if self.adopted.load(SeqCst) && !self.files.is_empty() {
            self.leave_ram();
        }
    }

    fn arrived(&self) {
        self.arrived.store(true, SeqCst);
    }

    fn vcpu_of_thread(&self, tid: i32) -> Option<usize> {
        self.called("vcpu_of_thread");
        Some(tid as usize % 3).filter(|vcpu| *vcpu < 2)
    }

    fn vcpus(&self) -> usize {
        2
    }
}
