//! [`Image`]: one disk's image.

use std::io;
use std::path::Path;
use std::sync::Arc;

use imago::{FormatAccess, Mapping, StorageExt};
use nix::unistd::{AccessFlags, access};

use super::chain::{Chain, refuse_no_disk};
use super::config::{DiskConfig, ImageFormat};
use super::storage::Guarded;
use super::{BlockError, Opened, Status};
use crate::sentence::sentence;

/// What a disk's capacity is counted in, in bytes, whatever the image's own units are.
pub const SECTOR: u64 = 512;
/// Zeroes are written in pieces of this many bytes where the format has no shorter way.
const ZEROES: usize = 64 << 10;

/// What two hosts must agree on before one goes on with the other's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Size of the disk in bytes, a multiple of 512.
    pub capacity: u64,
    /// Format of the image.
    pub format: ImageFormat,
}

/// What becomes of the room that zeroes take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroes {
    /// May be given back to the host.
    Unmap,
    /// Stays taken where it is.
    Keep,
}

enum State {
    /// Before [`Image::open`], and after [`Image::close`]: another process may have it.
    Closed,
    /// Open and locked.
    Open { chain: Box<Chain>, capacity: u64 },
}

/// A disk's image. It is in one process's hands at a time: [`Image::open`] takes it,
/// [`Image::close`] gives it away, and in between its files are locked.
///
/// Requests take plain bytes at byte offsets and return when the host has taken them; only
/// [`Image::flush`] makes them last.
pub struct Image {
    status: Arc<Status>,
    state: State,
}

impl Image {
    /// An image, closed. Looks only whether the file is there and may be opened, because on the
    /// destination of a migration it is still the source's.
    pub fn new(config: &DiskConfig) -> Result<Self, BlockError> {
        refuse_no_disk(&config.path)?;
        let wanted = match config.read_only {
            true => AccessFlags::R_OK,
            false => AccessFlags::R_OK | AccessFlags::W_OK,
        };
        access(&config.path, wanted)
            .map_err(|error| BlockError::Open { path: config.path.clone(), source: error.into() })?;
        Ok(Self { status: Arc::new(Status::new(config.clone())), state: State::Closed })
    }

    /// Opens and locks it, anew from the files: nothing of what an earlier opening knew is
    /// believed. Does nothing if it is open.
    pub fn open(&mut self) -> Result<Shape, BlockError> {
        let config = &self.status.config;
        if let State::Open { capacity, .. } = self.state {
            return Ok(Shape { capacity, format: config.format });
        }
        let chain = Box::new(Chain::open(config)?);
        let capacity = chain.image.size();
        if capacity == 0 || !capacity.is_multiple_of(SECTOR) {
            return Err(BlockError::Size { path: config.path.clone(), size: capacity });
        }
        let written = chain.written().map_err(|source| BlockError::Open { path: config.path.clone(), source })?;
        self.status.open(Opened { capacity, backing: chain.backing().to_vec() }, written);
        self.state = State::Open { chain, capacity };
        Ok(Shape { capacity, format: self.status.config.format })
    }

    /// Makes everything last, then closes and unlocks it: another process may take it. If that
    /// fails, it stays open. Does nothing if it is closed.
    pub fn close(&mut self) -> Result<(), BlockError> {
        if matches!(self.state, State::Closed) {
            return Ok(());
        }
        self.flush()?;
        self.status.close();
        self.state = State::Closed;
        Ok(())
    }

    /// Its capacity and format; `None` while it is closed.
    pub fn shape(&self) -> Option<Shape> {
        match self.state {
            State::Open { capacity, .. } => Some(Shape { capacity, format: self.status.config.format }),
            State::Closed => None,
        }
    }

    /// Whether it is only read.
    pub fn read_only(&self) -> bool {
        self.status.config.read_only
    }

    /// The serial number that the guest is shown; may be empty.
    pub fn serial(&self) -> &str {
        &self.status.config.serial
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.status.config.path
    }

    /// For the monitor, and whoever else is not its owner.
    pub fn status(&self) -> Arc<Status> {
        self.status.clone()
    }

