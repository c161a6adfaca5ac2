//! Disk images of any content, opened and used as a disk.
//!
//! First what is done with the disk, counted, then the image. It and what it may stand on are files
//! without a name, which an image can refer to by number; a slash, which would lead to files of the
//! host, is something else.

use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::fcntl::{FcntlArg, fcntl};
use whimbrel::block::{BlockError, Image, Zeroes};
use whimbrel::config::{DiskConfig, ImageFormat};
use whimbrel_postcopy::error::sentence;

use crate::input::{Input, counted};
use crate::{Seed, loaders, memory};

/// Numbers of the files: the image, a raw and a qcow2 one to stand on, and one to put data into.
const FIRST: i32 = 100;
const NAMES: [&str; 4] = ["100", "101", "102", "103"];
/// The disk of a seed, in bytes, and its clusters, the smallest that there are.
const SIZE: u64 = 64 << 10;
const CLUSTER: usize = 512;

/// What the next byte asks for.
mod step {
    pub const READ: u8 = 0;
    pub const WRITE: u8 = 1;
    pub const FLUSH: u8 = 2;
    pub const DISCARD: u8 = 3;
    pub const ZERO: u8 = 4;
    pub const REOPEN: u8 = 5;
    pub const COUNT: u8 = 6;
}

fn files() -> [File; NAMES.len()] {
    let files: [File; NAMES.len()] = NAMES.map(|name| {
        let number = fcntl(&loaders::memfd(name), FcntlArg::F_DUPFD_CLOEXEC(FIRST)).expect("a descriptor");
        assert_eq!(number.to_string(), name, "another file is in the way");
        // SAFETY: The kernel has just made it for us, and nobody else knows of it.
        unsafe { OwnedFd::from_raw_fd(number) }.into()
    });
    fill(&files[1], &[7; SIZE as usize]);
    fill(&files[2], &image(&[]));
    files
}

fn fill(file: &File, bytes: &[u8]) {
    file.set_len(0).expect("an empty file");
    file.write_all_at(bytes, 0).expect("room");
}

pub fn check(data: &[u8]) {
    static FILES: OnceLock<Mutex<[File; NAMES.len()]>> = OnceLock::new();
    let files = FILES.get_or_init(|| Mutex::new(files())).lock().unwrap_or_else(PoisonError::into_inner);
    let mut input = Input(data);
    let (Some(flags), Some(steps)) = (input.u8(), input.counted()) else { return };
    let tame: Vec<u8> = input.0.iter().map(|byte| if *byte == b'/' { b'_' } else { *byte }).collect();
    // The others are only read, but for the last.
    fill(&files[0], &tame);
    fill(&files[3], &[]);
    memory::limit(256 << 20);
    let config = DiskConfig {
        path: PathBuf::from("/proc/self/fd").join(NAMES[0]),
        format: ImageFormat::Qcow2,
        read_only: flags & 1 != 0,
        backing_format: None,
        serial: String::new(),
    };
    if let Err(error) = used(&config, steps) {
        assert!(!sentence(&error).contains('\n'));
    }
    memory::limit(512 << 20);
}

fn used(config: &DiskConfig, steps: &[u8]) -> Result<(), BlockError> {
    let mut image = Image::new(config)?;
    let capacity = image.open()?.capacity;
    let mut steps = Input(steps);
    let mut buffer = vec![0; 1 << 16];
    while let (Some(step), Some(at), Some(length)) = (steps.u8(), steps.u64(), steps.u16()) {
        let offset = at % capacity;
        let length = u64::from(length).min(capacity - offset);
        let part = &mut buffer[..length as usize];
        let done = match step % step::COUNT {
            step::READ => image.read(offset, part),
            step::WRITE => {
                part.fill(step);
                image.write(offset, part)
            }
            step::FLUSH => image.flush(),
            step::DISCARD => image.discard(offset, length),
            step::ZERO => image.write_zeroes(offset, length, if at & 1 == 0 { Zeroes::Unmap } else { Zeroes::Keep }),
            _ => image.close().and_then(|()| image.open()).map(drop),
        };
        if let Err(error) = done {
            assert!(!sentence(&error).is_empty());
        }
        if image.shape().is_none() {
            break;
        }
    }
    image.close()
}

