//! Opening an image together with every file that it stands on, each one locked before its first
//! byte is read.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imago::file::File;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{FormatAccess, StorageOpenOptions};

use super::BlockError;
use super::config::{DiskConfig, ImageFormat};
use super::header::Header;
use super::lock::{Access, Lock};
use super::storage::{Guarded, Role};
use super::tables::Tables;

/// An image and the files under it, open.
#[derive(Debug)]
pub struct Chain {
    // The image before the locks: fields are dropped in this order, and dropping the image may
    // write.
    pub(super) image: FormatAccess<Guarded>,
    /// Those of a qcow2 image that is written to.
    tables: Option<Arc<Tables>>,
    files: Files,
}

/// An image, and its tables if it is a qcow2 image that is written to.
struct Opened {
    image: FormatAccess<Guarded>,
    tables: Option<Arc<Tables>>,
}

impl Chain {
    /// Opens and locks the image that `config` names, and what it stands on for reading. Nothing in
    /// any of the files is changed before something is written to the image.
    pub fn open(config: &DiskConfig) -> Result<Self, BlockError> {
        let access = if config.read_only { Access::Read } else { Access::Write };
        let mut files = Files { backing_format: config.backing_format, ..Files::default() };
        let Opened { image, tables } = files.open_image(&config.path, config.format, access)?;
        files.refuse_unused_format(&config.path)?;
        Ok(Self { image, tables, files })
    }

    /// Has `part` change some of the disk: the whole at once, or where tables are missing one
    /// table's part after the other. Before a table is made, what was freed is free in the file,
    /// too.
    pub fn change(
        &mut self,
        offset: u64,
        length: u64,
        mut part: impl FnMut(&mut FormatAccess<Guarded>, u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(tables) = self.tables.as_ref().filter(|tables| tables.lacks(offset, length)) else {
            return part(&mut self.image, offset, length);
        };
        // Not beyond the disk's end, and so no overflow.
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let until = end.min(tables.end_of_table(at));
            if tables.lacks(at, until - at) {
                self.image.flush()?;
            }
            part(&mut self.image, at, until - at)?;
            at = until;
        }
        Ok(())
    }

    /// Where the part of the disk ends that has its mapping in one table with the byte at `offset`;
    /// without tables, the disk has one part.
    pub fn end_of_table(&self, offset: u64) -> u64 {
        self.tables.as_ref().map_or(u64::MAX, |tables| tables.end_of_table(offset))
    }

    /// Whether that part reads as zeroes because nothing was ever written to it.
    pub fn is_empty(&self, offset: u64) -> bool {
        self.files.backing.is_empty() && self.tables.as_ref().is_some_and(|tables| tables.is_unmapped(offset))
    }

    /// Whether the external data file is to be a raw image by itself.
    pub fn keeps_raw_data(&self) -> bool {
        self.tables.as_ref().is_some_and(|tables| tables.keeps_raw_data())
    }

    /// The backing files, from the image downwards.
    pub fn backing(&self) -> &[PathBuf] {
        &self.files.backing
    }

    /// Further descriptors of the files that are written to.
    pub fn written(&self) -> std::io::Result<Vec<fs::File>> {
        self.files.locks.iter().filter(|lock| lock.access() == Access::Write).map(Lock::file).collect()
    }
}

/// The files of a chain, as they are opened one by one.
#[derive(Debug, Default)]
struct Files {
    locks: Vec<Lock>,
    /// Device and inode of each, to notice a chain that closes on itself.
    seen: Vec<(u64, u64)>,
    backing: Vec<PathBuf>,
    /// What files are whose format their image does not say.
    backing_format: Option<ImageFormat>,
    /// Whether that was of use.
    format_used: bool,
}

impl Files {
    fn open_image(&mut self, path: &Path, format: ImageFormat, access: Access) -> Result<Opened, BlockError> {
        let file = self.open_file(path, access)?;
        let writable = access == Access::Write;
        let damaged = |source| BlockError::Format { path: path.to_owned(), format, source };
        match format {
            ImageFormat::Raw => {
                let file = Guarded::new(storage(file, path, writable)?, Role::Plain);
                let raw = Raw::open_image(file, writable).map_err(damaged)?;
                Ok(Opened { image: FormatAccess::new(raw), tables: None })
            }
            ImageFormat::Qcow2 => {
                let header = Header::read(&file).map_err(damaged)?;
                if let Some(header) = &header {
                    header.check(path, access)?;
                }
                let file = storage(file, path, writable)?;
                let tables = match &header {
                    Some(header) if writable => Some(tables(&file, header, path)?),
                    _ => None,
                };
                let role = tables.clone().map_or(Role::Read, Role::Metadata);
                let qcow2 = Qcow2::open_image(Guarded::new(file, role), writable).map_err(damaged)?;
                let Some(Header { backing_format: said, .. }) = header else {
                    return Err(damaged(io::Error::other("it has impossible sizes")));
                };
                let qcow2 = self.complete(qcow2, path, said, tables.as_ref())?;
                Ok(Opened { image: FormatAccess::new(qcow2), tables })
            }
        }
    }

