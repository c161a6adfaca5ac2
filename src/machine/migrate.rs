//! The only seam to migration: [`Guest`] for [`Machine`].

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vm_memory::GuestMemoryBackend;
use whimbrel_postcopy::bitmap::PageBitmap;
use whimbrel_postcopy::guest::{
    Configuration, DestinationGuest, DirtyLog, EngineThread, Guest, GuestError, GuestRam, OutgoingGuest, PausableGuest,
    PausedGuest, Pausing, Section, SectionLayout, SnapshotGuest, SourceGuest,
};
use whimbrel_postcopy::logging as log;
use whimbrel_postcopy::memory::RamBlock;
use whimbrel_postcopy::ram::{BlockId, PageRun};
use whimbrel_postcopy::throttle::Throttle;

use super::operation::{Left, Operation};
use super::{Machine, MachineError, MachineEvent, RunState};
use crate::kvm::{self, RamMode};
use crate::sandbox::{self, Thread};
use crate::sentence::sentence;
use crate::state::layout::{StateLayout, fields_json};
use crate::vcpu::DutyCycle;

/// Pages in a word of a bitmap.
const WORD: u64 = 64;

impl PausableGuest for Machine {
    fn prepare_pause(&self) {
        self.peripherals.hasten();
    }

    fn pause(&self, pausing: Pausing) -> Result<PausedGuest, GuestError> {
        let ran = self.operate(|operation| {
            if self.run_state() != RunState::FinishMigrate {
                // Noted before anything stops: `resume` goes by it, even where this panics.
                operation.before_migration = Some(self.run_state());
                self.stop_for_migration(operation).inspect_err(|_| operation.before_migration = None)?;
            }
            Ok::<_, MachineError>(operation.before_migration == Some(RunState::Running))
        })?;
        Ok(pausing.paused(ran))
    }

    fn resume(&self, guest: PausedGuest) -> Result<(), GuestError> {
        self.take_back();
        self.operate(|operation| {
            let before = operation.before_migration.take();
            if self.run_state() != RunState::FinishMigrate {
                // A pause that panicked may have come no further than to stop the vCPUs.
                if guest.is_uncertain() && self.run_state() == RunState::Running && !self.gate.has_request() {
                    self.thaw();
                }
                return Ok(());
            }
            let next = match before {
                // Somebody said `stop` meanwhile, or the caller wants it so.
                Some(RunState::Running) if !guest.running() && !guest.is_uncertain() => RunState::Paused,
                Some(state) => state,
                None if guest.running() => RunState::Running,
                None => RunState::Paused,
            };
            if let Err(error) = self.acquire(operation) {
                // Its disks are another's by now: it stands still, and `cont` tries again.
                self.become_state(if next == RunState::Running { RunState::Paused } else { next })?;
                return Err(error);
            }
            self.become_state(next)?;
            if next == RunState::Running {
                operation.tell(MachineEvent::Resume);
                self.thaw();
            }
            Ok::<_, MachineError>(())
        })?;
        Ok(())
    }
}

impl GuestRam for Machine {
    fn thread_begins(&self, kind: EngineThread) {
        sandbox::enter(match kind {
            EngineThread::Source => Thread::Source,
            EngineThread::DemandServer => Thread::DemandServer,
            EngineThread::MultifdSender => Thread::MultifdSender,
            EngineThread::Destination => Thread::Destination,
            EngineThread::Faults => Thread::Faults,
            EngineThread::Populate => Thread::Populate,
            EngineThread::MultifdReceiver => Thread::MultifdReceiver,
            EngineThread::Snapshot => Thread::Snapshot,
            EngineThread::SnapshotWrites => Thread::SnapshotWrites,
        });
    }

    fn ram(&self) -> &[RamBlock] {
        self.ram.blocks()
    }
}

impl DirtyLog for Machine {
    fn start_dirty_log(&self) -> Result<(), GuestError> {
        own_writes(&self.ram, |_, bitmap| bitmap.reset());
        Ok(self.vm.map(&self.ram, true)?)
    }

