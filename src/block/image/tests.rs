use std::fs;
use std::path::{Path, PathBuf};

use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{FormatCreateBuilder, Storage, StorageCreateOptions};
use tempfile::TempDir;

use super::*;

const SIZE: u64 = 1 << 20;

struct Room(TempDir);

impl Room {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn raw(&self, name: &str, content: u8) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, vec![content; SIZE as usize]).unwrap();
        path
    }

    fn qcow2(&self, name: &str, backing: Option<(&str, &str)>) -> PathBuf {
        let path = self.path(name);
        let file = File::create_open(StorageCreateOptions::new().filename(&path)).unwrap();
        let mut builder = Qcow2::<File>::create_builder(file).size(SIZE);
        if let Some((name, format)) = backing {
            builder = builder.backing(name.to_owned(), format.to_owned());
        }
        builder.create().unwrap();
        path
    }
}

pub(super) fn config(path: &Path, format: ImageFormat) -> DiskConfig {
    DiskConfig { path: path.to_owned(), format, read_only: false, backing_format: None, serial: String::new() }
}

pub(super) fn open(path: &Path, format: ImageFormat) -> Result<Image, BlockError> {
    let mut image = Image::new(&config(path, format))?;
    image.open().map(|_| image)
}

fn open_read_only(path: &Path, format: ImageFormat) -> Result<Image, BlockError> {
    let mut image = Image::new(&DiskConfig { read_only: true, ..config(path, format) })?;
    image.open().map(|_| image)
}

fn read(image: &mut Image, offset: u64, length: usize) -> Vec<u8> {
    let mut data = vec![0xee; length];
    image.read(offset, &mut data).unwrap();
    data
}

/// Overwrites bytes of a file.
fn patch(path: &Path, at: usize, with: &[u8]) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at..at + with.len()].copy_from_slice(with);
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_written_is_there_after_closing_and_opening() {
    let room = Room::new();
    for (path, format) in [(room.raw("raw", 0), ImageFormat::Raw), (room.qcow2("qcow2", None), ImageFormat::Qcow2)] {
        let mut image = open(&path, format).unwrap();
        assert_eq!(image.shape(), Some(Shape { capacity: SIZE, format }));
        // Across a cluster's border, at no sector's border.
        image.write(65_536 - 700, &[7; 1401]).unwrap();
        image.write(SIZE - 1, &[9]).unwrap();
        image.flush().unwrap();
        image.close().unwrap();
        image.open().unwrap();
        let data = read(&mut image, 65_536 - 701, 1403);
        assert_eq!((data[0], &data[1..1402], data[1402]), (0, &[7; 1401][..], 0));
        assert_eq!(read(&mut image, SIZE - 2, 2), [0, 9]);
    }
}

#[test]
fn a_flush_leaves_nothing_in_the_formats_own_caches() {
    let room = Room::new();
    let path = room.qcow2("qcow2", None);
    let mut image = open(&path, ImageFormat::Qcow2).unwrap();
    image.write(0, &[8; 200_000]).unwrap();
    image.flush().unwrap();
    // As if the process had been killed now.
    let copy = room.path("copy");
    fs::copy(&path, &copy).unwrap();
    assert_eq!(read(&mut open(&copy, ImageFormat::Qcow2).unwrap(), 0, 200_000), [8; 200_000]);
}

#[test]
fn a_backing_file_shows_through_and_is_not_written() {
    let room = Room::new();
    let base = room.raw("base", 5);
    room.qcow2("middle", Some(("base", "raw")));
    let top = room.qcow2("top", Some(("middle", "qcow2")));
    let mut image = open(&top, ImageFormat::Qcow2).unwrap();
    let opened = image.status().info().opened.unwrap();
    assert_eq!(opened, Opened { capacity: SIZE, backing: vec![room.path("middle"), base.clone()] });
    image.write(512, &[6; 512]).unwrap();
    let data = read(&mut image, 0, 2048);
    assert!(data[..512].iter().chain(&data[1024..]).all(|it| *it == 5));
    assert!(data[512..1024].iter().all(|it| *it == 6));
    image.write_zeroes(0, 512, Zeroes::Unmap).unwrap();
    assert_eq!(read(&mut image, 0, 512), [0; 512]);
    image.close().unwrap();
    assert_eq!(image.status().info().opened, None);
    assert!(fs::read(base).unwrap().iter().all(|it| *it == 5));
}

#[test]
fn zeroes_read_as_zeroes_and_touch_nothing_beside() {
    let room = Room::new();
    for (path, format) in [(room.raw("raw", 0), ImageFormat::Raw), (room.qcow2("qcow2", None), ImageFormat::Qcow2)] {
        let mut image = open(&path, format).unwrap();
        for room in [Zeroes::Unmap, Zeroes::Keep] {
            image.write(0, &[1; 300_000]).unwrap();
            image.write_zeroes(1000, 200_000, room).unwrap();
            let data = read(&mut image, 0, 300_000);
            assert!(data[..1000].iter().chain(&data[201_000..]).all(|it| *it == 1), "{format:?} {room:?}");
            assert!(data[1000..201_000].iter().all(|it| *it == 0), "{format:?} {room:?}");
        }
        image.discard(0, SIZE).unwrap();
        image.write_zeroes(0, 0, Zeroes::Keep).unwrap();
    }
}