    /// Opens what the header of `qcow2` refers to. Not left to imago, which would take no locks,
    /// and guess a format that is not given.
    fn complete(
        &mut self,
        mut qcow2: Qcow2<Guarded>,
        path: &Path,
        said: Option<String>,
        tables: Option<&Arc<Tables>>,
    ) -> Result<Qcow2<Guarded>, BlockError> {
        if qcow2.requires_external_data_file() {
            let Some(name) = qcow2.implicit_external_data_file() else {
                return Err(BlockError::Reference { path: path.to_owned(), name: "a nameless data file".to_owned() });
            };
            let data = resolve(path, name)?;
            let (access, role) = match tables {
                Some(tables) => (Access::Write, Role::Data(tables.clone())),
                None => (Access::Read, Role::Plain),
            };
            let file = storage(self.open_file(&data, access)?, &data, access == Access::Write)?;
            qcow2.set_data_file(Some(Guarded::new(file, role)));
        }
        let Some(name) = qcow2.implicit_backing_file() else {
            return Ok(qcow2);
        };
        let format = match (said.as_deref(), self.backing_format) {
            (Some("raw" | "file" | "host_device"), _) => ImageFormat::Raw,
            (Some("qcow2"), _) => ImageFormat::Qcow2,
            (Some(other), _) => {
                return Err(BlockError::Reference { path: path.to_owned(), name: format!("{name} ({other})") });
            }
            (None, Some(format)) => {
                self.format_used = true;
                format
            }
            (None, None) => return Err(BlockError::BackingFormat { path: path.to_owned(), backing: name.clone() }),
        };
        self.format_used |= Some(format) == self.backing_format;
        let backing = resolve(path, name)?;
        self.backing.push(backing.clone());
        qcow2.set_backing(Some(self.open_image(&backing, format, Access::Read)?.image));
        Ok(qcow2)
    }

    /// An option that says something else than all the images do is a mistake.
    fn refuse_unused_format(&self, path: &Path) -> Result<(), BlockError> {
        match self.backing_format {
            Some(format) if !self.format_used => {
                Err(BlockError::NoSuchBacking { path: path.to_owned(), format, backed: !self.backing.is_empty() })
            }
            _ => Ok(()),
        }
    }

    fn open_file(&mut self, path: &Path, access: Access) -> Result<fs::File, BlockError> {
        let open = |source| BlockError::Open { path: path.to_owned(), source };
        // Asked of the path first, because opening a FIFO waits for its other end...
        refuse_no_disk(path)?;
        let file = OpenOptions::new().read(true).write(access == Access::Write).open(path).map_err(open)?;
        // ... then of the file that it came to be.
        let metadata = file.metadata().map_err(open)?;
        let identity = (metadata.dev(), metadata.ino());
        if self.seen.contains(&identity) {
            return Err(BlockError::Loop(path.to_owned()));
        }
        self.seen.push(identity);
        self.locks.push(Lock::take(&file, path, access)?);
        Ok(file)
    }
}

/// Whether `path` is there and is something that can hold an image.
pub fn refuse_no_disk(path: &Path) -> Result<(), BlockError> {
    let metadata = fs::metadata(path).map_err(|source| BlockError::Open { path: path.to_owned(), source })?;
    match metadata.is_file() || metadata.file_type().is_block_device() {
        true => Ok(()),
        false => Err(BlockError::NotADisk(path.to_owned())),
    }
}

fn storage(file: fs::File, path: &Path, writable: bool) -> Result<Arc<File>, BlockError> {
    let options = StorageOpenOptions::new().filename(path).write(writable);
    let file = File::from_open_file(file, options);
    file.map(Arc::new).map_err(|source| BlockError::Open { path: path.to_owned(), source })
}

/// Those of an image that is to be written to. What counts a cluster that it relies on as free is
/// refused: the first write would go there. With the header's own, a guest could write another
/// header, and be given any file of this host the next time; where not even the table has an entry
/// for it, the crate looks for one without end.
fn tables(file: &Arc<File>, header: &Header, path: &Path) -> Result<Arc<Tables>, BlockError> {
    let damaged = |source| BlockError::Format { path: path.to_owned(), format: ImageFormat::Qcow2, source };
    let tables = Tables::read(file.clone(), header.clone()).map_err(damaged)?;
    match tables.counted_as_free().map_err(damaged)? {
        None => Ok(Arc::new(tables)),
        Some(part) => Err(BlockError::Feature {
            path: path.to_owned(),
            what: format!("counts the place of its own {part} as free"),
            advice: format!("repair it with 'qemu-img check -r all {}'", path.display()),
        }),
    }
}

/// The file that the header of `image` names. A name with a colon before any slash is a protocol
/// (`nbd:`, `json:`) to QEMU.
fn resolve(image: &Path, name: &str) -> Result<PathBuf, BlockError> {
    let file = name.strip_prefix("file:").unwrap_or(name);
    let first = file.split('/').next().unwrap_or_default();
    if file.is_empty() || first.contains(':') {
        return Err(BlockError::Reference { path: image.to_owned(), name: name.to_owned() });
    }
    // An absolute name replaces the directory.
    Ok(image.parent().unwrap_or(Path::new("")).join(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_headers_are_relative_to_the_image() {
        let resolve = |name| resolve(Path::new("/disks/top.qcow2"), name);
        assert_eq!(resolve("base.qcow2").unwrap(), Path::new("/disks/base.qcow2"));
        assert_eq!(resolve("../a:b").unwrap(), Path::new("/disks/../a:b"));
        assert_eq!(resolve("/else/where").unwrap(), Path::new("/else/where"));
        assert_eq!(resolve("file:base").unwrap(), Path::new("/disks/base"));
        for name in ["", "file:", "nbd://host/x", "json:{}", "nbd:unix:/s"] {
            assert!(matches!(resolve(name), Err(BlockError::Reference { .. })), "{name}");
        }
    }
}