    fn sync_dirty(&self, block: BlockId, dirty: &PageBitmap) -> Result<(), GuestError> {
        let slot = usize::from(block.0);
        own_writes(&self.ram, |at, bitmap| {
            if at == slot {
                for (word, bits) in bitmap.get_and_reset().into_iter().enumerate() {
                    if bits != 0 {
                        dirty.or_word(word, bits);
                    }
                }
            }
        });
        Ok(self.dirty_log.read(&self.vm, slot, |word, bits| {
            dirty.or_word(word, bits);
        })?)
    }

    fn clear_dirty(&self, run: PageRun, dirty: &PageBitmap) -> Result<(), GuestError> {
        let first = run.start.0 / WORD;
        let words = first..run.end().0.div_ceil(WORD);
        let mut bits: Vec<u64> = words.map(|word| dirty.word(word as usize)).collect();
        let slot = usize::from(run.block.0);
        Ok(self.dirty_log.clear(&self.vm, slot, first, &mut bits)?)
    }

    fn stop_dirty_log(&self) -> Result<(), GuestError> {
        Ok(self.vm.map(&self.ram, false)?)
    }
}

impl OutgoingGuest for Machine {
    fn configuration(&self) -> Configuration {
        self.describe()
    }

    fn describe_state(&self) -> Vec<SectionLayout> {
        let opaque = |layout: StateLayout| SectionLayout {
            name: layout.name.into(),
            version: layout.version,
            fields: fields_json(&layout.fields),
        };
        self.section_layouts().into_iter().map(opaque).collect()
    }
}

impl SourceGuest for Machine {
    fn throttle(&self, throttle: Throttle) {
        let run = throttle.run();
        self.gate.throttle((!throttle.is_none()).then(|| DutyCycle { run, rest: throttle.rest(run) }));
    }

    fn shared_ram(&self) -> Option<Vec<Arc<OwnedFd>>> {
        self.ram.share()
    }

    fn leave_ram(&self) {
        self.operate(|_| {
            // Somebody may have started the machine afresh already: that let go of the guest's RAM
            // first.
            if self.run_state() == RunState::Postmigrate {
                self.leave();
                if let Err(error) = self.ram.discard(0, u64::MAX) {
                    log::warn!("the memory of a guest that has gone stays in use: {error}");
                }
            }
        });
    }

    fn save(&self) -> Result<Vec<Section>, GuestError> {
        self.operate(|operation| match self.run_state() {
            // The destination takes the disks as soon as it has loaded the state.
            RunState::FinishMigrate => self.release(operation).and_then(|()| Ok(self.save_sections()?)),
            state => Err(wrong_moment("saved", state)),
        })
        .map_err(Into::into)
    }

    fn first_pages(&self) -> Vec<PageRun> {
        Machine::first_pages(self)
    }

    fn handed_over(&self) {
        let result = self.operate(|operation| {
            operation.before_migration = None;
            self.network.left();
            self.become_state(RunState::Postmigrate)?;
            operation.guest = Left::ForAnotherHost;
            Ok::<_, MachineError>(())
        });
        if let Err(error) = result {
            log::error!("a guest was handed over that was not stopped for it: {error}");
        }
    }

    fn written_down(&self) {
        let result = self.operate(|operation| {
            operation.before_migration = None;
            self.become_state(RunState::Postmigrate)?;
            operation.guest = Left::WrittenDown;
            Ok::<_, MachineError>(())
        });
        if let Err(error) = result {
            log::error!("a guest was written down that was not stopped for it: {error}");
        }
    }
}

impl SnapshotGuest for Machine {
    fn save_staying(&self) -> Result<Vec<Section>, GuestError> {
        self.operate(|_| match self.run_state() {
            RunState::FinishMigrate => Ok(self.save_sections()?),
            state => Err(wrong_moment("saved", state)),
        })
        .map_err(Into::into)
    }

    fn keep_memory(&self, yes: bool) {
        self.ram.set_mode(if yes { RamMode::Snapshotting } else { RamMode::Normal });
    }
}

impl DestinationGuest for Machine {
    fn check_configuration(&self, source: &Configuration) -> Result<(), GuestError> {
        Ok(self.compare(source)?)
    }

    fn adopt_ram(&self, files: Vec<OwnedFd>) -> Result<(), GuestError> {
        self.operate(|_| match self.run_state() {
            RunState::Inmigrate => Ok(self.ram.adopt(files)?),
            state => Err(wrong_moment("taken over", state).into()),
        })
    }