/// What a header says beside the ordinary: a feature bit of those that must be known, a backing
/// file with its format, a data file.
#[derive(Default)]
struct Extra<'a> {
    features: u64,
    backing: Option<(&'a str, &'a str)>,
    data: Option<&'a str>,
}

/// An image of version 3: header, refcount table, refcount block, L1 table, L2 table and one
/// cluster of data, each in a cluster.
fn image(data: &[u8]) -> Vec<u8> {
    image_with(data, &Extra::default())
}

fn image_with(data: &[u8], extra: &Extra) -> Vec<u8> {
    const COPIED: u64 = 1 << 63;
    let at = |cluster: u64| cluster * CLUSTER as u64;
    let mut image = vec![0; 6 * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &3u32.to_be_bytes());
    put(20, &9u32.to_be_bytes());
    put(24, &SIZE.to_be_bytes());
    put(36, &2u32.to_be_bytes());
    put(40, &at(3).to_be_bytes());
    put(48, &at(1).to_be_bytes());
    put(56, &1u32.to_be_bytes());
    put(72, &extra.features.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    let mut next = 104;
    let mut extension = |kind: u32, text: &str| {
        put(next, &kind.to_be_bytes());
        put(next + 4, &(text.len() as u32).to_be_bytes());
        put(next + 8, text.as_bytes());
        next += 8 + text.len().next_multiple_of(8);
    };
    if let Some((_, format)) = extra.backing {
        extension(0xe279_2aca, format);
    }
    if let Some(name) = extra.data {
        extension(0x4441_5441, name);
    }
    if let Some((name, _)) = extra.backing {
        put(8, &(next as u64 + 8).to_be_bytes());
        put(16, &(name.len() as u32).to_be_bytes());
        put(next + 8, name.as_bytes());
    }
    put(CLUSTER, &at(2).to_be_bytes());
    for cluster in 0..6 {
        put(2 * CLUSTER + 2 * cluster, &1u16.to_be_bytes());
    }
    put(3 * CLUSTER, &(at(4) | COPIED).to_be_bytes());
    put(4 * CLUSTER, &(at(5) | COPIED).to_be_bytes());
    put(5 * CLUSTER, data);
    image
}

pub fn seeds() -> Vec<Seed> {
    let step = |kind: u8, at: u64, length: u16| [&[kind][..], &at.to_le_bytes(), &length.to_le_bytes()].concat();
    let steps = [
        step(step::READ, 0, 4096),
        step(step::WRITE, 100, 1000),
        step(step::WRITE, 40_000, 600),
        step(step::FLUSH, 0, 0),
        step(step::DISCARD, 512, 1024),
        step(step::ZERO, 2048, 600),
        step(step::ZERO, 4097, 512),
        step(step::REOPEN, 0, 0),
        step(step::READ, SIZE - 1, 1),
    ];
    let disk = |flags: u8, image: Vec<u8>| [&[flags][..], &counted(&steps.concat()), &image].concat();
    let backing = |name, format| image_with(&[], &Extra { backing: Some((name, format)), ..Extra::default() });
    let mut old = image(b"old");
    old[7] = 2;
    let mut lazy = image(b"lazy");
    lazy[87] = 1;
    let mut compressed = image(b"\x4b\x4c\x04\x82");
    compressed[4 * CLUSTER..4 * CLUSTER + 8].copy_from_slice(&(1u64 << 62 | 5 * CLUSTER as u64).to_be_bytes());
    vec![
        ("plain", disk(0, image(b"data"))),
        ("read-only", disk(1, image(b"data"))),
        ("version-2", disk(0, old)),
        ("lazy", disk(0, lazy)),
        ("compressed", disk(0, compressed)),
        ("dirty", disk(0, image_with(&[], &Extra { features: 1, ..Extra::default() }))),
        ("data-file", disk(0, image_with(&[], &Extra { features: 4, data: Some(NAMES[3]), ..Extra::default() }))),
        ("subclusters", disk(0, image_with(&[], &Extra { features: 16, ..Extra::default() }))),
        ("raw-backing", disk(0, backing(NAMES[1], "raw"))),
        ("qcow2-backing", disk(0, backing(NAMES[2], "qcow2"))),
        ("own-backing", disk(0, backing(NAMES[0], "qcow2"))),
        ("protocol", disk(0, backing("nbd:x", "raw"))),
    ]
}