#[test]
fn a_discard_gives_room_back() {
    use std::os::unix::fs::MetadataExt;
    let room = Room::new();
    let path = room.raw("raw", 1);
    let mut image = open(&path, ImageFormat::Raw).unwrap();
    let before = fs::metadata(&path).unwrap().blocks();
    image.discard(0, SIZE / 2).unwrap();
    let after = fs::metadata(&path).unwrap();
    assert!(after.blocks() < before, "{before} -> {}", after.blocks());
    assert_eq!(after.len(), SIZE);
}

#[test]
fn qcow2_of_version_2_has_zeroes_too() {
    let room = Room::new();
    let path = room.qcow2("old", None);
    patch(&path, 4, &2u32.to_be_bytes());
    let mut image = open(&path, ImageFormat::Qcow2).unwrap();
    for room in [Zeroes::Unmap, Zeroes::Keep] {
        image.write(0, &[1; 200_000]).unwrap();
        image.write_zeroes(0, 150_000, room).unwrap();
        assert!(read(&mut image, 0, 150_000).iter().all(|it| *it == 0));
        assert_eq!(read(&mut image, 150_000, 1), [1]);
    }
    image.discard(0, SIZE).unwrap();
}

#[test]
fn nothing_happens_outside_a_closed_or_a_read_only_image() {
    let room = Room::new();
    let path = room.raw("raw", 3);
    let mut image = Image::new(&config(&path, ImageFormat::Raw)).unwrap();
    assert!(matches!(image.read(0, &mut [0; 512]), Err(BlockError::Closed(_))));
    assert!(matches!(image.flush(), Err(BlockError::Closed(_))));
    image.close().unwrap();
    image.open().unwrap();
    for (offset, length) in [(SIZE - 511, 512), (SIZE, 1), (u64::MAX, 2), (u64::MAX - 511, 512)] {
        let range = |outcome: Result<(), BlockError>| assert!(matches!(outcome, Err(BlockError::Range { .. })));
        range(image.read(offset, &mut vec![0; length]));
        range(image.write(offset, &vec![0; length]));
        range(image.discard(offset, length as u64));
        range(image.write_zeroes(offset, length as u64, Zeroes::Keep));
    }
    drop(image);
    assert_eq!(fs::metadata(&path).unwrap().len(), SIZE);

    let mut image = open_read_only(&path, ImageFormat::Raw).unwrap();
    let refused = |outcome: Result<(), BlockError>| assert!(matches!(outcome, Err(BlockError::ReadOnly(_))));
    refused(image.write(0, &[0; 512]));
    refused(image.discard(0, 512));
    refused(image.write_zeroes(0, 512, Zeroes::Unmap));
    image.flush().unwrap();
    assert_eq!(read(&mut image, 0, 512), [3; 512]);
}

#[test]
fn one_writer_or_many_readers() {
    let room = Room::new();
    let path = room.raw("raw", 0);
    let mut writer = open(&path, ImageFormat::Raw).unwrap();
    assert!(matches!(open(&path, ImageFormat::Raw), Err(BlockError::Written(_))));
    assert!(matches!(open_read_only(&path, ImageFormat::Raw), Err(BlockError::Written(_))));
    // As the destination of a migration: it looks while the source has it, and takes it once it is
    // let go.
    let mut destination = Image::new(&config(&path, ImageFormat::Raw)).unwrap();
    assert!(matches!(destination.open(), Err(BlockError::Written(_))));
    writer.close().unwrap();
    destination.open().unwrap();
    assert!(matches!(writer.open(), Err(BlockError::Written(_))));
    drop(destination);
    let _one = open_read_only(&path, ImageFormat::Raw).unwrap();
    let _two = open_read_only(&path, ImageFormat::Raw).unwrap();
    assert!(matches!(writer.open(), Err(BlockError::Guarded(_))));
}

#[test]
fn overlays_share_their_backing_file_and_guard_it() {
    let room = Room::new();
    let base = room.qcow2("base", None);
    let one = room.qcow2("one", Some(("base", "qcow2")));
    let two = room.qcow2("two", Some(("base", "qcow2")));
    let first = open(&one, ImageFormat::Qcow2).unwrap();
    let second = open(&two, ImageFormat::Qcow2).unwrap();
    assert!(matches!(open(&base, ImageFormat::Qcow2), Err(BlockError::Guarded(_))));
    drop((first, second));
    let _writer = open(&base, ImageFormat::Qcow2).unwrap();
    // The error is about the file that is in the way.
    assert!(matches!(open(&one, ImageFormat::Qcow2), Err(BlockError::Written(path)) if path == base));
}