    fn load(&self, sections: &[Section]) -> Result<(), GuestError> {
        self.operate(|operation| match self.run_state() {
            RunState::Inmigrate => {
                self.load_sections(sections)?;
                match self.takes_late.load(Ordering::Relaxed) {
                    true => Ok(()),
                    false => self.acquire(operation),
                }
            }
            state => Err(wrong_moment("loaded", state)),
        })
        .map_err(Into::into)
    }

    fn run(&self, running: bool, sure: &dyn Fn()) -> Result<(), GuestError> {
        self.operate(|operation| {
            if self.run_state() != RunState::Inmigrate {
                return Err(wrong_moment("started", self.run_state()));
            }
            if !operation.runs_again.take().unwrap_or(running && !self.arrives_paused) {
                self.network.arrived();
                self.become_state(RunState::Paused)?;
                sure();
                return Ok(());
            }
            // Here with its state already, unless that was to be late. Where it is not to be had
            // the guest goes on at the source.
            self.acquire(operation)?;
            self.network.arrived();
            self.become_state(RunState::Running)?;
            sure();
            self.thaw();
            self.network.runs();
            operation.tell(MachineEvent::Resume);
            Ok(())
        })
        .map_err(Into::into)
    }

    fn not_started(&self) {
        let result = self.operate(|operation| match self.run_state() {
            RunState::Inmigrate => {
                // The guest runs on in it elsewhere.
                self.leave();
                self.release(operation)
            }
            _ => Ok(()),
        });
        if let Err(error) = result {
            log::error!("what the source needs back cannot be given up: {}", sentence(&error));
        }
    }

    fn arrived(&self) {
        self.ram.set_mode(RamMode::Normal);
    }

    fn vcpu_of_thread(&self, tid: i32) -> Option<usize> {
        self.vcpus.iter().position(|vcpu| vcpu.kick().thread() == tid)
    }

    fn vcpus(&self) -> usize {
        self.vcpus.len()
    }
}

/// For how long a source that resumes tries to get back what it gave up: the destination may need a
/// moment to let go of it.
const TAKE_BACK_LIMIT: Duration = Duration::from_secs(3);
/// How often. Nobody tells of a lock that another host releases.
const TAKE_BACK_PAUSE: Duration = Duration::from_millis(20);

impl Machine {
    /// RAM that may be another process's is not this machine's any more.
    fn leave(&self) {
        if let Err(error) = self.ram.leave() {
            log::error!("memory that is another process's stays mapped here: {error}");
        }
    }

    /// To `finish-migrate`, all vCPUs and devices stopped.
    fn stop_for_migration(&self, operation: &mut Operation) -> Result<(), MachineError> {
        if self.run_state() != RunState::Running {
            return self.become_state(RunState::FinishMigrate);
        }
        self.freeze(operation)?;
        // Fails if the guest ended at that moment: there is nothing to migrate any more.
        self.become_state(RunState::FinishMigrate)?;
        operation.tell(MachineEvent::Stop);
        Ok(())
    }

    /// Takes back what was given up for a migration that failed; tries for a while, without keeping
    /// others from the machine.
    fn take_back(&self) {
        let deadline = Instant::now() + TAKE_BACK_LIMIT;
        while let Err(error) = self.operate(|operation| self.acquire(operation)) {
            if Instant::now() >= deadline {
                return;
            }
            log::debug!("not yet: {}", sentence(&error));
            std::thread::sleep(TAKE_BACK_PAUSE);
        }
    }
}

/// Shows the bitmap of this process's own writes to each block, with the block's number.
fn own_writes(ram: &kvm::GuestRam, mut each: impl FnMut(usize, &vm_memory::bitmap::AtomicBitmap)) {
    for (at, region) in ram.memory().iter().enumerate() {
        // The region's own method, not the trait's, which gives only a slice that cannot be reset.
        each(at, vm_memory::MmapRegion::bitmap(region));
    }
}

fn wrong_moment(what: &str, state: RunState) -> MachineError {
    MachineError::Refused(format!("the guest cannot be {what} while the machine is {}", state.name()))
}

/// The engine holds a guest as a shared trait object.
const _: fn(Arc<Machine>) -> Arc<dyn Guest> = |machine| machine;
