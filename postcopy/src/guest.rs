//! [`Guest`]: everything the engine asks of a virtual machine monitor.
//!
//! The engine moves RAM itself, through the [`RamBlock`]s; CPU and device state are opaque
//! [`Section`]s to it, and so is the [`Configuration`] that both sides compare.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::bitmap::PageBitmap;
use crate::memory::RamBlock;
use crate::ram::{BlockId, PageRun};
use crate::throttle::Throttle;

mod pause;

#[cfg(test)]
pub(crate) use pause::paused_for_test;
pub use pause::{ConfirmedRemote, HandedOver, PausableGuest, PauseLock, PausedGuest, Pausing};

/// An error of the virtual machine monitor, carried through the engine to whoever reports it.
pub type GuestError = Box<dyn std::error::Error + Send + Sync>;

/// The machine as `(key, value)` pairs, for example `("vcpus", "2")`, in a fixed order.
pub type Configuration = Vec<(String, String)>;

/// One CPU's or device's saved state.
#[derive(Clone, PartialEq, Eq)]
pub struct Section {
    /// The kind of device, for example `vcpu` or `serial`.
    pub name: String,
    /// Which of several alike, from 0.
    pub instance: u32,
    /// The version of the layout of `bytes`; each device counts its own.
    pub version: u32,
    /// The state itself.
    pub bytes: Vec<u8>,
}

/// How the bytes of every [`Section`] of one name are laid out, for tools that take a recorded
/// stream apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionLayout {
    /// As in [`Section`]. It must have no character that JSON escapes.
    pub name: String,
    /// As in [`Section`].
    pub version: u32,
    /// The fields as JSON, in the grammar of `docs/analyze.md`. The engine sends the text as it is.
    pub fields: String,
}

impl fmt::Debug for Section {
    /// A guest's registers may hold its keys: no log and no error shows them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Section")
            .field("name", &self.name)
            .field("instance", &self.instance)
            .field("version", &self.version)
            .field("bytes", &format_args!("{} bytes", self.bytes.len()))
            .finish()
    }
}

/// The engine's threads, by what they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineThread {
    /// The source's own. It connects, and starts the next two kinds.
    Source,
    /// Source: answers page requests.
    DemandServer,
    /// Source: sends pages on a multifd channel.
    MultifdSender,
    /// The destination's own. It accepts channels, loads the guest's state, and starts the kinds
    /// that follow.
    Destination,
    /// Destination: asks for the pages that the guest waits for.
    Faults,
    /// Destination: populates RAM ahead.
    Populate,
    /// Destination: takes pages off a multifd channel.
    MultifdReceiver,
    /// Saves a guest that stays. It starts the next kind.
    Snapshot,
    /// Copies pages that the guest is about to write, for a snapshot.
    SnapshotWrites,
}

/// The guest's memory. Every thread of the engine has this much of the guest.
pub trait GuestRam: Send + Sync {
    /// A thread of the engine begins, and calls this first. A monitor that confines its threads
    /// does so here. A thread keeps what the threads that it starts need.
    fn thread_begins(&self, _kind: EngineThread) {}

    /// The RAM blocks, in an order that is the same at source and destination. Constant for life;
    /// called from every thread, at any time.
    fn ram(&self) -> &[RamBlock];
}

/// The log of writes to guest RAM, by vCPUs and by the monitor itself. Called from the migration
/// thread of the source while the guest runs, and once more while it is paused. An error fails the
/// migration: the guest stays.
pub trait DirtyLog: GuestRam {
    /// Begins to log. May report every page as dirty at first.
    fn start_dirty_log(&self) -> Result<(), GuestError>;

    /// Sets in `dirty` each page of `block` that was written since logging began or since
    /// [`DirtyLog::clear_dirty`] last covered it, whichever is later. Where the host can re-arm by
    /// range the log keeps those pages until `clear_dirty`; where it cannot, it forgets them here,
    /// so the caller owns what it was told.
    fn sync_dirty(&self, block: BlockId, dirty: &PageBitmap) -> Result<(), GuestError>;

    /// Re-arms the log for those pages of `run` that are set in `dirty`, just before they are read
    /// and sent. `run` starts at a multiple of 64 pages and ends at one or at the block's end.
    fn clear_dirty(&self, run: PageRun, dirty: &PageBitmap) -> Result<(), GuestError>;

    /// Ends logging. An error goes to the log and changes nothing else: the guest is slower.
    fn stop_dirty_log(&self) -> Result<(), GuestError>;
}

/// A guest that is written to somebody else: to a destination, a file or a snapshot.
pub trait OutgoingGuest: GuestRam + PausableGuest {
    /// What the destination must match. Called once, first of all.
    fn configuration(&self) -> Configuration;

    /// How to read what [`SourceGuest::save`] will give, for tools that take a recorded stream
    /// apart. Called once, before anything moves; a section that is not described is shown as
    /// bytes.
    fn describe_state(&self) -> Vec<SectionLayout> {
        Vec::new()
    }
}

