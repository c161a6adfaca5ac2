//! [`Guarded`]: a file as the crate has it, with what must come before a write done first (see
//! `tables`).
//!
//! The crate's trait has unsafe methods, so this is one of the files with unsafe code: it hands
//! requests on as they came.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use imago::file::File;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;
use imago::{Storage, StorageExt};

use super::header::{AUTOCLEAR, DIRTY, INCOMPATIBLE};
use super::tables::Tables;

/// What a file is to its image.
#[derive(Debug)]
pub enum Role {
    /// All of a raw image.
    Plain,
    /// A qcow2 file that is only read.
    Read,
    /// A qcow2 file that is written to.
    Metadata(Arc<Tables>),
    /// The external data file of one.
    Data(Arc<Tables>),
}

/// See the module's text.
#[derive(Debug)]
pub struct Guarded {
    file: Arc<File>,
    role: Role,
    // Not the file's own: what is written on the way of a write would wait for itself there.
    helper: CommonStorageHelper,
}

impl Guarded {
    pub fn new(file: Arc<File>, role: Role) -> Self {
        Self { file, role, helper: CommonStorageHelper::default() }
    }

    /// What comes before anything else than the roots of tables is written.
    fn before(&self) -> io::Result<()> {
        match &self.role {
            Role::Plain | Role::Read => Ok(()),
            Role::Metadata(tables) => tables.begin().and_then(|()| tables.settle()),
            Role::Data(tables) => tables.begin(),
        }
    }
}

impl Display for Guarded {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        self.file.fmt(to)
    }
}

/// Takes from what was read of a header what the crate need not know: that reference counts may be
/// wrong, for who only reads, and the bits that a writer clears. The crate would do so at the
/// opening; it is done when something is written.
fn hide(bytes: &mut [u8], offset: u64) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        match offset + index as u64 {
            // The lowest byte.
            at if at == INCOMPATIBLE + 7 => *byte &= !(DIRTY as u8),
            at if (AUTOCLEAR..AUTOCLEAR + 8).contains(&at) => *byte = 0,
            _ => {}
        }
    }
}

impl Storage for Guarded {
    fn mem_align(&self) -> usize {
        self.file.mem_align()
    }

    fn req_align(&self) -> usize {
        self.file.req_align()
    }

    fn zero_align(&self) -> usize {
        self.file.zero_align()
    }

    fn discard_align(&self) -> usize {
        self.file.discard_align()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn get_filename(&self) -> Option<PathBuf> {
        self.file.get_filename()
    }

    unsafe fn pure_readv(&self, bufv: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        // Only a qcow2 file has such bits there.
        if offset >= AUTOCLEAR + 8 || matches!(self.role, Role::Plain | Role::Data(_)) {
            // SAFETY: The alignments are the file's, and the caller vouches for the request.
            return unsafe { self.file.pure_readv(bufv, offset) };
        }
        let mut bytes = vec![0; bufv.len() as usize];
        let mut bufv = bufv;
        self.file.read(bytes.as_mut_slice(), offset)?;
        hide(&mut bytes, offset);
        bufv.copy_from_slice(&bytes);
        Ok(())
    }

    unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        if let Role::Metadata(tables) = &self.role
            && tables.concerns(offset, bufv.len())
        {
            let mut bytes = vec![0; bufv.len() as usize];
            bufv.copy_into_slice(&mut bytes);
            return tables.write(&bytes, offset);
        }
        self.before()?;
        #[cfg(test)]
        let bufv = {
            let taken = super::fuse::takes(bufv.len())?;
            bufv.split_at(taken).0
        };
        // SAFETY: The alignments are the file's, and the caller vouches for the request.
        unsafe { self.file.pure_writev(bufv, offset) }
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.before()?;
        #[cfg(test)]
        if super::fuse::takes(length)? < length {
            return Ok(());
        }
        // SAFETY: The alignments are the file's, and the caller vouches for the request.
        unsafe { self.file.pure_write_zeroes(offset, length) }
    }

    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.before()?;
        #[cfg(test)]
        if super::fuse::takes(length)? < length {
            return Ok(());
        }
        // SAFETY: The alignments are the file's, and the caller vouches for the request.
        unsafe { self.file.pure_write_allocated_zeroes(offset, length) }
    }

    unsafe fn pure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.before()?;
        #[cfg(test)]
        if super::fuse::takes(length)? < length {
            return Ok(());
        }
        // SAFETY: The alignments are the file's, and the caller vouches for the request.
        unsafe { self.file.pure_discard(offset, length) }
    }

    fn flush(&self) -> io::Result<()> {
        if let Role::Metadata(tables) = &self.role {
            tables.settle()?;
        }
        self.file.flush()
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        // SAFETY: The caller vouches for it.
        unsafe { self.file.invalidate_cache() }
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }
}
