//! The console (virtio 1.2, section 5.3): one port, in Linux `hvc0`.
//!
//! Neither several ports nor the size of a window is offered. What the guest writes goes out at
//! once or is dropped, as the serial port's output is: Linux waits for each buffer with a spinning
//! CPU, so a console that held buffers for a slow reader would stop the guest. Input waits: a
//! little in the [`Inbox`], the rest with who sends it.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Backend, Broken, Chain, ConfigSpace, Kind, Work};
use crate::kvm::GuestMemory;
use crate::state::layout::{Count, Field, Type};
use crate::state::{StateError, StateReader, StateWriter};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// How much input is taken ahead of the guest, in bytes: one of Linux's buffers.
const INBOX: usize = 4096;
/// How much output is copied at once, in bytes.
const PIECE: usize = 16 << 10;
/// The most that the guest may write by one request, in bytes: what a pipe holds that Linux splices
/// into a port, and more. It bounds how long a console takes to stand still.
const REQUEST: u64 = 4 << 20;

/// Input on its way from the other end to the guest.
pub struct Inbox {
    held: Mutex<Held>,
    /// Wakes the worker.
    arrived: EventFd,
    /// Tells the other end that there is room again.
    room: Box<dyn Fn() + Send + Sync>,
}

struct Held {
    bytes: VecDeque<u8>,
    /// From when the machine goes on until it is saved: what came after that would be lost.
    receiving: bool,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes as much of `bytes` as there is room for, and returns how much that was. When there is
    /// room again, the other end is told.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        let mut held = self.lock();
        if !held.receiving {
            return 0;
        }
        let taken = bytes.len().min(INBOX - held.bytes.len());
        held.bytes.extend(&bytes[..taken]);
        drop(held);
        if taken > 0 {
            // A full counter wakes as well.
            let _ = self.arrived.write(1);
        }
        taken
    }

    fn is_empty(&self) -> bool {
        self.lock().bytes.is_empty()
    }

    /// The first bytes, `most` at most; they stay until [`Self::forget`].
    fn first(&self, most: u64) -> Vec<u8> {
        let held = self.lock();
        let count = held.bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        held.bytes.iter().take(count).copied().collect()
    }

    fn forget(&self, count: usize) {
        drop(self.lock().bytes.drain(..count));
        (self.room)();
    }
}

/// See the module's text.
pub struct Console {
    config: Arc<ConfigSpace>,
    inbox: Arc<Inbox>,
    output: Box<dyn Write + Send>,
}

impl Console {
    /// A console that writes to `output`, which never blocks, and calls `room` when its inbox may
    /// take input again. It takes none until the machine runs.
    pub fn new(output: Box<dyn Write + Send>, room: Box<dyn Fn() + Send + Sync>) -> io::Result<Self> {
        let arrived = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let held = Mutex::new(Held { bytes: VecDeque::with_capacity(INBOX), receiving: false });
        let inbox = Arc::new(Inbox { held, arrived, room });
        Ok(Self { config: Arc::new(ConfigSpace::new(Vec::new())), inbox, output })
    }

    /// Where input goes in.
    pub fn inbox(&self) -> Arc<Inbox> {
        self.inbox.clone()
    }

    /// Gives the guest what has come, as far as it has room.
    fn deliver(&mut self, work: &mut Work<'_>) -> Result<(), Broken> {
        let Some(ring) = work.rings.get_mut(RECEIVE) else {
            return Ok(());
        };
        loop {
            while !self.inbox.is_empty() {
                let Some(chain) = ring.pop(work.memory)? else {
                    break;
                };
                let bytes = self.inbox.first(chain.writable_bytes());
                // Guest RAM may be awaited here: the inbox is not locked.
                let written = chain.write_at(work.memory, 0, &bytes)?;
                ring.complete(work.memory, chain.head, written as u32)?;
                self.inbox.forget(written);
            }
            ring.signal(work.memory)?;
            // Only who has something for the guest wants to know of its buffers.
            if self.inbox.is_empty() || !ring.listen(work.memory)? {
                return Ok(());
            }
        }
    }

    fn transmit(&mut self, memory: &GuestMemory, chain: &Chain) -> Result<(), Broken> {
        let bytes = chain.readable_bytes();
        if bytes > REQUEST {
            return Err(Broken(format!("{bytes} bytes of output in one request, of which {REQUEST} are allowed")));
        }
        let mut piece = vec![0; PIECE.min(bytes as usize)];
        let mut done = 0;
        while done < bytes {
            let count = chain.read_at(memory, done, &mut piece)?;
            // Output fails by dropping, and has said so.
            let _ = self.output.write_all(&piece[..count]);
            done += count as u64;
        }
        Ok(())
    }
}

impl Backend for Console {
    fn kind(&self) -> Kind {
        Kind { id: 3, name: "virtio-console", version: 1, queues: &[64, 64] }
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> Arc<ConfigSpace> {
        self.config.clone()
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.inbox.arrived.as_fd()]
    }

    /// Input that was not read yet is for the next driver, as is what waits with who sends it.
    fn reset(&mut self) {}

    fn resumed(&mut self, _work: &mut Work<'_>) -> Result<(), Broken> {
        self.inbox.lock().receiving = true;
        (self.inbox.room)();
        Ok(())
    }

    fn queue_ready(&mut self, index: usize, work: &mut Work<'_>) -> Result<(), Broken> {
        if index == RECEIVE {
            return self.deliver(work);
        }
        match work.rings.get_mut(TRANSMIT) {
            Some(ring) => ring.serve(work.memory, |chain| self.transmit(work.memory, chain).map(|()| 0)),
            None => Ok(()),
        }
    }

    fn descriptor_ready(&mut self, _index: usize, work: &mut Work<'_>) -> Result<(), Broken> {
        let _ = self.inbox.arrived.read();
        self.deliver(work)
    }

    /// Layout, version 1: u32 n, n bytes of input that the guest has not got yet, n at most 4096.
    /// No input is taken from here on until the machine goes on.
    fn save(&self) -> Vec<u8> {
        let mut held = self.inbox.lock();
        held.receiving = false;
        let mut writer = StateWriter::default();
        writer.u32(held.bytes.len() as u32);
        writer.bytes(held.bytes.make_contiguous());
        writer.finish()
    }

    fn layout(&self) -> &'static [Field] {
        &[Field("input", Type::Bytes(Count::Prefix))]
    }

    fn load(&mut self, version: u8, bytes: &[u8]) -> Result<(), StateError> {
        let mut reader = StateReader::new("virtio-console", version.into(), 1, bytes)?;
        let count = reader.count(1, "input")?;
        if count > INBOX {
            return Err(reader.impossible("input", count as u64));
        }
        let input = reader.bytes(count, "input")?;
        reader.finish()?;
        self.inbox.lock().bytes = input.iter().copied().collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
