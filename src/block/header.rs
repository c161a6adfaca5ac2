//! What a qcow2 file says of itself in its header, read here before the crate sees it, because the
//! crate changes an image before it refuses it, does not look at the encryption, and reads no
//! header extensions in version 2, where QEMU has them, too.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::BlockError;
use super::lock::Access;

/// What every qcow2 header begins with.
const MAGIC: &[u8; 4] = b"QFI\xfb";
/// Bytes of a header of version 2.
const SHORT: u64 = 72;
/// Bytes of a header of version 3 that every reader knows.
const LONG: usize = 104;
/// Where the feature bits that a reader must know are, a big-endian u64.
pub const INCOMPATIBLE: u64 = 72;
/// Where the bits are that a writer must clear if it does not know them, a big-endian u64.
pub const AUTOCLEAR: u64 = 88;
/// Feature bits that a reader must know.
pub const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
/// The autoclear bit of an image whose external data file is a raw image by itself.
pub const RAW_DATA_FILE: u64 = 1 << 1;
/// Types of header extensions: none follows, and the backing file's format.
const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// The longest name of a format that is looked at, in bytes.
const MAX_FORMAT: u32 = 64;

/// A header of version 2 or 3, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub version: u32,
    /// The size of a cluster in bytes, as a power of two.
    pub cluster_bits: u32,
    pub encrypted: bool,
    /// Bytes of the disk.
    pub size: u64,
    pub l1_entries: u32,
    pub l1_offset: u64,
    pub refcounts_offset: u64,
    pub refcounts_clusters: u32,
    /// The bits of a reference count, as a power of two.
    pub refcount_order: u32,
    pub incompatible: u64,
    pub autoclear: u64,
    /// Whether there is a backing file.
    pub backed: bool,
    /// The backing file's format, if it is said.
    pub backing_format: Option<String>,
}

impl Header {
    /// Reads it; `None` for what is no qcow2 of version 2 or 3, or has impossible sizes: the crate
    /// refuses these with a better reason.
    pub fn read(file: &File) -> io::Result<Option<Self>> {
        let bytes: [u8; LONG] = read_padded(file, 0)?;
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
        let (version, cluster_bits) = (word(4), word(20));
        if !bytes.starts_with(MAGIC) || !matches!(version, 2 | 3) || !matches!(cluster_bits, 9..=21) {
            return Ok(None);
        }
        let of_three = |value: u64| if version == 3 { value } else { 0 };
        let extensions = if version == 3 { u64::from(word(100)) } else { SHORT };
        let header = Self {
            version,
            cluster_bits,
            encrypted: word(32) != 0,
            size: long(24),
            l1_entries: word(36),
            l1_offset: long(40),
            refcounts_offset: long(48),
            refcounts_clusters: word(56),
            refcount_order: if version == 3 { word(96) } else { 4 },
            incompatible: of_three(long(INCOMPATIBLE as usize)),
            autoclear: of_three(long(AUTOCLEAR as usize)),
            backed: long(8) != 0,
            backing_format: backing_format(file, extensions, 1 << cluster_bits, long(8))?,
        };
        Ok((header.refcount_order <= 6).then_some(header))
    }

    /// Refuses what cannot be read, or not be written, as it should be.
    pub fn check(&self, path: &Path, access: Access) -> Result<(), BlockError> {
        let writable = access == Access::Write;
        let name = path.display();
        let repair = || format!("repair it with 'qemu-img check -r all {name}'");
        let convert = || format!("make another of it with 'qemu-img convert -O qcow2 {name} NEW'");
        let refuse = |what: String, advice: String| Err(BlockError::Feature { path: path.to_owned(), what, advice });
        if self.encrypted {
            return Err(BlockError::Encrypted(path.to_owned()));
        }
        let bits = self.incompatible;
        let unknown = bits & !(DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2);
        if unknown != 0 {
            let what = format!("has a feature that is not known (bit {})", unknown.trailing_zeros());
            return refuse(what, "make one without it ('qemu-img convert' of a newer QEMU)".into());
        }
        if bits & EXTENDED_L2 != 0 {
            return refuse("has extended L2 entries, which are not supported".into(), convert());
        }
        if bits & COMPRESSION != 0 {
            return refuse("is compressed otherwise than with deflate, which is not supported".into(), convert());
        }
        if bits & CORRUPT != 0 {
            return refuse("is marked corrupt".into(), repair());
        }
        // Who only reads needs no reference counts, and those are what may be wrong.
        if bits & DIRTY != 0 && writable {
            let what = "is marked dirty: it was not closed by who wrote to it last, and counts its clusters wrongly";
            return refuse(what.into(), repair());
        }
        // QEMU makes none such, and refuses it. The crate would move the table.
        if writable && self.size.div_ceil(1 << self.table_bits()) > self.l1_entries.into() {
            return refuse("is damaged: its L1 table is too short for its size".into(), "take a copy of it".into());
        }
        if self.keeps_raw_data() && self.backed && writable {
            let what = "has a backing file, beside a data file that is to be a raw image by itself (data_file_raw)";
            return refuse(what.into(), "open it with 'readonly', or convert it with 'qemu-img convert'".into());
        }
        Ok(())
    }

    /// Whether the external data file is to be a raw image by itself at any time.
    pub fn keeps_raw_data(&self) -> bool {
        self.incompatible & DATA_FILE != 0 && self.autoclear & RAW_DATA_FILE != 0
    }

    /// Bytes of the disk that one L2 table maps, as a power of two.
    pub fn table_bits(&self) -> u32 {
        self.cluster_bits + self.cluster_bits - 3
    }
}

/// The name in the extension, which lies with its fellows between `at` and the end of the first
/// cluster or the backing file's name.
fn backing_format(file: &File, mut at: u64, cluster: u64, name: u64) -> io::Result<Option<String>> {
    let end = if name > at && name < cluster { name } else { cluster };
    while at.saturating_add(8) <= end {
        let [a, b, c, d, e, f, g, h] = read_padded::<8>(file, at)?;
        let (kind, length) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        at += 8;
        match kind {
            END => break,
            BACKING_FORMAT if length <= MAX_FORMAT && at + u64::from(length) <= end => {
                let bytes = read_padded::<{ MAX_FORMAT as usize }>(file, at)?;
                return Ok(Some(String::from_utf8_lossy(&bytes[..length as usize]).into_owned()));
            }
            _ => at += u64::from(length).next_multiple_of(8),
        }
    }
    Ok(None)
}

/// Bytes of the file, zeroes beyond its end: so the crate reads tables.
fn read_padded<const N: usize>(file: &File, at: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut done = 0;
    while done < N {
        let Some(place) = at.checked_add(done as u64) else { break };
        match file.read_at(&mut bytes[done..], place) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}
