//! What a driver asks of a disk (virtio 1.2, section 5.2.6), read out of its chain and checked as
//! far as that goes without the disk.

use super::{DISCARD, EXTENTS, LONGEST, SECTOR, ZERO};
use crate::devices::virtio::{Broken, Chain};
use crate::kvm::GuestMemory;

/// How a request ended: its status byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Outcome {
    Done = 0,
    Failed = 1,
    Unsupported = 2,
}

/// A part of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// In bytes.
    pub offset: u64,
    /// In bytes.
    pub length: u64,
    /// Whether its room may be given back.
    pub unmap: bool,
}

/// A request that makes sense. Whether the disk is large enough for it is for the disk to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Read { offset: u64, length: u64 },
    Write { offset: u64, length: u64 },
    Flush,
    Identify { room: u64 },
    Discard(Vec<Extent>),
    Zero(Vec<Extent>),
}

/// Types.
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARDS: u32 = 11;
const WRITE_ZEROES: u32 = 13;
/// An extent's only flag.
const UNMAP: u32 = 1;
/// Bytes of an extent: u64 first sector, u32 sectors, u32 flags.
const EXTENT: u64 = 16;

impl Request {
    /// Bytes of what comes before the data: u32 type, u32 reserved, u64 sector.
    pub const HEADER: u64 = 16;

    /// The request in `chain`, whose last writable byte is the status's. How the driver cut it into
    /// segments does not matter (section 5.2.6.1). The inner error is the answer to what makes no
    /// sense.
    pub fn read(chain: &Chain, memory: &GuestMemory) -> Result<Result<Self, Outcome>, Broken> {
        let mut header = [0; Self::HEADER as usize];
        if chain.read_at(memory, 0, &mut header)? < header.len() {
            return Err(Broken(format!("a disk request's header has only {} bytes", chain.readable_bytes())));
        }
        let [t0, t1, t2, t3, _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = header;
        let kind = u32::from_le_bytes([t0, t1, t2, t3]);
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let sent = chain.readable_bytes() - Self::HEADER;
        let room = chain.writable_bytes().saturating_sub(1);
        Ok(match kind {
            IN if sent == 0 => data(sector, room).map(|(offset, length)| Self::Read { offset, length }),
            OUT if room == 0 => data(sector, sent).map(|(offset, length)| Self::Write { offset, length }),
            FLUSH => Ok(Self::Flush),
            GET_ID => Ok(Self::Identify { room }),
            DISCARDS => extents(chain, memory, sent, (DISCARD, 0))?.map(Self::Discard),
            WRITE_ZEROES => extents(chain, memory, sent, (ZERO, UNMAP))?.map(Self::Zero),
            // Data in the wrong direction.
            IN | OUT => Err(Outcome::Failed),
            _ => Err(Outcome::Unsupported),
        })
    }
}

/// Where `length` bytes from `sector` on are.
fn data(sector: u64, length: u64) -> Result<(u64, u64), Outcome> {
    match sector.checked_mul(SECTOR) {
        Some(offset) if length.is_multiple_of(SECTOR) && length <= LONGEST => Ok((offset, length)),
        _ => Err(Outcome::Failed),
    }
}

/// The extents in the `sent` bytes after the header, each of `most` sectors at most and with no
/// flags but `known`.
fn extents(
    chain: &Chain,
    memory: &GuestMemory,
    sent: u64,
    (most, known): (u32, u32),
) -> Result<Result<Vec<Extent>, Outcome>, Broken> {
    if sent == 0 || !sent.is_multiple_of(EXTENT) || sent > u64::from(EXTENTS) * EXTENT {
        return Ok(Err(Outcome::Failed));
    }
    let mut bytes = vec![0; sent as usize];
    chain.read_at(memory, Request::HEADER, &mut bytes)?;
    Ok(bytes.as_chunks().0.iter().map(|bytes| extent(bytes, most, known)).collect())
}

fn extent(bytes: &[u8; EXTENT as usize], most: u32, known: u32) -> Result<Extent, Outcome> {
    let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = *bytes;
    let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
    let flags = u32::from_le_bytes([f0, f1, f2, f3]);
    if flags & !known != 0 {
        return Err(Outcome::Unsupported);
    }
    let offset = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]).checked_mul(SECTOR);
    match offset {
        Some(offset) if sectors <= most => {
            Ok(Extent { offset, length: u64::from(sectors) * SECTOR, unmap: flags & UNMAP != 0 })
        }
        _ => Err(Outcome::Failed),
    }
}