/// A guest that leaves. Called from the migration thread, unless a method says otherwise.
pub trait SourceGuest: OutgoingGuest + DirtyLog {
    /// From now on keeps every vCPU from running for this part of the time. Returns at once; the
    /// guest runs. The engine takes it back, with [`Throttle::NONE`], however the migration ends. A
    /// monitor that cannot throttle leaves the guest as it is: then it does not converge.
    fn throttle(&self, _throttle: Throttle) {}

    /// The files that all blocks of RAM are shared mappings of, whole and in the order of the
    /// blocks, for a process of this host to map as well. `None` if RAM is not such memory. Called
    /// while the guest runs. From here until [`SourceGuest::leave_ram`] or another migration
    /// somebody else may have it mapped.
    fn shared_ram(&self) -> Option<Vec<Arc<OwnedFd>>> {
        None
    }

    /// The state of CPUs and devices. Called while paused; gives up what only one host may have,
    /// such as the locks on disks. May write guest RAM. An error fails the migration: the guest is
    /// resumed, which takes those back.
    fn save(&self) -> Result<Vec<Section>, GuestError>;

    /// The pages that the guest will touch first where it runs on; a postcopy sends them along with
    /// the state. Called after [`SourceGuest::save`], from the thread that answers page requests.
    /// None is a fine answer.
    fn first_pages(&self) -> Vec<PageRun> {
        Vec::new()
    }

    /// The destination has everything; this guest never runs here again by itself.
    fn handed_over(&self);

    /// Instead of [`SourceGuest::handed_over`]: all of the guest was written down, and nobody is
    /// known to run it. It stands still here, and may go on.
    fn written_down(&self) {
        self.handed_over();
    }

    /// After [`SourceGuest::handed_over`]: the guest's RAM went with it, as it is
    /// ([`SourceGuest::shared_ram`]) or page by page. This side releases all of it, unless it has
    /// begun to use it for something else. Called after the engine's other threads have ended. May
    /// take long.
    fn leave_ram(&self) {}
}

/// A guest that is saved and stays. Called from the snapshot's thread.
pub trait SnapshotGuest: OutgoingGuest {
    /// As [`SourceGuest::save`], but nothing is given up that only one host may have. Called while
    /// paused. Must not write guest RAM. An error fails the snapshot: the guest is resumed.
    fn save_staying(&self) -> Result<Vec<Section>, GuestError>;

    /// From now on (or not any more) none of its memory may be given back to the host. Switched on
    /// while it is paused, and off while it runs.
    fn keep_memory(&self, _yes: bool) {}
}

/// A guest that arrives. Called from the incoming thread, unless a method says otherwise. Nothing
/// of it runs before [`DestinationGuest::run`]. An error before that fails the migration, and the
/// guest stays at the source.
pub trait DestinationGuest: GuestRam {
    /// Whether a guest of this configuration can run here. The error names each difference that
    /// matters; it is shown on both sides.
    fn check_configuration(&self, source: &Configuration) -> Result<(), GuestError>;

    /// Puts the source's own RAM, given as by [`SourceGuest::shared_ram`], in the place of this
    /// guest's, whose contents are dropped. Nothing of it is written before
    /// [`DestinationGuest::run`], for the guest may yet run on at the source;
    /// [`DestinationGuest::not_started`] releases it. The files are a stranger's:
    /// [`RamBlock::adopt`] checks what they are.
    fn adopt_ram(&self, _files: Vec<OwnedFd>) -> Result<(), GuestError> {
        Err("its RAM is not shared memory".into())
    }

    /// Loads what [`SourceGuest::save`] gave. May touch guest RAM, which may fault.
    fn load(&self, sections: &[Section]) -> Result<(), GuestError>;

    /// The guest is ours from here on. Starts the vCPUs if `running`, else stays paused. An error
    /// means that nothing was started and nothing will be: the source resumes the guest on the
    /// strength of it. `sure` is called once no such error can come any more, and before anybody
    /// hears that the guest runs; it returns at once and calls nothing of the guest's.
    fn run(&self, running: bool, sure: &dyn Fn()) -> Result<(), GuestError>;

    /// The guest was not started here and never will be. Called before the source is told so, which
    /// then takes back what only one host may have, such as the locks on disks.
    fn not_started(&self) {}

    /// Every page is here: the engine no longer serves page faults. The guest runs.
    fn arrived(&self) {}

    /// Which vCPU the thread `tid` runs, for per-vCPU blocktime. Called from the fault loop.
    fn vcpu_of_thread(&self, tid: i32) -> Option<usize>;

    /// How many vCPUs there are. Called once, before anything arrives.
    fn vcpus(&self) -> usize;
}

/// A guest that can do all of it: what a monitor implements, role by role.
pub trait Guest: SourceGuest + SnapshotGuest + DestinationGuest {}

impl<G: SourceGuest + SnapshotGuest + DestinationGuest> Guest for G {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_state_is_never_shown() {
        let section = Section { name: "vcpu".into(), instance: 3, version: 1, bytes: vec![0xab; 77] };
        for shown in [format!("{section:?}"), format!("{:#?}", crate::wire::Forward::State(vec![section.clone()]))] {
            assert!(shown.contains("vcpu") && shown.contains("77 bytes"), "{shown}");
            assert!(!shown.contains("171") && !shown.contains("ab"), "{shown}");
        }
    }
}
