//! Frames from the tap into the driver's buffers (section 5.1.6.4).

use std::io::{self, ErrorKind};

use super::super::{Broken, Chain, Ring};
use crate::kvm::GuestMemory;
use crate::net::{HEADER, Tap};

/// The largest frame with its header: a TCP segment of 64 KiB, and room for all headers around it.
pub const LARGEST: usize = HEADER + (64 << 10) + 64;

/// Where in the header stands how many chains the frame lies in.
const BUFFERS: std::ops::Range<usize> = 10..12;

/// What became of the waiting frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It is in the driver's buffers, or fits into none that this driver will ever give.
    Done,
    /// It waits until the driver gives more buffers, of which the driver is asked to notify.
    Waits,
}

/// Has one frame at most: the next for the driver.
pub struct Inbox {
    buffer: Vec<u8>,
    /// The waiting frame's length, its header included.
    waiting: Option<usize>,
    /// What the frame at hand is put into. Kept for its memory only.
    chains: Vec<Chain>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { buffer: vec![0; LARGEST], waiting: None, chains: Vec::new() }
    }
}

impl Inbox {
    /// The waiting frame with its header; empty if there is none.
    pub fn waiting(&self) -> &[u8] {
        &self.buffer[..self.waiting.unwrap_or(0)]
    }

    /// Takes over what [`Self::waiting`] gave on another host; `false` if that cannot be a frame.
    pub fn restore(&mut self, frame: &[u8]) -> bool {
        if !frame.is_empty() && !(HEADER..=LARGEST).contains(&frame.len()) {
            return false;
        }
        self.buffer[..frame.len()].copy_from_slice(frame);
        self.waiting = (!frame.is_empty()).then_some(frame.len());
        true
    }

    /// Forgets the waiting frame.
    pub fn clear(&mut self) {
        self.waiting = None;
    }

    /// Has the next frame wait, if none does; whether one waits. Fails if the tap is gone.
    pub fn fill(&mut self, tap: &Tap) -> io::Result<bool> {
        while self.waiting.is_none() {
            match tap.receive(&mut self.buffer) {
                Ok(length) => self.waiting = (length >= HEADER).then_some(length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Puts the waiting frame into the driver's buffers: into one chain or, if the driver allows
    /// it, into as many as it takes.
    pub fn deliver(&mut self, ring: &mut Ring, memory: &GuestMemory, several: bool) -> Result<Delivery, Broken> {
        let Some(length) = self.waiting else {
            return Ok(Delivery::Done);
        };
        self.chains.clear();
        let mut room = 0;
        while room < length as u64 && (several || self.chains.is_empty()) {
            if let Some(chain) = ring.pop(memory)? {
                room += self.room(&chain)?;
                self.chains.push(chain);
            } else if !ring.listen(memory)? {
                // Asked first: with the chains put back, those would count as new ones.
                let all = self.chains.len() >= ring.size().into();
                self.put_back(ring);
                return Ok(if all { self.drop_frame() } else { Delivery::Waits });
            }
        }
        if room < length as u64 {
            self.put_back(ring);
            return Ok(self.drop_frame());
        }
        self.copy(ring, memory, length)?;
        self.waiting = None;
        Ok(Delivery::Done)
    }

    /// How much of the frame goes into `chain`, which comes after those that were taken already.
    fn room(&self, chain: &Chain) -> Result<u64, Broken> {
        let room = chain.writable_bytes();
        // A driver may not cut the header in two (section 5.1.6.3.1).
        let least = if self.chains.is_empty() { HEADER as u64 } else { 1 };
        if room < least {
            return Err(Broken(format!("a buffer for a frame has room for {room} bytes")));
        }
        Ok(room)
    }

    fn put_back(&mut self, ring: &mut Ring) {
        self.chains.drain(..).for_each(|_| ring.put_back());
    }

    fn drop_frame(&mut self) -> Delivery {
        log::debug!("a frame of {} bytes is larger than the driver's buffers and is dropped", self.waiting().len());
        self.waiting = None;
        Delivery::Done
    }

    fn copy(&mut self, ring: &mut Ring, memory: &GuestMemory, length: usize) -> Result<(), Broken> {
        // The driver gave no more chains than its queue has descriptors.
        self.buffer[BUFFERS].copy_from_slice(&(self.chains.len() as u16).to_le_bytes());
        let mut done = 0;
        let mut used = Vec::with_capacity(self.chains.len());
        for chain in &self.chains {
            let written = chain.write_at(memory, 0, &self.buffer[done..length])?;
            done += written;
            used.push((chain.head, written as u32));
        }
        ring.complete_together(memory, &used)
    }
}
