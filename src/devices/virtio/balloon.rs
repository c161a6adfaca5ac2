//! The balloon (virtio 1.2, section 5.5): the guest gives memory back to the host, because it was
//! asked to (inflating) or because it has no use for it at the moment (free page reporting).
//!
//! What is given back reads as zero from then on, and a migration sends it as such. No dirty page
//! is noted for it: a page that was sent before it was given back keeps its old content on the
//! destination. Both are right, for the guest must take such a page as uninitialised (sections
//! 5.5.6.1 and 5.5.6.7); a guest that relies on a page's content after freeing it (`init_on_free`,
//! page poisoning) does not report, since the feature that would tell it of the content is not
//! offered.
//!
//! The queues are numbered without gaps, as QEMU and Linux's drivers do: statistics and hints are
//! not offered, so reporting is queue 2. With more optional queues that number would depend on what
//! the driver takes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Backend, Broken, Chain, ConfigSpace, Kind, Work};
use crate::kvm::{GuestMemory, GuestRam};
use crate::state::layout::Field;
use crate::state::{StateError, StateReader};

/// The guest may take pages out of the balloon by itself before it runs out of memory.
const DEFLATE_ON_OOM: u64 = 1 << 2;
/// Free page reporting.
const REPORTING: u64 = 1 << 5;

const INFLATE: usize = 0;
const REPORT: usize = 2;

/// The configuration space: u32 pages that the host wants, u32 pages that the balloon has. The
/// driver writes the second.
const TARGET: Range<usize> = 0..4;
const ACTUAL: Range<usize> = 4..8;

/// Bytes of a page number.
const FRAME: usize = 4;
/// The most page numbers that are looked at in one request; Linux sends 256, Windows 1024. It
/// bounds what one request costs; more than these stay in the host's memory.
const FRAMES: usize = 4096;
const PAGE: u64 = crate::kvm::PAGE_SIZE as u64;

/// The monitor's side of a balloon.
pub struct BalloonLevel {
    config: Arc<ConfigSpace>,
    /// Guest RAM in bytes.
    ram: u64,
    /// A change that was announced and not looked at yet.
    announced: AtomicBool,
    announce: Box<dyn Fn() + Send + Sync>,
}

impl BalloonLevel {
    /// Asks the guest to make do with `bytes` of memory; more than it has stands for all.
    pub fn set_target(&self, bytes: u64) {
        let pages = self.ram.saturating_sub(bytes) / PAGE;
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        self.config.update(|space| space[TARGET].copy_from_slice(&pages.to_le_bytes()));
    }

    /// How many bytes of memory the guest has left, as it says itself.
    pub fn actual(&self) -> u64 {
        self.ram.saturating_sub(u64::from(self.pages(ACTUAL)) * PAGE)
    }

    /// Takes note of a change: what the guest has left now. Until then no further change is
    /// announced.
    pub fn see_change(&self) -> u64 {
        self.announced.store(false, Ordering::SeqCst);
        self.actual()
    }

    fn pages(&self, field: Range<usize>) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.config.bytes()[field]);
        u32::from_le_bytes(bytes)
    }

    /// However often the driver writes, there is one announcement that was not looked at.
    fn changed(&self) {
        if !self.announced.swap(true, Ordering::SeqCst) {
            (self.announce)();
        }
    }
}

/// See the module's text.
pub struct Balloon {
    ram: Arc<GuestRam>,
    config: Arc<ConfigSpace>,
    level: Arc<BalloonLevel>,
    /// What the driver said last: pages in the balloon.
    actual: u32,
    features: u64,
    /// The host refused to take something back, and that was said.
    refused: bool,
}

