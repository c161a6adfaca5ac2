//! One queue: taking chains, giving them back, interrupting the driver when it wants that.

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_queue::{Error as QueueError, Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::chain::Table;
use super::signal::Signal;
use super::worker_gate::WorkerGate;
use super::{Broken, Chain};
use crate::kvm::GuestMemory;

/// The driver wants no interrupts (`VIRTQ_AVAIL_F_NO_INTERRUPT`), where the event index is not
/// used.
const NO_INTERRUPT: u16 = 1;
/// Both rings (sections 2.7.6 and 2.7.8): u16 flags, u16 index, then the elements.
const INDEX: u64 = 2;
const AVAILABLE_HEADER: u64 = 4;
const USED_HEADER: u64 = 4;
/// u32 head, u32 bytes written.
const USED_ELEMENT: u64 = 8;

/// A queue as a backend sees it. One that the driver has not set up gives no chains.
pub struct Ring {
    queue: Queue,
    indirect: bool,
    signal: Signal,
    gate: Arc<WorkerGate>,
    /// Up to where the driver was told of the chains that it got back: a position in the used ring.
    told: u16,
}

impl Ring {
    /// The queue that `state` describes; checked to lie in RAM if it is ready.
    pub(super) fn new(
        state: QueueState,
        indirect: bool,
        signal: Signal,
        gate: Arc<WorkerGate>,
        memory: &GuestMemory,
    ) -> Result<Self, Broken> {
        let queue = Queue::try_from(state).map_err(|error| Broken(error.to_string()))?;
        if state.ready && !queue.is_valid(memory) {
            return Err(Broken("a queue does not lie in RAM".into()));
        }
        Ok(Self { told: queue.next_used(), queue, indirect, signal, gate })
    }

    pub(super) fn state(&self) -> QueueState {
        self.queue.state()
    }

    /// How many descriptors the driver gave it.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// The next chain that the driver made available.
    pub fn pop(&mut self, memory: &GuestMemory) -> Result<Option<Chain>, Broken> {
        if !self.queue.ready() {
            return Ok(None);
        }
        let table = Table { address: self.queue.desc_table(), size: self.queue.size(), indirect: self.indirect };
        let mut available = self.queue.iter(memory).map_err(broken)?;
        match available.next() {
            Some(found) => Chain::read(memory, table, found.head_index()).map(Some),
            None => Ok(None),
        }
    }

    /// Puts the chain that was taken last back: the next [`Self::pop`] gives it again. As often as
    /// chains were taken.
    pub fn put_back(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives the chain `head` back to the driver, into which `written` bytes were written. The
    /// driver is told by [`Self::signal`].
    pub fn complete(&mut self, memory: &GuestMemory, head: u16, written: u32) -> Result<(), Broken> {
        self.complete_together(memory, &[(head, written)])
    }

    /// The same for several chains, of which the driver sees either none or all. `virtio-queue`
    /// shows it each by itself: a driver that polls would find the beginning of a frame without its
    /// end.
    pub fn complete_together(&mut self, memory: &GuestMemory, chains: &[(u16, u32)]) -> Result<(), Broken> {
        let ring = self.queue.used_ring();
        let mut next = self.queue.next_used();
        for (head, written) in chains {
            let at = ring + USED_HEADER + USED_ELEMENT * u64::from(next % self.queue.size());
            memory.write_obj(u32::from(*head).to_le(), GuestAddress(at)).map_err(inaccessible)?;
            memory.write_obj(written.to_le(), GuestAddress(at + 4)).map_err(inaccessible)?;
            next = next.wrapping_add(1);
        }
        self.queue.set_next_used(next);
        memory.store(next.to_le(), GuestAddress(ring + INDEX), Ordering::Release).map_err(inaccessible)
    }

    /// Interrupts the driver if something was given back and it wants to know.
    pub fn signal(&mut self, memory: &GuestMemory) -> Result<(), Broken> {
        let told = std::mem::replace(&mut self.told, self.queue.next_used());
        if told != self.told && self.wants_interrupt(memory, told)? {
            self.signal.used();
        }
        Ok(())
    }

    /// Whether the driver wants to know of what was given back since position `told` of the used
    /// ring. `virtio-queue` knows neither the flag nor what [`Self::complete_together`] does.
    fn wants_interrupt(&self, memory: &GuestMemory, told: u16) -> Result<bool, Broken> {
        // Puts the used ring's index before what the driver says of it.
        std::sync::atomic::fence(Ordering::SeqCst);
        let word = |at| memory.load(GuestAddress(at), Ordering::Relaxed).map(u16::from_le).map_err(inaccessible);
        let ring = self.queue.avail_ring();
        if self.queue.event_idx_enabled() {
            // Section 2.7.7.2: when the position that the driver wrote behind its ring is passed.
            let event = word(ring + AVAILABLE_HEADER + 2 * u64::from(self.queue.size()))?;
            let now = self.queue.next_used();
            return Ok(now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(told));
        }
        Ok(word(ring)? & NO_INTERRUPT == 0)
    }

    /// Takes all chains, one after the other, until the driver has no more or the worker is to
    /// stand still: `serve` gets each and says how many bytes it wrote. The driver is told of each
    /// at once, because the next may take long, and at the end is asked to notify of more.
    pub fn serve(
        &mut self,
        memory: &GuestMemory,
        mut serve: impl FnMut(&Chain) -> Result<u32, Broken>,
    ) -> Result<(), Broken> {
        while self.serve_some(memory, 1, &mut serve)? {}
        Ok(())
    }

    /// The same, but `most` chains at most, of which the driver is told together; whether there may
    /// be more. If so the driver is not asked to notify: the caller comes back by itself.
    pub fn serve_some(
        &mut self,
        memory: &GuestMemory,
        most: usize,
        mut serve: impl FnMut(&Chain) -> Result<u32, Broken>,
    ) -> Result<bool, Broken> {
        if !self.queue.ready() {
            return Ok(false);
        }
        self.queue.disable_notification(memory).map_err(broken)?;
        for _ in 0..most {
            if self.gate.held() {
                // When the worker goes on, here or on another host, it looks at every queue.
                self.signal(memory)?;
                return Ok(false);
            }
            let Some(chain) = self.pop(memory)? else {
                self.signal(memory)?;
                return self.listen(memory);
            };
            let written = serve(&chain)?;
            self.complete(memory, chain.head, written)?;
        }
        self.signal(memory)?;
        Ok(true)
    }

    /// Asks the driver to notify when it makes the next chain available; whether it did so already,
    /// unnoticed.
    pub fn listen(&mut self, memory: &GuestMemory) -> Result<bool, Broken> {
        if !self.queue.ready() {
            return Ok(false);
        }
        self.queue.enable_notification(memory).map_err(broken)
    }

    /// Whether the driver has made something available.
    pub fn has_chain(&self, memory: &GuestMemory) -> Result<bool, Broken> {
        if !self.queue.ready() {
            return Ok(false);
        }
        let available = self.queue.avail_idx(memory, Ordering::Acquire).map_err(broken)?;
        Ok(available != Wrapping(self.queue.next_avail()))
    }
}

fn inaccessible(error: GuestMemoryError) -> Broken {
    Broken(error.to_string())
}

fn broken(error: QueueError) -> Broken {
    Broken(error.to_string())
}
