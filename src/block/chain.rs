//! Opening an image together with every file that it stands on, each one locked before its first byte is read.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use imago::file::File;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{FormatAccess, StorageOpenOptions};

use super::BlockError;
use super::lock::{Access, Lock};
use crate::config::ImageFormat;

/// Where a qcow2 header has its encryption method, a big-endian u32; 0 is none.
const CRYPT_METHOD: u64 = 32;
/// What every qcow2 header begins with.
const MAGIC: &[u8; 4] = b"QFI\xfb";

/// An image and the files under it, open.
#[derive(Debug)]
pub struct Chain {
    // The image before the locks: fields are dropped in this order, and dropping the image may write.
    pub(super) image: FormatAccess<File>,
    files: Files,
}

impl Chain {
    /// Opens and locks `path` for `access`, and what it stands on for reading.
    pub fn open(path: &Path, format: ImageFormat, access: Access) -> Result<Self, BlockError> {
        let mut files = Files::default();
        let image = files.open_image(path, format, access)?;
        Ok(Self { image, files })
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
}

impl Files {
    fn open_image(
        &mut self,
        path: &Path,
        format: ImageFormat,
        access: Access,
    ) -> Result<FormatAccess<File>, BlockError> {
        let file = self.open_file(path, access)?;
        let writable = access == Access::Write;
        match format {
            ImageFormat::Raw => {
                let file = storage(file, path, writable)?;
                let raw = Raw::open_image(file, writable).map_err(|source| damaged(path, format, source))?;
                Ok(FormatAccess::new(raw))
            }
            ImageFormat::Qcow2 => {
                refuse_encrypted(&file, path)?;
                if writable {
                    refuse_free_header(&file, path)?;
                }
                let file = storage(file, path, writable)?;
                let qcow2 = Qcow2::open_image(file, writable).map_err(|source| damaged(path, format, source))?;
                self.complete(qcow2, path, access).map(FormatAccess::new)
            }
        }
    }

    /// Opens what the header of `qcow2` refers to. Not left to imago, which would take no locks, and guess a format that is not given.
    fn complete(&mut self, mut qcow2: Qcow2<File>, path: &Path, access: Access) -> Result<Qcow2<File>, BlockError> {
        if qcow2.requires_external_data_file() {
            let Some(name) = qcow2.implicit_external_data_file() else {
                return Err(BlockError::Reference { path: path.to_owned(), name: "a nameless data file".to_owned() });
            };
            let data = resolve(path, name)?;
            let file = self.open_file(&data, access)?;
            qcow2.set_data_file(Some(storage(file, &data, access == Access::Write)?));
        }
        let Some(name) = qcow2.implicit_backing_file() else {
            return Ok(qcow2);
        };
        let format = match qcow2.implicit_backing_format().map(String::as_str) {
            Some("raw" | "file" | "host_device") => ImageFormat::Raw,
            Some("qcow2") => ImageFormat::Qcow2,
            Some(other) => {
                return Err(BlockError::Reference { path: path.to_owned(), name: format!("{name} ({other})") });
            }
            None => return Err(BlockError::BackingFormat { path: path.to_owned(), backing: name.clone() }),
        };
        let backing = resolve(path, name)?;
        self.backing.push(backing.clone());
        qcow2.set_backing(Some(self.open_image(&backing, format, Access::Read)?));
        Ok(qcow2)
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

/// The crate does not look at the encryption method.
fn refuse_encrypted(file: &fs::File, path: &Path) -> Result<(), BlockError> {
    let mut magic = [0; MAGIC.len()];
    let mut method = [0; 4];
    let read = file.read_exact_at(&mut magic, 0).and_then(|()| file.read_exact_at(&mut method, CRYPT_METHOD));
    // What is too short or something else, the crate refuses with a better reason.
    if read.is_ok() && &magic == MAGIC && method != [0; 4] {
        return Err(BlockError::Encrypted(path.to_owned()));
    }
    Ok(())
}

/// Where a qcow2 header has the bits of a cluster's size, the refcount table's place and length, and the bits of a
/// refcount, both as powers of two.
const CLUSTER_BITS: u64 = 20;
const REFCOUNT_TABLE: u64 = 48;
const REFCOUNT_CLUSTERS: u64 = 56;
const REFCOUNT_ORDER: u64 = 96;
/// Bits of a table's entry that are a place in the file.
const PLACE: u64 = !0x1ff;

/// An image that counts the cluster of its own header as free: the first write would go there, and a guest that wrote another header could
/// be given any file of this host the next time. Where not even the table has an entry for it, the crate looks for one without end.
fn refuse_free_header(file: &fs::File, path: &Path) -> Result<(), BlockError> {
    match header_refcount(file) {
        Ok(Some(0)) => {
            let free = "it counts its own header as free; repair it with 'qemu-img check -r all'";
            Err(damaged(path, ImageFormat::Qcow2, std::io::Error::other(free)))
        }
        // What is too short or something else, the crate refuses with a better reason.
        _ => Ok(()),
    }
}

/// How often the first cluster is used, as far as it matters: zero or not. `None` if this is no qcow2.
fn header_refcount(file: &fs::File) -> std::io::Result<Option<u64>> {
    let word = |at| read_padded(file, at).map(u32::from_be_bytes);
    let long = |at| read_padded(file, at).map(u64::from_be_bytes);
    let order = match (word(0)?.to_be_bytes() == *MAGIC, word(4)?) {
        (true, 2) => 4,
        (true, 3) => word(REFCOUNT_ORDER)?,
        _ => return Ok(None),
    };
    let (9..=21, 0..=6) = (word(CLUSTER_BITS)?, order) else { return Ok(None) };
    if word(REFCOUNT_CLUSTERS)? == 0 {
        return Ok(Some(0));
    }
    let block = long(long(REFCOUNT_TABLE)?)? & PLACE;
    if block == 0 {
        return Ok(Some(0));
    }
    let first = long(block)?;
    // Those of less than a byte begin at its lowest bits.
    Ok(Some(match order {
        0..=2 => first >> 56 & ((1 << (1 << order)) - 1),
        _ => first >> (64 - (1 << order)),
    }))
}

/// Bytes of the file, zeroes beyond its end: so the crate reads tables.
fn read_padded<const N: usize>(file: &fs::File, at: u64) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut done = 0;
    while done < N {
        let Some(place) = at.checked_add(done as u64) else { break };
        match file.read_at(&mut bytes[done..], place) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

fn storage(file: fs::File, path: &Path, writable: bool) -> Result<File, BlockError> {
    let options = StorageOpenOptions::new().filename(path).write(writable);
    File::from_open_file(file, options).map_err(|source| BlockError::Open { path: path.to_owned(), source })
}

fn damaged(path: &Path, format: ImageFormat, source: std::io::Error) -> BlockError {
    BlockError::Format { path: path.to_owned(), format, source }
}

/// The file that the header of `image` names. A name with a colon before any slash is a protocol (`nbd:`, `json:`) to QEMU.
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