impl Balloon {
    /// An empty balloon in a guest with `ram`. `announce` is called, on a vCPU's thread, when the
    /// guest's share changed: [`BalloonLevel::see_change`] says to what.
    pub fn new(ram: Arc<GuestRam>, announce: Box<dyn Fn() + Send + Sync>) -> Self {
        let config = Arc::new(ConfigSpace::with_writable(vec![0; ACTUAL.end], ACTUAL));
        let level =
            BalloonLevel { config: config.clone(), ram: ram.bytes(), announced: AtomicBool::new(false), announce };
        Self { ram, config, level: Arc::new(level), actual: 0, features: 0, refused: false }
    }

    /// The monitor's side.
    pub fn level(&self) -> Arc<BalloonLevel> {
        self.level.clone()
    }

    /// The pages whose numbers the driver sent. In any order, so they are sorted: a run is given
    /// back at once.
    fn inflate(&mut self, memory: &GuestMemory, chain: &Chain) -> Result<(), Broken> {
        let mut bytes = vec![0; chain.readable_bytes().min((FRAMES * FRAME) as u64) as usize];
        let count = chain.read_at(memory, 0, &mut bytes)?;
        let number = |frame: &[u8]| frame.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        let mut frames: Vec<u64> = bytes[..count].chunks_exact(FRAME).map(number).collect();
        frames.sort_unstable();
        frames.dedup();
        for run in frames.chunk_by(|one, next| one + 1 == *next) {
            self.give_back(run[0] * PAGE, run.len() as u64 * PAGE);
        }
        Ok(())
    }

    /// The ranges that the driver reports free are the buffers themselves.
    fn report(&mut self, chain: &Chain) {
        for segment in chain.writable() {
            self.give_back(segment.address, segment.bytes.into());
        }
    }

    /// Only an attempt, as far as the guest is concerned: what is not in RAM, or no whole page,
    /// stays as it is.
    fn give_back(&mut self, address: u64, bytes: u64) {
        if let Err(error) = self.ram.discard(address, bytes)
            && !std::mem::replace(&mut self.refused, true)
        {
            log::warn!("the host does not take back memory that the guest's balloon gives: {error}");
        }
    }
}

impl Backend for Balloon {
    fn kind(&self) -> Kind {
        // Linux reports up to 32 ranges at once and does not do so to a smaller queue.
        Kind { id: 5, name: "virtio-balloon", version: 1, queues: &[128, 128, 32] }
    }

    fn features(&self) -> u64 {
        DEFLATE_ON_OOM | REPORTING
    }

    fn config(&self) -> Arc<ConfigSpace> {
        self.config.clone()
    }

    fn config_written(&mut self) {
        let actual = self.level.pages(ACTUAL);
        if std::mem::replace(&mut self.actual, actual) != actual {
            self.level.changed();
        }
    }

    fn start(&mut self, features: u64) {
        self.features = features;
    }

    /// A driver that let go has no pages in the balloon; what the host wants holds for the next one
    /// too.
    fn reset(&mut self) {
        self.features = 0;
        self.config.set(|space| space[ACTUAL].fill(0));
        self.config_written();
    }

    fn queue_ready(&mut self, index: usize, work: &mut Work<'_>) -> Result<(), Broken> {
        let reports = self.features & REPORTING != 0;
        let Some(ring) = work.rings.get_mut(index) else {
            return Ok(());
        };
        ring.serve(work.memory, |chain| {
            match index {
                INFLATE => self.inflate(work.memory, chain)?,
                REPORT if reports => self.report(chain),
                // Deflating asks for nothing: a page comes back when it is touched.
                _ => {}
            }
            Ok(0)
        })
    }

    /// Layout, version 1: nothing; target and level are in the configuration space.
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    fn layout(&self) -> &'static [Field] {
        &[]
    }

    fn load(&mut self, version: u8, bytes: &[u8]) -> Result<(), StateError> {
        let reader = StateReader::new("virtio-balloon", version.into(), 1, bytes)?;
        let target = u64::from(self.level.pages(TARGET));
        if target * PAGE > self.ram.bytes() {
            return Err(reader.impossible("target", target));
        }
        self.actual = self.level.pages(ACTUAL);
        reader.finish()
    }
}

#[cfg(test)]
mod tests;
