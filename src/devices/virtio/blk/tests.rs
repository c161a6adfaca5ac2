#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{FormatCreateBuilder, Storage, StorageCreateOptions};
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::config::{DiskConfig, ImageFormat};
use crate::devices::SavedDevice;
use crate::devices::virtio::testing::{Driver, Raw, WRITE, ram};

const SIZE: u64 = 4 << 20;
const FLUSH: u64 = feature::FLUSH;
const IN: u32 = 0;
const OUT: u32 = 1;
const DISCARDS: u32 = 11;
const ZEROES: u32 = 13;

fn disk(path: &Path, read_only: bool) -> Block {
    let config = DiskConfig {
        path: path.to_owned(),
        format: ImageFormat::Raw,
        read_only,
        backing_format: None,
        serial: "S-1".into(),
    };
    Block::new(Image::new(&config).unwrap())
}

fn open(path: &Path) -> Box<Block> {
    let mut disk = disk(path, false);
    disk.acquire().unwrap();
    Box::new(disk)
}

/// A disk whose byte at each place is its sector's number.
fn image(room: &TempDir) -> PathBuf {
    let path = room.path().join("image");
    let content: Vec<u8> = (0..SIZE).map(|at| (at / SECTOR) as u8).collect();
    fs::write(&path, content).unwrap();
    path
}

struct Rig {
    driver: Driver,
    path: PathBuf,
    _room: TempDir,
}

impl Rig {
    fn new(features: u64) -> Self {
        let room = tempfile::tempdir().unwrap();
        let path = image(&room);
        Self { driver: Driver::start(open(&path), features), path, _room: room }
    }

