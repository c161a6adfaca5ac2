//! A descriptor chain (virtio 1.2, section 2.7.5), read once, checked to lie in RAM, and copied in
//! and out of.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::Broken;
use crate::kvm::GuestMemory;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 16;

/// A piece of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The guest-physical address.
    pub address: u64,
    /// The length in bytes.
    pub bytes: u32,
}

/// What the driver made available at once: first the segments that the device reads, then those
/// that it writes. All of them lie in RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Names the chain in the used ring.
    pub head: u16,
    readable: Vec<Segment>,
    writable: Vec<Segment>,
}

/// Where chains are read from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    /// The descriptor table's guest-physical address.
    pub address: u64,
    /// How many descriptors it has.
    pub size: u16,
    /// Whether the driver may use indirect descriptors.
    pub indirect: bool,
}

fn broken<T>(words: String) -> Result<T, Broken> {
    Err(Broken(words))
}

fn descriptor(memory: &GuestMemory, table: u64, index: u32) -> Result<Descriptor, Broken> {
    let at = table.checked_add(u64::from(index) * DESCRIPTOR);
    match at.map(|at| memory.read_obj(GuestAddress(at))) {
        Some(Ok(found)) => Ok(found),
        _ => broken(format!("descriptor {index} of the table at {table:#x} is not in RAM")),
    }
}

impl Chain {
    /// Reads the chain that begins with descriptor `head`. A chain that cannot be right in every
    /// part is refused whole.
    pub(super) fn read(memory: &GuestMemory, table: Table, head: u16) -> Result<Self, Broken> {
        let mut chain = Self { head, readable: Vec::new(), writable: Vec::new() };
        let (mut address, mut size, mut indirect) = (table.address, u32::from(table.size), false);
        let mut index = u32::from(head);
        // A chain that is longer than its table goes round in it.
        let mut left = size;
        loop {
            if index >= size {
                return broken(format!("a chain leads to descriptor {index} of a table of {size}"));
            }
            if left == 0 {
                return broken(format!("a chain goes round in its table of {size} descriptors"));
            }
            left -= 1;
            let found = descriptor(memory, address, index)?;
            if found.flags() & INDIRECT != 0 {
                // The write flag means nothing here (section 2.7.5.3.2).
                if indirect || !table.indirect || found.flags() & NEXT != 0 {
                    return broken(format!("descriptor {index} leads to an indirect table where none may be"));
                }
                let bytes = u64::from(found.len());
                if bytes == 0 || bytes % DESCRIPTOR != 0 {
                    return broken(format!("an indirect table has {bytes} bytes"));
                }
                address = found.addr().0;
                if !memory.check_range(GuestAddress(address), bytes as usize) {
                    return broken(format!("an indirect table of {bytes} bytes at {address:#x} is not in RAM"));
                }
                size = (bytes / DESCRIPTOR) as u32;
                // Section 2.7.5.3.1: a chain is not longer than the queue, though the table may be.
                left = size.min(table.size.into());
                (index, indirect) = (0, true);
                continue;
            }
            chain.add(memory, &found)?;
            if found.flags() & NEXT == 0 {
                return Ok(chain);
            }
            index = found.next().into();
        }
    }

    fn add(&mut self, memory: &GuestMemory, found: &Descriptor) -> Result<(), Broken> {
        let segment = Segment { address: found.addr().0, bytes: found.len() };
        let Segment { address, bytes } = segment;
        if !memory.check_range(GuestAddress(address), bytes as usize) {
            return broken(format!("a buffer of {bytes} bytes at {address:#x} is not in RAM"));
        }
        if found.flags() & WRITE != 0 {
            self.writable.push(segment);
        } else if self.writable.is_empty() {
            self.readable.push(segment);
        } else {
            return broken("a buffer for the device to read follows one for it to write".into());
        }
        Ok(())
    }

    /// The segments that the device reads.
    pub fn readable(&self) -> &[Segment] {
        &self.readable
    }

    /// The segments that the device writes.
    pub fn writable(&self) -> &[Segment] {
        &self.writable
    }

    /// How many bytes the device may read.
    pub fn readable_bytes(&self) -> u64 {
        self.readable.iter().map(|segment| u64::from(segment.bytes)).sum()
    }

    /// How many bytes the device may write.
    pub fn writable_bytes(&self) -> u64 {
        self.writable.iter().map(|segment| u64::from(segment.bytes)).sum()
    }

    /// Fills `data` from byte `offset` of what the device reads; how much there was.
    pub fn read_at(&self, memory: &GuestMemory, offset: u64, data: &mut [u8]) -> Result<usize, Broken> {
        let mut done = 0;
        for piece in pieces(&self.readable, offset, data.len()) {
            let part = &mut data[done..done + piece.bytes as usize];
            memory.read_slice(part, GuestAddress(piece.address)).map_err(|error| Broken(error.to_string()))?;
            done += piece.bytes as usize;
        }
        Ok(done)
    }

    /// Writes `data` from byte `offset` of what the device writes; how much had room.
    pub fn write_at(&self, memory: &GuestMemory, offset: u64, data: &[u8]) -> Result<usize, Broken> {
        let mut done = 0;
        for piece in pieces(&self.writable, offset, data.len()) {
            let part = &data[done..done + piece.bytes as usize];
            memory.write_slice(part, GuestAddress(piece.address)).map_err(|error| Broken(error.to_string()))?;
            done += piece.bytes as usize;
        }
        Ok(done)
    }
}

/// The parts of `segments` that make up the bytes from `offset` on, `length` at most.
fn pieces(segments: &[Segment], offset: u64, length: usize) -> impl Iterator<Item = Segment> {
    let mut skip = offset;
    let mut left = length as u64;
    segments.iter().filter_map(move |segment| {
        let bytes = u64::from(segment.bytes);
        let start = skip.min(bytes);
        skip -= start;
        let taken = (bytes - start).min(left);
        left -= taken;
        (taken > 0).then_some(Segment { address: segment.address + start, bytes: taken as u32 })
    })
}

#[cfg(test)]
mod tests;
