//! A disk (virtio 1.2, section 5.2): the guest's requests, carried out on an [`Image`].
//!
//! Offered are flushes, discards, zeroes, and the limits of a request, so that one cannot keep the
//! worker for long. A driver that takes flushes has a disk with a volatile cache, the host's; for
//! one that does not, every write is flushed before it is answered (section 5.2.6.2). Switching
//! between the two while it runs is not offered.

mod complaints;
mod request;

use std::error::Error;
use std::sync::Arc;

use self::complaints::Complaints;
use self::request::{Extent, Outcome, Request};
use super::{Backend, Broken, Chain, ConfigSpace, Host, Kind, Work};
use crate::block::{BlockError, Image, Zeroes};
use crate::kvm::GuestMemory;
use crate::state::layout::{Field, Type};
use crate::state::{StateError, StateReader, StateWriter};

/// Feature bits (section 5.2.3).
mod feature {
    pub const SIZE_MAX: u64 = 1 << 1;
    pub const SEG_MAX: u64 = 1 << 2;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

const NAME: &str = "virtio-blk";
const VERSION: u8 = 1;
/// What `capacity` and `sector` are counted in (section 5.2.4), in bytes.
const SECTOR: u64 = 512;
const QUEUE: u16 = 256;
/// The most segments in a request: what a queue holds beside header and status.
const SEGMENTS: u32 = QUEUE as u32 - 2;
/// The longest segment, in bytes.
const SEGMENT: u32 = 256 << 10;
/// The most data of a request, in bytes: what these two allow.
const LONGEST: u64 = SEGMENTS as u64 * SEGMENT as u64;
/// The host's page cache works in units of 4 KiB, which is 2 to the power of this many sectors:
/// what is smaller is read before it is written.
const PHYSICAL_EXPONENT: u8 = 3;
/// Data goes through a buffer of this many bytes at most.
const BOUNCE: usize = 1 << 20;
/// What a driver gets for a serial number, in bytes, padded with zeroes.
const SERIAL: usize = 20;
/// The most that one extent discards, in sectors: 1 GiB, the work of a moment in every format.
const DISCARD: u32 = 1 << 21;
/// The most that one extent zeroes, in sectors: 32 MiB, because they may have to be written.
const ZERO: u32 = 1 << 16;
/// The most extents in a request.
const EXTENTS: u32 = 16;

/// The host's disk is not the one that the guest knows.
#[derive(Debug, thiserror::Error)]
#[error(
    "the disk image '{path}' makes a disk of {here} bytes, and the guest's has {known}: both hosts must have the same image"
)]
struct OtherDisk {
    path: String,
    here: u64,
    known: u64,
}

/// One request's place and surroundings.
struct Asked<'a> {
    chain: &'a Chain,
    memory: &'a GuestMemory,
    host: Host<'a>,
}

/// See the module's text.
pub struct Block {
    image: Image,
    /// The disk's size in bytes, as the guest knows it; `None` until the image was open or a
    /// guest's state came.
    capacity: Option<u64>,
    /// What the driver took.
    features: u64,
    config: Arc<ConfigSpace>,
    /// Between guest and image.
    bounce: Vec<u8>,
    complaints: Complaints,
}

impl Block {
    /// A disk with this image, which is closed and stays so until [`Backend::acquire`].
    pub fn new(image: Image) -> Self {
        Self {
            image,
            capacity: None,
            features: 0,
            config: Arc::new(ConfigSpace::new(configuration())),
            bounce: Vec::new(),
            complaints: Complaints::default(),
        }
    }

    /// Answers one request; how many bytes were written for it.
    fn serve(&mut self, asked: &Asked<'_>) -> Result<u32, Broken> {
        let Asked { chain, memory, .. } = *asked;
        let Some(room) = chain.writable_bytes().checked_sub(1) else {
            return Err(Broken("a disk request has no room for its status".into()));
        };
        let (outcome, written) = match Request::read(chain, memory)? {
            Ok(request) => self.carry_out(request, asked)?,
            Err(refusal) => (refusal, 0),
        };
        // The last byte is the status's (section 5.2.6).
        chain.write_at(memory, room, &[outcome as u8])?;
        // No more than LONGEST.
        Ok(written as u32 + 1)
    }