    fn content(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    /// One request: the status, and what was written before it.
    fn ask(&mut self, kind: u32, sector: u64, data: &[u8], room: u32) -> (u8, Vec<u8>) {
        let mut answer = self.driver.request(0, &request(kind, sector, data), room + 1);
        if answer.len() as u32 == room + 1 {
            return (answer.pop().unwrap(), answer);
        }
        // The count ends before the status where not all the room was used.
        let at = self.driver.buffers(0) + 0x4_0000 + u64::from(room);
        (self.driver.memory().read_obj(GuestAddress(at)).unwrap(), Vec::new())
    }
}

fn request(kind: u32, sector: u64, data: &[u8]) -> Vec<u8> {
    [&u64::from(kind).to_le_bytes(), &sector.to_le_bytes(), data].concat()
}

fn extent(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn what_is_written_is_in_the_image_and_is_read_back() {
    let mut rig = Rig::new(FLUSH);
    assert_eq!(rig.ask(IN, 3, &[], 1024), (0, [[3; 512], [4; 512]].concat()));
    assert_eq!(rig.ask(OUT, 3, &[0xaa; 1024], 0).0, 0);
    assert_eq!(rig.ask(IN, 2, &[], 2048).1, [[2; 512], [0xaa; 512], [0xaa; 512], [5; 512]].concat());
    assert_eq!(rig.ask(4, 0, &[], 0).0, 0);
    assert_eq!(&rig.content()[3 * 512..5 * 512], [0xaa; 1024]);
}

#[test]
fn the_configuration_says_what_it_is() {
    let rig = Rig::new(FLUSH);
    assert_eq!(rig.driver.config(0, 8), (SIZE / 512).to_le_bytes());
    assert_eq!(rig.driver.config(8, 8), [SEGMENT.to_le_bytes(), SEGMENTS.to_le_bytes()].concat());
    assert_eq!(rig.driver.config(20, 4), 512u32.to_le_bytes());
    assert_eq!(rig.driver.config(24, 8), [3, 0, 8, 0, 0, 0, 0, 0]);
    let limits: Vec<u8> = [DISCARD, EXTENTS, 8, ZERO, EXTENTS, 1].into_iter().flat_map(u32::to_le_bytes).collect();
    assert_eq!(rig.driver.config(36, 24), limits);
    assert_eq!(configuration().len(), 60);
}

#[test]
fn the_serial_number_is_padded_and_cut_to_the_room() {
    let mut rig = Rig::new(0);
    let (status, serial) = rig.ask(8, 0, &[], 20);
    assert_eq!((status, &serial[..]), (0, &b"S-1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..]));
    assert_eq!(rig.ask(8, 0, &[], 2), (0, b"S-".to_vec()));
    assert_eq!(rig.ask(8, 0, &[], 30).0, 0);
}

#[test]
fn header_data_and_status_may_be_cut_anywhere() {
    let mut rig = Rig::new(FLUSH);
    let (buffer, answer) = (rig.driver.buffers(0), rig.driver.buffers(0) + 0x4_0000);
    rig.driver.memory().write_slice(&request(OUT, 1, &[7; 512]), GuestAddress(buffer)).unwrap();
    let piece = |address, bytes, flags| Raw { address, bytes, flags, next: 0 };
    rig.driver.offer(
        0,
        0,
        &[
            piece(buffer, 5, 0),
            piece(buffer + 5, 0, 0),
            piece(buffer + 5, 100, 0),
            piece(buffer + 105, 423, 0),
            piece(answer, 1, WRITE),
        ],
    );
    assert_eq!(rig.driver.await_used(0), (0, 1));
    assert_eq!(&rig.content()[512..1024], [7; 512]);

    rig.driver.memory().write_slice(&request(IN, 1, &[]), GuestAddress(buffer)).unwrap();
    let reading = [piece(buffer, 16, 0), piece(answer, 511, WRITE), piece(answer + 511, 2, WRITE)];
    rig.driver.offer(0, 0, &reading);
    assert_eq!(rig.driver.await_used(0), (0, 513));
    let mut data = [9; 513];
    rig.driver.memory().read_slice(&mut data, GuestAddress(answer)).unwrap();
    assert_eq!((&data[..512], data[512]), (&[7; 512][..], 0));
}

#[test]
fn data_longer_than_the_bounce_buffer_goes_in_pieces() {
    let mut rig = Rig::new(FLUSH);
    let (header, data) = (rig.driver.buffers(0), 0x60_0000);
    let memory = rig.driver.memory();
    memory.write_slice(&request(OUT, 1, &[]), GuestAddress(header)).unwrap();
    let content: Vec<u8> = (0..3u32 << 20).map(|at| (at / 1000) as u8).collect();
    memory.write_slice(&content, GuestAddress(data)).unwrap();
    let raw = |address, bytes, flags| Raw { address, bytes, flags, next: 0 };
    let segments = [raw(header, 16, 0), raw(data, 3 << 20, 0), raw(header + 16, 1, WRITE)];
    rig.driver.offer(0, 0, &segments);
    assert_eq!(rig.driver.await_used(0), (0, 1));
    assert!(rig.content()[512..][..3 << 20] == content);

    rig.driver.memory().write_slice(&request(IN, 1, &[]), GuestAddress(header)).unwrap();
    rig.driver.memory().write_slice(&vec![0; 3 << 20], GuestAddress(data)).unwrap();
    rig.driver.offer(0, 0, &[raw(header, 16, 0), raw(data, 3 << 20, WRITE), raw(header + 16, 1, WRITE)]);
    assert_eq!(rig.driver.await_used(0), (0, (3 << 20) + 1));
    let mut back = vec![0; 3 << 20];
    rig.driver.memory().read_slice(&mut back, GuestAddress(data)).unwrap();
    assert!(back == content);
}

#[test]
fn discards_and_zeroes_take_several_extents() {
    let features = FLUSH | feature::DISCARD | feature::WRITE_ZEROES;
    let mut rig = Rig::new(features);
    assert_eq!(rig.ask(ZEROES, 0, &[extent(1, 2, 0), extent(8, 8, 1)].concat(), 0).0, 0);
    let content = rig.content();
    assert!(content[512..1536].iter().all(|it| *it == 0) && content[1536] == 3);
    assert!(content[8 * 512..16 * 512].iter().all(|it| *it == 0) && content[16 * 512] == 16);
    assert_eq!(rig.ask(DISCARDS, 0, &extent(16, 8, 0), 0).0, 0);
    assert_eq!(rig.content().len() as u64, SIZE);

    let last = SIZE / 512 - 1;
    for (what, kind, data, status) in [
        ("a discard that unmaps", DISCARDS, extent(30, 1, 1), 2),
        ("an unknown flag", ZEROES, extent(30, 1, 2), 2),
        ("too long", ZEROES, extent(30, ZERO + 1, 0), 1),
        ("beyond the end", ZEROES, extent(last, 2, 0), 1),
        ("one inside, one beyond the end", ZEROES, [extent(30, 1, 0), extent(last, 2, 0)].concat(), 1),
        ("an offset that overflows", DISCARDS, extent(u64::MAX, 1, 0), 1),
        ("an end that overflows", DISCARDS, extent(u64::MAX / 512, 8, 0), 1),
        ("no extent", DISCARDS, Vec::new(), 1),
        ("half an extent", DISCARDS, vec![0; 8], 1),
        ("too many extents", ZEROES, extent(30, 1, 0).repeat(EXTENTS as usize + 1), 1),
    ] {
        assert_eq!(rig.ask(kind, 0, &data, 0).0, status, "{what}");
    }
    assert_eq!(rig.content()[30 * 512], 30);
}

#[test]
fn requests_that_make_no_sense_are_answered_and_the_next_is_served() {
    let mut rig = Rig::new(FLUSH);
    let before = rig.content();
    let end = SIZE / 512;
    for (what, kind, sector, data, room, status) in [
        ("read past the end", IN, end - 1, 0, 1024, 1),
        ("write past the end", OUT, end - 1, 1024, 0, 1),
        ("a sector that overflows", IN, u64::MAX, 0, 512, 1),
        ("an end that overflows", OUT, u64::MAX / 512, 512, 0, 1),
        ("half a sector read", IN, 0, 0, 100, 1),
        ("half a sector written", OUT, 0, 100, 0, 1),
        ("a read of what it sends", IN, 0, 512, 0, 1),
        ("a read that sends as well", IN, 0, 512, 512, 1),
        ("a write of what it asks for", OUT, 0, 0, 512, 1),
        ("no such request", 77, 0, 0, 0, 2),
        ("SCSI", 2, 0, 0, 0, 2),
    ] {
        assert_eq!(rig.ask(kind, sector, &vec![1; data], room).0, status, "{what}");
    }
    assert!(rig.content() == before);
    assert_eq!(rig.ask(IN, 9, &[], 512), (0, vec![9; 512]));
    assert!(!rig.driver.needs_reset());
}

#[test]
fn a_request_that_is_longer_than_was_offered_is_refused_before_it_begins() {
    let mut rig = Rig::new(FLUSH);
    let (header, data) = (rig.driver.buffers(0), 0x60_0000);
    rig.driver.memory().write_slice(&request(IN, 0, &[]), GuestAddress(header)).unwrap();
    // One piece of RAM as often as the ring allows: more than RAM and disk have together.
    let mut segments = vec![Raw { address: header, bytes: 16, flags: 0, next: 0 }];
    segments.extend([Raw { address: data, bytes: 8 << 20, flags: WRITE, next: 0 }; 14]);
    segments.push(Raw { address: header + 16, bytes: 1, flags: WRITE, next: 0 });
    rig.driver.offer(0, 0, &segments);
    assert_eq!(rig.driver.await_used(0), (0, 1));
    let memory = rig.driver.memory();
    assert_eq!(memory.read_obj::<u8>(GuestAddress(header + 16)).unwrap(), 1);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(data)).unwrap(), 0);
}

#[test]
fn a_request_without_a_header_or_a_place_for_its_status_needs_a_reset() {
    for (what, sent, room) in [("a short header", &request(IN, 0, &[])[..15], 513), ("no status", &[0; 16], 0)] {
        let mut rig = Rig::new(FLUSH);
        let buffer = rig.driver.buffers(0);
        rig.driver.memory().write_slice(sent, GuestAddress(buffer)).unwrap();
        let mut segments = vec![Raw { address: buffer, bytes: sent.len() as u32, flags: 0, next: 0 }];
        if room > 0 {
            segments.push(Raw { address: buffer + 0x4_0000, bytes: room, flags: WRITE, next: 0 });
        }
        rig.driver.offer(0, 0, &segments);
        assert_eq!(rig.driver.await_interrupt() & 2, 2, "{what}");
        assert!(rig.driver.needs_reset(), "{what}");
        rig.driver.set_up(FLUSH);
        assert_eq!(rig.ask(IN, 5, &[], 512), (0, vec![5; 512]), "{what}");
    }
}

#[test]
fn a_disk_that_is_only_read_refuses_changes_and_says_so_before() {
    let room = tempfile::tempdir().unwrap();
    let path = image(&room);
    let mut disk = disk(&path, true);
    disk.acquire().unwrap();
    assert_eq!(disk.features() & (feature::RO | feature::DISCARD | feature::WRITE_ZEROES), feature::RO);
    let mut rig = Rig { driver: Driver::start(Box::new(disk), feature::RO | FLUSH), path, _room: room };
    assert_eq!(rig.ask(OUT, 0, &[1; 512], 0).0, 1);
    assert_eq!(rig.ask(ZEROES, 0, &extent(0, 1, 0), 0).0, 1);
    assert_eq!(rig.ask(DISCARDS, 0, &extent(0, 1, 0), 0).0, 1);
    assert_eq!(rig.ask(4, 0, &[], 0).0, 0);
    assert_eq!(rig.ask(IN, 6, &[], 512), (0, vec![6; 512]));
}

#[test]
fn a_host_that_fails_is_told_to_the_guest_and_the_disk_goes_on() {
    let mut rig = Rig::new(FLUSH);
    let take_away = |rig: &Rig| {
        rig.driver.freeze();
        rig.driver.device.release().unwrap();
        rig.driver.device.thaw();
    };
    take_away(&rig);
    assert_eq!(rig.ask(IN, 9, &[], 512).0, 1);
    assert_eq!(rig.ask(OUT, 9, &[1; 512], 0).0, 1);
    assert_eq!(rig.ask(4, 0, &[], 0).0, 1);
    rig.driver.freeze();
    rig.driver.device.acquire().unwrap();
    rig.driver.device.thaw();
    assert_eq!(rig.ask(IN, 9, &[], 512), (0, vec![9; 512]));
}

#[test]
fn without_flushes_a_write_is_durable_when_it_is_answered() {
    // What qcow2 keeps in memory until a flush: the table that says where the data is.
    for (features, durable) in [(0, true), (FLUSH, false)] {
        let room = tempfile::tempdir().unwrap();
        let (path, copy) = (room.path().join("image"), room.path().join("copy"));
        let file = File::create_open(StorageCreateOptions::new().filename(&path)).unwrap();
        Qcow2::<File>::create_builder(file).size(SIZE).create().unwrap();
        let qcow2 = |path: &Path| DiskConfig {
            path: path.to_owned(),
            format: ImageFormat::Qcow2,
            read_only: false,
            backing_format: None,
            serial: String::new(),
        };
        let mut disk = Block::new(Image::new(&qcow2(&path)).unwrap());
        disk.acquire().unwrap();
        let mut rig = Rig { driver: Driver::start(Box::new(disk), features), path: path.clone(), _room: room };
        let written = |rig: &Rig| {
            // As after a loss of power.
            fs::copy(&rig.path, &copy).unwrap();
            let mut image = Image::new(&qcow2(&copy)).unwrap();
            image.open().unwrap();
            let mut data = [0; 512];
            image.read(1 << 20, &mut data).unwrap();
            data == [3; 512]
        };
        assert_eq!(rig.ask(OUT, 2048, &[3; 512], 0).0, 0);
        assert_eq!(written(&rig), durable);
        assert_eq!(rig.ask(4, 0, &[], 0).0, 0);
        assert!(written(&rig));
    }
}

#[test]
fn release_gives_the_image_away_and_acquire_takes_it_back() {
    let room = tempfile::tempdir().unwrap();
    let path = image(&room);
    let (mut one, mut other) = (open(&path), disk(&path, false));
    let error = other.acquire().unwrap_err().to_string();
    assert!(error.contains("being written by another process") && error.contains("image"), "{error}");
    one.release().unwrap();
    one.release().unwrap();
    other.acquire().unwrap();
    other.acquire().unwrap();
    one.acquire().unwrap_err();
    other.release().unwrap();
    one.acquire().unwrap();
}

#[test]
fn an_image_of_another_size_is_refused_by_name_and_let_go() {
    let room = tempfile::tempdir().unwrap();
    let path = image(&room);
    let mut source = open(&path);
    let saved = source.save();
    source.release().unwrap();
    assert_eq!(source.save(), saved);
    let smaller = room.path().join("smaller");
    fs::write(&smaller, [0; 1 << 20]).unwrap();
    let mut destination = disk(&smaller, false);
    let layout = destination.layout();
    crate::state::testing::assert_layout(layout, &saved, || destination.load(VERSION, &saved).unwrap());
    let error = destination.acquire().unwrap_err().to_string();
    assert!(error.contains("smaller") && error.contains("1048576") && error.contains("4194304"), "{error}");
    open(&smaller);
    source.acquire().unwrap();
}

#[test]
fn state_that_cannot_be_is_refused() {
    let room = tempfile::tempdir().unwrap();
    let mut disk = disk(&image(&room), false);
    for bytes in [&0u64.to_le_bytes()[..], &513u64.to_le_bytes(), &[0; 7], &[0; 9]] {
        disk.load(VERSION, bytes).unwrap_err();
    }
    disk.load(VERSION + 1, &512u64.to_le_bytes()).unwrap_err();
    disk.load(VERSION, &512u64.to_le_bytes()).unwrap();
}

#[test]
fn a_guest_finds_its_disk_on_another_host() {
    let mut rig = Rig::new(FLUSH);
    rig.ask(OUT, 1, &[0x55; 512], 0);
    rig.driver.freeze();
    rig.driver.device.release().unwrap();
    // What the guest had asked for and the source did not come to.
    let buffer = rig.driver.buffers(0);
    rig.driver.memory().write_slice(&request(IN, 1, &[]), GuestAddress(buffer)).unwrap();
    let raw = |address, bytes, flags| Raw { address, bytes, flags, next: 0 };
    rig.driver.offer(0, 0, &[raw(buffer, 16, 0), raw(buffer + 16, 513, WRITE)]);
    let saved = rig.driver.device.save();
    let version = rig.driver.device.version();

    let mut destination = Driver::frozen(Box::new(disk(&rig.path, false)), ram());
    let mut copy = vec![0; 8 << 20];
    rig.driver.memory().read_slice(&mut copy, GuestAddress(0)).unwrap();
    destination.memory().write_slice(&copy, GuestAddress(0)).unwrap();
    destination.adopt(&rig.driver);
    destination.device.load(version, &saved).unwrap();
    destination.device.acquire().unwrap();
    assert_eq!(destination.config(0, 8), (SIZE / 512).to_le_bytes());
    destination.device.thaw();
    assert_eq!(destination.await_used(0), (0, 513));
    let mut data = [0; 513];
    destination.memory().read_slice(&mut data, GuestAddress(buffer + 16)).unwrap();
    assert_eq!((&data[..512], data[512]), (&[0x55; 512][..], 0));
    assert!(rig.driver.device.acquire().is_err());
}