    /// Fills `data` with what is at `offset`.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), BlockError> {
        let image = &self.range(offset, data.len() as u64)?.image;
        let read = image.read(data, offset);
        self.outcome("reading", read)
    }

    /// Puts `data` at `offset`. It lasts after the next [`Image::flush`].
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        let chain = self.writable_range(offset, data.len() as u64)?;
        let raw = chain.keeps_raw_data();
        let written = chain.change(offset, data.len() as u64, |image, at, length| {
            if raw {
                map(image, at, length)?;
            }
            let from = (at - offset) as usize;
            image.write(&data[from..from + length as usize], at)
        });
        self.outcome("writing to", written)
    }

    /// Makes what was written last through a loss of power: returns when the host says that its
    /// disk has it.
    pub fn flush(&mut self) -> Result<(), BlockError> {
        let read_only = self.read_only();
        let image = &self.range(0, 0)?.image;
        if read_only {
            return Ok(());
        }
        // The format's own caches into the file first, then the file onto the disk.
        let flushed = image.flush().and_then(|()| image.sync());
        self.outcome("flushing", flushed)
    }

    /// Says that these bytes are of no more use. What they hold afterwards is anything that they
    /// ever held, or zeroes.
    pub fn discard(&mut self, offset: u64, length: u64) -> Result<(), BlockError> {
        let chain = self.writable_range(offset, length)?;
        let raw = chain.keeps_raw_data();
        // Advice: where a format or file system cannot take it, nothing is lost.
        let discarded = change_what_is(chain, offset, length, |image, at, length| {
            // What the image says of a raw file, the file has to say, too: it says nothing new, and
            // the file gets what it can take.
            if raw { discard_through(image, at, length) } else { supported(image.discard_to_any(at, length)).map(drop) }
        });
        self.outcome("discarding a part of", discarded)
    }

    /// Has these bytes read as zeroes.
    pub fn write_zeroes(&mut self, offset: u64, length: u64, room: Zeroes) -> Result<(), BlockError> {
        let format = self.status.config.format;
        let chain = self.writable_range(offset, length)?;
        let through = format == ImageFormat::Raw || chain.keeps_raw_data();
        let zeroed = change_what_is(chain, offset, length, |image, at, length| {
            let done = match room {
                Zeroes::Unmap if format == ImageFormat::Raw => supported(image.discard_to_zero(at, length)),
                // A format without a map, or a raw file beside it: what is written to the file is
                // all there is.
                _ if through => zero_through(image, at, length, room).map(|()| true),
                Zeroes::Unmap => supported(image.discard_to_zero(at, length)),
                Zeroes::Keep => supported(image.write_zeroes(at, length)),
            };
            // qcow2 of version 2 has no mark for zeroes.
            if done? { Ok(()) } else { write_plain_zeroes(image, at, length) }
        });
        self.outcome("writing zeroes to", zeroed)
    }

    fn writable_range(&mut self, offset: u64, length: u64) -> Result<&mut Chain, BlockError> {
        match self.status.config.read_only {
            true => Err(BlockError::ReadOnly(self.path().to_owned())),
            false => self.range(offset, length),
        }
    }

    /// The open image, if these bytes are all inside.
    fn range(&mut self, offset: u64, length: u64) -> Result<&mut Chain, BlockError> {
        let path = &self.status.config.path;
        let State::Open { chain, capacity } = &mut self.state else {
            return Err(BlockError::Closed(path.clone()));
        };
        match offset.checked_add(length) {
            Some(end) if end <= *capacity => Ok(chain),
            _ => Err(BlockError::Range { path: path.clone(), offset, length, capacity: *capacity }),
        }
    }

    fn outcome(&self, what: &'static str, outcome: io::Result<()>) -> Result<(), BlockError> {
        outcome.map_err(|source| BlockError::Io { what, path: self.path().to_owned(), source })
    }
}

impl Drop for Image {
    /// A machine that ends without a word from its guest: what the guest was told is written, is.
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            log::error!("{}", sentence(&error));
        }
    }
}

/// Whether the format can do it at all.
fn supported(outcome: io::Result<()>) -> io::Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(false),
        Err(error) => Err(error),
    }
}

/// As [`Chain::change`], but leaves out what reads as zeroes already because nothing was ever
/// there.
fn change_what_is(
    chain: &mut Chain,
    offset: u64,
    length: u64,
    mut part: impl FnMut(&mut FormatAccess<Guarded>, u64, u64) -> io::Result<()>,
) -> io::Result<()> {
    let (mut at, end) = (offset, offset + length);
    while at < end {
        let until = chain.end_of_table(at).min(end);
        if !chain.is_empty(at) {
            chain.change(at, until - at, &mut part)?;
        }
        at = until;
    }
    Ok(())
}

/// Has these bytes of the disk be bytes of the file, zeroes if they were none, and so in the file's
/// tables: from then on what is written to the file is the disk's, whenever this process ends.
fn map(image: &FormatAccess<Guarded>, mut offset: u64, length: u64) -> io::Result<()> {
    let (end, mut new) = (offset + length, false);
    while offset < end {
        let (mapping, mapped) = image.get_mapping(offset, end - offset)?;
        let mapped = match mapping {
            Mapping::Raw { writable: true, .. } => mapped,
            _ => {
                new = true;
                image.ensure_data_mapping(offset, end - offset, false)?.2
            }
        };
        // Nothing is mapped beyond the end, which this is not.
        offset += mapped.max(1);
    }
    if new { image.flush() } else { Ok(()) }
}

/// Discards these bytes of the disk where they are in a file.
fn discard_through(image: &FormatAccess<Guarded>, mut offset: u64, length: u64) -> io::Result<()> {
    let end = offset + length;
    while offset < end {
        let (mapping, mapped) = image.get_mapping(offset, end - offset)?;
        if let Mapping::Raw { storage, offset, writable: true, .. } = mapping {
            storage.discard(offset, mapped)?;
        }
        // Nothing is mapped beyond the end, which this is not.
        offset += mapped.max(1);
    }
    Ok(())
}

/// Writes zeroes to where these bytes of the disk are in a file.
fn zero_through(image: &FormatAccess<Guarded>, mut offset: u64, length: u64, room: Zeroes) -> io::Result<()> {
    let end = offset + length;
    while offset < end {
        map(image, offset, end - offset)?;
        let (file, at, mapped) = image.ensure_data_mapping(offset, end - offset, true)?;
        match room {
            Zeroes::Unmap => file.write_zeroes(at, mapped)?,
            Zeroes::Keep => file.write_allocated_zeroes(at, mapped)?,
        }
        offset += mapped;
    }
    Ok(())
}

fn write_plain_zeroes(image: &FormatAccess<Guarded>, mut offset: u64, mut length: u64) -> io::Result<()> {
    let zeroes = [0; ZEROES];
    while length > 0 {
        let piece = length.min(ZEROES as u64);
        image.write(&zeroes[..piece as usize], offset)?;
        offset += piece;
        length -= piece;
    }
    Ok(())
}

#[cfg(test)]
mod killed;
#[cfg(test)]
mod tests;