    fn carry_out(&mut self, request: Request, asked: &Asked<'_>) -> Result<(Outcome, u64), Broken> {
        if !self.inside(&request) {
            return Ok((Outcome::Failed, 0));
        }
        // A driver without flushes relies on its changes being durable.
        let flush = request == Request::Flush || self.features & feature::FLUSH == 0;
        let carried_out = match request {
            Request::Read { offset, length } => return self.read(asked, offset, length),
            Request::Write { offset, length } => self.write(asked, offset, length)?,
            Request::Flush => Ok(()),
            Request::Identify { room } => return self.identify(asked, room),
            Request::Discard(extents) => {
                let image = &mut self.image;
                asked.host.run(|| extents.iter().try_for_each(|extent| image.discard(extent.offset, extent.length)))
            }
            Request::Zero(extents) => asked.host.run(|| self.zero(&extents)),
        };
        let carried_out = match carried_out {
            Ok(()) if flush => asked.host.run(|| self.image.flush()),
            other => other,
        };
        Ok((self.outcome(carried_out), 0))
    }

    /// Whether all that a request names is on the disk. Asked first, so that a request is not half
    /// carried out.
    fn inside(&self, request: &Request) -> bool {
        let capacity = self.capacity.unwrap_or(0);
        let inside = |offset: u64, length: u64| offset.checked_add(length).is_some_and(|end| end <= capacity);
        match request {
            Request::Read { offset, length } | Request::Write { offset, length } => inside(*offset, *length),
            Request::Discard(extents) | Request::Zero(extents) => {
                extents.iter().all(|Extent { offset, length, .. }| inside(*offset, *length))
            }
            Request::Flush | Request::Identify { .. } => true,
        }
    }

    fn read(&mut self, asked: &Asked<'_>, offset: u64, length: u64) -> Result<(Outcome, u64), Broken> {
        let mut done = 0;
        while done < length {
            let piece = buffer(&mut self.bounce, length - done);
            if let Err(error) = asked.host.run(|| self.image.read(offset + done, piece)) {
                return Ok((self.outcome(Err(error)), done));
            }
            asked.chain.write_at(asked.memory, done, piece)?;
            done += piece.len() as u64;
        }
        Ok((Outcome::Done, done))
    }

    fn write(&mut self, asked: &Asked<'_>, offset: u64, length: u64) -> Result<Result<(), BlockError>, Broken> {
        let mut done = 0;
        while done < length {
            let piece = buffer(&mut self.bounce, length - done);
            asked.chain.read_at(asked.memory, Request::HEADER + done, piece)?;
            if let Err(error) = asked.host.run(|| self.image.write(offset + done, piece)) {
                return Ok(Err(error));
            }
            done += piece.len() as u64;
        }
        Ok(Ok(()))
    }

    fn identify(&self, asked: &Asked<'_>, room: u64) -> Result<(Outcome, u64), Broken> {
        let mut serial = [0; SERIAL];
        // It is no longer; see `cli::disk`.
        for (place, byte) in serial.iter_mut().zip(self.image.serial().bytes()) {
            *place = byte;
        }
        let written = asked.chain.write_at(asked.memory, 0, &serial[..room.min(SERIAL as u64) as usize])?;
        Ok((Outcome::Done, written as u64))
    }

    fn zero(&mut self, extents: &[Extent]) -> Result<(), BlockError> {
        extents.iter().try_for_each(|extent| {
            let room = if extent.unmap { Zeroes::Unmap } else { Zeroes::Keep };
            self.image.write_zeroes(extent.offset, extent.length, room)
        })
    }

    fn outcome(&mut self, carried_out: Result<(), BlockError>) -> Outcome {
        match carried_out {
            Ok(()) => Outcome::Done,
            Err(error) => {
                self.complaints.about(&error);
                Outcome::Failed
            }
        }
    }