#[test]
fn a_chain_that_cannot_be_trusted_is_refused() {
    let room = Room::new();
    let itself = room.qcow2("itself", Some(("itself", "qcow2")));
    assert!(matches!(open_read_only(&itself, ImageFormat::Qcow2), Err(BlockError::Loop(path)) if path == itself));

    let remote = room.qcow2("remote", Some(("nbd://host/export", "raw")));
    assert!(matches!(open(&remote, ImageFormat::Qcow2), Err(BlockError::Reference { .. })));
    let foreign = room.qcow2("foreign", Some(("itself", "vmdk")));
    assert!(matches!(open(&foreign, ImageFormat::Qcow2), Err(BlockError::Reference { .. })));
    let broken = room.qcow2("broken", Some(("gone", "raw")));
    assert!(
        matches!(open(&broken, ImageFormat::Qcow2), Err(BlockError::Open { path, .. }) if path == room.path("gone"))
    );

    room.raw("base", 0);
    let silent = room.qcow2("silent", Some(("base", "raw")));
    let extension = 0xe279_2aca_u32.to_be_bytes();
    let at = fs::read(&silent).unwrap().windows(4).position(|it| it == extension).unwrap();
    patch(&silent, at, &0x1234_5678_u32.to_be_bytes());
    let error = open(&silent, ImageFormat::Qcow2).err().unwrap();
    assert!(matches!(error, BlockError::BackingFormat { .. }), "{error}");
    assert!(error.to_string().contains("qemu-img rebase -u -b base"), "{error}");
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    let room = Room::new();
    assert!(matches!(open(&room.path("none"), ImageFormat::Raw), Err(BlockError::Open { .. })));
    assert!(matches!(open(room.0.path(), ImageFormat::Raw), Err(BlockError::NotADisk(_))));
    assert!(matches!(open(Path::new("/dev/zero"), ImageFormat::Raw), Err(BlockError::NotADisk(_))));
    let fifo = room.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(open(&fifo, ImageFormat::Raw), Err(BlockError::NotADisk(_))));

    let raw = room.raw("raw", 1);
    assert!(matches!(open(&raw, ImageFormat::Qcow2), Err(BlockError::Format { .. })));
    let odd = room.path("odd");
    for (bytes, size) in [(&[][..], 0), (&[0; 513][..], 513)] {
        fs::write(&odd, bytes).unwrap();
        let error = open(&odd, ImageFormat::Raw).err().unwrap();
        assert!(matches!(error, BlockError::Size { size: found, .. } if found == size), "{error}");
        // A refused image is not kept locked.
        fs::write(&odd, vec![0; 512]).unwrap();
        open(&odd, ImageFormat::Raw).unwrap();
    }
    let secret = room.qcow2("secret", None);
    patch(&secret, 32, &2u32.to_be_bytes());
    assert!(matches!(open(&secret, ImageFormat::Qcow2), Err(BlockError::Encrypted(_))));
    let dirty = room.qcow2("dirty", None);
    patch(&dirty, 79, &[1]);
    let error = sentence(&open(&dirty, ImageFormat::Qcow2).err().unwrap());
    assert!(error.contains(&format!("'qemu-img check -r all {}'", dirty.display())), "{error}");
    // Only its reference counts may be wrong, and who only reads needs none.
    open_read_only(&dirty, ImageFormat::Qcow2).unwrap();
}

#[test]
fn an_image_that_is_dropped_was_written() {
    let room = Room::new();
    let path = room.qcow2("qcow2", None);
    let mut image = open(&path, ImageFormat::Qcow2).unwrap();
    image.write(0, &[4; 512]).unwrap();
    drop(image);
    assert_eq!(read(&mut open(&path, ImageFormat::Qcow2).unwrap(), 0, 512), [4; 512]);
}

/// Fuzzing found that the first write to such an image went into the header's own cluster and the
/// second ran out of stack: imago looked for the refcounts of cluster 0 again and again, for in the
/// table "at the file's beginning" means "nowhere".
#[test]
fn an_image_whose_header_counts_as_free_is_not_written_to() {
    let room = Room::new();
    let table = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        let long = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        (long(48), long(long(48)))
    };
    for (name, at, with) in [
        ("no-entry", Box::new(|(table, _)| table) as Box<dyn Fn((usize, usize)) -> usize>, &[0; 8][..]),
        ("no-table", Box::new(|_| 56), &[0; 4]),
        ("no-use", Box::new(|(_, block)| block), &[0; 2]),
        ("past-the-end", Box::new(|_| 48), &(1u64 << 40).to_be_bytes()),
    ] {
        let path = room.qcow2(name, None);
        patch(&path, at(table(&path)), with);
        let error = sentence(&open(&path, ImageFormat::Qcow2).err().unwrap());
        assert!(error.contains(name) && error.contains("'qemu-img check -r all "), "{error}");
        // There is no harm in reading it.
        assert_eq!(read(&mut open_read_only(&path, ImageFormat::Qcow2).unwrap(), 0, 1), [0]);
    }
}
