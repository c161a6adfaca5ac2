//! One queue: taking chains, giving them back, interrupting the driver when it wants that.

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_queue::{Error as QueueError, Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::chain::Table;
use super::gate::Gate;
use super::signal::Signal;
use super::{Broken, Chain};
use crate::kvm::GuestMemory;

/// The driver wants no interrupts (`VIRTQ_AVAIL_F_NO_INTERRUPT`), where the event index is not used.
const NO_INTERRUPT: u16 = 1;

/// A queue as a backend sees it. One that the driver has not set up gives no chains.
pub struct Ring {
    queue: Queue,
    indirect: bool,
    signal: Signal,
    gate: Arc<Gate>,
    /// Whether chains were given back of which the driver was not told.
    untold: bool,
}

impl Ring {
    /// The queue that `state` describes; checked to lie in RAM if it is ready.
    pub(super) fn new(
        state: QueueState,
        indirect: bool,
        signal: Signal,
        gate: Arc<Gate>,
        memory: &GuestMemory,
    ) -> Result<Self, Broken> {
        let queue = Queue::try_from(state).map_err(|error| Broken(error.to_string()))?;
        if state.ready && !queue.is_valid(memory) {
            return Err(Broken("a queue does not lie in RAM".into()));
        }
        Ok(Self { queue, indirect, signal, gate, untold: false })
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

    /// Puts the chain that was taken last back: the next [`Self::pop`] gives it again.
    pub fn put_back(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives the chain `head` back to the driver, into which `written` bytes were written. The driver is told by
    /// [`Self::signal`].
    pub fn complete(&mut self, memory: &GuestMemory, head: u16, written: u32) -> Result<(), Broken> {
        self.untold = true;
        self.queue.add_used(memory, head, written).map_err(broken)
    }

    /// Interrupts the driver if something was given back and it wants to know.
    pub fn signal(&mut self, memory: &GuestMemory) -> Result<(), Broken> {
        if std::mem::take(&mut self.untold) && self.wants_interrupt(memory)? {
            self.signal.used();
        }
        Ok(())
    }

    fn wants_interrupt(&mut self, memory: &GuestMemory) -> Result<bool, Broken> {
        if self.queue.event_idx_enabled() {
            return self.queue.needs_notification(memory).map_err(broken);
        }
        // What `virtio-queue` leaves out: the flag in the available ring's first word. The fence puts the used ring's
        // index before it.
        std::sync::atomic::fence(Ordering::SeqCst);
        let flags: u16 = memory
            .load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed)
            .map_err(|error| Broken(error.to_string()))?;
        Ok(u16::from_le(flags) & NO_INTERRUPT == 0)
    }

    /// Takes all chains, one after the other, until the driver has no more or the worker is to stand still: `serve` gets
    /// each and says how many bytes it wrote. The driver is told of each at once, because the next may take long, and at
    /// the end is asked to notify of more.
    pub fn serve(
        &mut self,
        memory: &GuestMemory,
        mut serve: impl FnMut(&Chain) -> Result<u32, Broken>,
    ) -> Result<(), Broken> {
        if !self.queue.ready() {
            return Ok(());
        }
        loop {
            self.queue.disable_notification(memory).map_err(broken)?;
            while let Some(chain) = self.pop(memory)? {
                let written = serve(&chain)?;
                self.complete(memory, chain.head, written)?;
                self.signal(memory)?;
                if self.gate.held() {
                    // When the worker goes on, here or on another host, it looks at every queue.
                    return Ok(());
                }
            }
            if !self.listen(memory)? {
                return Ok(());
            }
        }
    }

    /// Asks the driver to notify when it makes the next chain available; whether it did so already, unnoticed.
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

fn broken(error: QueueError) -> Broken {
    Broken(error.to_string())
}