    /// The image must make the disk that the guest knows, or be the first one.
    fn recognize(&mut self, here: u64) -> Result<(), OtherDisk> {
        match self.capacity {
            Some(known) if known != here => {
                Err(OtherDisk { path: self.image.path().display().to_string(), here, known })
            }
            Some(_) => Ok(()),
            None => {
                self.capacity = Some(here);
                // Before any driver is there to be told.
                self.config.set(|bytes| bytes[..8].copy_from_slice(&(here / SECTOR).to_le_bytes()));
                Ok(())
            }
        }
    }
}

impl Backend for Block {
    fn kind(&self) -> Kind {
        Kind { id: 2, name: NAME, version: VERSION, queues: &[QUEUE] }
    }

    fn features(&self) -> u64 {
        use feature::{BLK_SIZE, DISCARD, FLUSH, RO, SEG_MAX, SIZE_MAX, TOPOLOGY, WRITE_ZEROES};
        let common = SIZE_MAX | SEG_MAX | BLK_SIZE | TOPOLOGY | FLUSH;
        match self.image.read_only() {
            true => common | RO,
            false => common | DISCARD | WRITE_ZEROES,
        }
    }

    fn config(&self) -> Arc<ConfigSpace> {
        self.config.clone()
    }

    fn start(&mut self, features: u64) {
        self.features = features;
    }

    fn reset(&mut self) {
        self.features = 0;
    }

    fn queue_ready(&mut self, index: usize, work: &mut Work<'_>) -> Result<(), Broken> {
        let (memory, host) = (work.memory, work.host);
        match work.rings.get_mut(index) {
            Some(ring) => ring.serve(memory, |chain| self.serve(&Asked { chain, memory, host })),
            None => Ok(()),
        }
    }

    /// Layout, version 1: u64 the disk's size in bytes.
    fn save(&self) -> Vec<u8> {
        let mut writer = StateWriter::default();
        writer.u64(self.capacity.unwrap_or(0));
        writer.finish()
    }

    fn layout(&self) -> &'static [Field] {
        &[Field("capacity", Type::U64)]
    }

    fn load(&mut self, version: u8, bytes: &[u8]) -> Result<(), StateError> {
        let mut reader = StateReader::new(NAME, version.into(), VERSION.into(), bytes)?;
        let capacity = reader.u64("capacity")?;
        if capacity == 0 || !capacity.is_multiple_of(SECTOR) {
            return Err(reader.impossible("capacity", capacity));
        }
        reader.finish()?;
        // Compared when the image is taken over.
        self.capacity = Some(capacity);
        Ok(())
    }

    fn release(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.image.close()?)
    }

    fn acquire(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let shape = self.image.open()?;
        if let Err(other) = self.recognize(shape.capacity) {
            self.image.close()?;
            return Err(other.into());
        }
        Ok(())
    }
}

/// As much of the bounce buffer as `left` needs.
fn buffer(bounce: &mut Vec<u8>, left: u64) -> &mut [u8] {
    let length = left.min(BOUNCE as u64) as usize;
    if bounce.len() < length {
        bounce.resize(length, 0);
    }
    &mut bounce[..length]
}

/// What the driver reads (section 5.2.4), but for the capacity, which comes with the image.
fn configuration() -> Vec<u8> {
    let mut writer = StateWriter::default();
    // Capacity in sectors.
    writer.u64(0);
    writer.u32(SEGMENT);
    writer.u32(SEGMENTS);
    // Cylinders, heads, sectors: not offered.
    writer.u32(0);
    writer.u32(SECTOR as u32);
    // Topology: the physical block, at which sector one begins, the least and the best length of a
    // request in sectors.
    writer.u8(PHYSICAL_EXPONENT);
    writer.u8(0);
    writer.bytes(&(1u16 << PHYSICAL_EXPONENT).to_le_bytes());
    writer.u32(0);
    // The cache's mode and the number of queues: not offered.
    writer.u32(0);
    writer.u32(DISCARD);
    writer.u32(EXTENTS);
    // Discards are of use from a physical block on.
    writer.u32(1 << PHYSICAL_EXPONENT);
    writer.u32(ZERO);
    writer.u32(EXTENTS);
    // Zeroes may give room back, and three unused bytes.
    writer.u32(1);
    writer.finish()
}

#[cfg(test)]
mod tests;
