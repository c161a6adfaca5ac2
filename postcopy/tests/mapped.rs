//! Files with mapped RAM: written over and over, read in order and on demand, cut, damaged, and
//! where nothing can be written. Files and threads, no KVM.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "../../tests/e2e/support/skip.rs"]
mod skip;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use common::{TestGuest, Watch};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use whimbrel_postcopy::channel::{Channel, Connector, Wake};
use whimbrel_postcopy::destination::{self, Options};
use whimbrel_postcopy::guest::Section;
use whimbrel_postcopy::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};
use whimbrel_postcopy::source::{self, Limits};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::stream::mapped::{Access, MappedPlaying, MappedRecording};
use whimbrel_postcopy::stream::{Paging, Playing};
use whimbrel_postcopy::uffd::Uffd;
use whimbrel_postcopy::wire::{
    Answer, BlockDescription, ChannelKind, Features, Forward, Header, Hello, Token, VERSION_MAX, VERSION_MIN, tag,
};

const PAGES: u64 = 300;
const MIB: u64 = 1 << 20;

/// Two blocks: pages with contents and pages of zeros in turn; some change at the last moment, one
/// of them to zero.
fn guest() -> Arc<TestGuest> {
    let guest = TestGuest::new(&[PAGES, 10], true);
    (0..PAGES).filter(|page| page % 3 != 0).for_each(|page| guest.write(0, page, 1));
    *guest.last_writes.lock().unwrap() = vec![(0, 5, 2), (1, 9, 2), (0, 7, 0)];
    guest
}

/// Writes a guest from byte `offset` of `file` on.
fn record_at(file: &File, offset: u64, access: Access) -> Arc<TestGuest> {
    let (guest, watch) = (guest(), Watch::new());
    let recording = MappedRecording::new(file.try_clone().unwrap(), offset, access).unwrap();
    let source = source::start(guest.clone(), Arc::new(recording), Limits::default(), watch.clone()).unwrap();
    let end = watch.until(&[Status::Completed, Status::Failed]);
    assert_eq!(end, Status::Completed, "{:?}", source.report().error);
    assert!(!guest.is_running());
    guest
}

fn recorded() -> (File, Arc<TestGuest>) {
    let file = tempfile::tempfile().unwrap();
    let guest = record_at(&file, 0, Access::Cached);
    (file, guest)
}

/// The guest that is read from byte `offset` of `file` in order, and how that ended.
fn played(file: &File, offset: u64, access: Access) -> (Arc<TestGuest>, Status, Option<String>) {
    let mut file = file.try_clone().unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    let (guest, watch) = (TestGuest::new(&[PAGES, 10], false), Watch::new());
    let options = Options { features: Features::default(), listen_again: None };
    let playing = Box::new(MappedPlaying::of(&file, access).unwrap().unwrap());
    let destination = destination::start_with(guest.clone(), playing, watch.clone(), options).unwrap();
    let end = watch.until(&[Status::Completed, Status::Failed]);
    (guest, end, destination.report().error)
}

fn same_ram(one: &TestGuest, other: &TestGuest) {
    for (block, pages) in [(0, PAGES), (1, 10)] {
        for page in 0..pages {
            assert_eq!(one.read(block, page), other.read(block, page), "page {page} of block {block}");
        }
    }
}

fn bytes_of(file: &File) -> Vec<u8> {
    let mut file = file.try_clone().unwrap();
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

#[test]
fn a_mapped_guest_runs_where_it_is_read_as_often_as_it_is() {
    let (file, source) = recorded();
    for _ in 0..2 {
        let (guest, end, error) = played(&file, 0, Access::Cached);
        assert_eq!((end, error), (Status::Completed, None));
        assert!(guest.is_running());
        assert_eq!(*guest.state.lock().unwrap(), *source.state.lock().unwrap());
        same_ram(&guest, &source);
        assert_eq!(guest.read(0, 7), TestGuest::new(&[PAGES], false).read(0, 0));
    }
}

#[test]
fn what_stands_before_the_offset_stays_and_what_stood_behind_it_goes() {
    for offset in [1000, 4096, 3 * MIB] {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![0xaa; offset as usize], 0).unwrap();
        file.write_all_at(b"old", 1 << 30).unwrap();
        let source = record_at(&file, offset, Access::Cached);
        let bytes = bytes_of(&file);
        assert!(bytes[..offset as usize].iter().all(|byte| *byte == 0xaa));
        assert!(bytes.len() < 1 << 29);
        let (guest, end, _) = played(&file, offset, Access::Cached);
        assert_eq!(end, Status::Completed);
        same_ram(&guest, &source);
        // Taken out of its place it is as good.
        let (guest, end, _) = played(&file_of(&bytes[offset as usize..]), 0, Access::Cached);
        assert_eq!(end, Status::Completed);
        same_ram(&guest, &source);
    }
}

#[test]
fn a_guest_runs_before_its_pages_are_read() {
    if let Err(error) = Uffd::open() {
        return skip::skip(&whimbrel_postcopy::error::sentence(&error));
    }
    let mut file = tempfile::tempfile().unwrap();
    let source = record_at(&file, 1000, Access::Cached);
    file.seek(SeekFrom::Start(1000)).unwrap();
    let (guest, watch) = (TestGuest::new(&[PAGES, 10], false), Watch::new());
    guest.load_touches.store(true, std::sync::atomic::Ordering::SeqCst);
    let paging = Box::new(Paging::new(file).unwrap());
    let _destination = destination::start_with(guest.clone(), paging, watch.clone(), Options::default()).unwrap();
    guest.await_running();
    same_ram(&guest, &source);
    assert_eq!(watch.until(&[Status::Completed, Status::Failed]), Status::Completed);
    assert!(watch.seen().contains(&Status::PostcopyActive), "{:?}", watch.seen());
    assert_eq!(*guest.state.lock().unwrap(), *source.state.lock().unwrap());
    same_ram(&guest, &source);
}

/// Plays the source, message by message: what the recorder says is not listened to.
struct Line {
    channel: Channel,
    wake: Wake,
}

impl Line {
    fn open(file: &File, access: Access) -> Self {
        let recording = MappedRecording::new(file.try_clone().unwrap(), 0, access).unwrap();
        let line = Self { channel: recording.connect().unwrap(), wake: Wake::new().unwrap() };
        let hello = Hello {
            versions: (VERSION_MIN, VERSION_MAX),
            kind: ChannelKind::Control,
            recover: false,
            token: Token([1; 16]),
            features: Features::default(),
        };
        line.send(&hello.encode());
        let blocks = [("low", PAGES), ("high", 10)];
        let block = |(name, pages): (&str, u64)| BlockDescription { name: name.into(), guest_address: 0, pages };
        line.say(&Forward::Configuration(Vec::new()));
        line.say(&Forward::Ram { page_size: 4096, blocks: blocks.map(block).to_vec() });
        line.say(&Forward::Description("{}".into()));
        line
    }

    fn send(&self, bytes: &[u8]) {
        self.channel.send(bytes, &self.wake, &|| false).unwrap();
    }

    fn say(&self, message: &Forward) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.send(&bytes);
    }

    fn pages(&self, block: u16, start: u64, count: u32, byte: u8) {
        let run = PageRun { block: BlockId(block), start: PageIndex(start), count };
        self.say(&Forward::Pages(run));
        self.send(&vec![byte; run.bytes()]);
    }

    fn zeros(&self, block: u16, start: u64, count: u32) {
        self.say(&Forward::Zeros(vec![PageRun { block: BlockId(block), start: PageIndex(start), count }]));
    }

    /// Waits until the recorder has written everything before this.
    fn mark(&self, number: u32) {
        self.say(&Forward::Barrier(number));
        self.await_reply(tag::BARRIER_ACK);
    }

    /// Reads replies up to this one; the body of the last.
    fn await_reply(&self, wanted: u16) -> Vec<u8> {
        loop {
            let mut header = self.take(Header::LEN);
            // The answer to the hello, which is ahead of all messages.
            if header.starts_with(b"whimbrel") {
                self.take(Answer::LEN - Header::LEN);
                header = self.take(Header::LEN);
            }
            let header = Header::decode(header.try_into().unwrap()).unwrap();
            let body = self.take(header.length as usize);
            if header.tag == wanted {
                return body;
            }
        }
    }

    fn take(&self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let mut file = File::from(std::os::fd::AsFd::as_fd(&self.channel).try_clone_to_owned().unwrap());
        let mut have = 0;
        while have < count {
            match file.read(&mut bytes[have..]) {
                Ok(0) => panic!("the other end is gone"),
                Ok(got) => have += got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.channel.wait(false, &self.wake, None).unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
        bytes
    }

    fn end(&self) {
        let section = Section { name: "vcpu".into(), instance: 0, version: 1, bytes: vec![1; 10] };
        self.say(&Forward::State(vec![section]));
        self.await_reply(tag::READY);
        self.say(&Forward::HandOver { running: true });
        self.say(&Forward::Complete);
        self.await_reply(tag::ALL_RECEIVED);
    }
}

/// What a destination is sent of a file: for each page of each block its first byte.
fn contents(file: &File) -> Vec<Vec<u8>> {
    use whimbrel_postcopy::channel::Acceptor;
    let mut file = file.try_clone().unwrap();
    file.rewind().unwrap();
    let playing = MappedPlaying::of(&file, Access::Cached).unwrap().unwrap();
    let wake = Wake::new().unwrap();
    let channel = playing.accept(&wake).unwrap();
    let line = Line { channel, wake };
    line.take(Hello::LEN);
    line.send(&Answer::Welcome { version: VERSION_MAX, features: Features::default() }.encode());
    let mut ram = vec![vec![0xff; PAGES as usize], vec![0xff; 10]];
    loop {
        let header = Header::decode(line.take(Header::LEN).try_into().unwrap()).unwrap();
        let fields = line.take(header.fields());
        match whimbrel_postcopy::wire::decode_forward(header, &fields).unwrap() {
            Forward::Pages(run) => {
                let bytes = line.take(run.bytes());
                for (page, bytes) in run.pages().zip(bytes.chunks(PAGE_SIZE)) {
                    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
                    let before = std::mem::replace(&mut ram[usize::from(run.block.0)][page.0 as usize], bytes[0]);
                    assert_eq!(before, 0xff, "page {} comes twice", page.0);
                }
            }
            Forward::Zeros(runs) => {
                for run in runs {
                    for page in run.pages() {
                        ram[usize::from(run.block.0)][page.0 as usize] = 0;
                    }
                }
            }
            Forward::Complete => return ram,
            _ => {}
        }
    }
}

#[test]
fn pages_that_come_again_take_the_same_place_and_zero_pages_are_holes() {
    let file = tempfile::tempfile().unwrap();
    let line = Line::open(&file, Access::Cached);
    let mut wanted = vec![vec![0; PAGES as usize], vec![0; 10]];
    line.zeros(1, 0, 10);
    for pass in 1..=20u8 {
        line.say(&Forward::PassBegin(pass.into()));
        line.pages(0, 0, PAGES as u32, pass);
        wanted[0].fill(pass);
        // Zero after contents, in this pass and before it; contents after zero.
        line.zeros(0, 100, 50);
        wanted[0][100..150].fill(0);
        line.pages(0, 120, 1, pass + 100);
        wanted[0][120] = pass + 100;
        line.pages(0, 122, 2, pass + 100);
        line.pages(0, 124, 3, pass + 100);
        wanted[0][122..127].fill(pass + 100);
        line.say(&Forward::PassEnd(pass.into()));
        line.mark(pass.into());
    }
    let before = file.metadata().unwrap();
    line.zeros(0, 0, 100);
    wanted[0][..100].fill(0);
    line.pages(1, 3, 1, 9);
    wanted[1][3] = 9;
    line.end();
    assert_eq!(contents(&file), wanted);
    let after = file.metadata().unwrap();
    assert!(after.len() <= (PAGES + 10) * 4096 + 3 * MIB, "{} bytes", after.len());
    // Some file systems have no holes: none of ours is like that, but they may count in larger
    // pieces.
    assert!(after.blocks() * 512 < before.blocks() * 512, "{} then {} blocks", before.blocks(), after.blocks());
}

/// Whether the file is a guest's.
fn is_whole(bytes: &[u8]) -> bool {
    MappedPlaying::of(&file_of(bytes), Access::Cached).is_ok_and(|playing| playing.is_some())
}

#[test]
fn the_file_is_no_guest_s_at_any_time_before_its_end() {
    // What was there before is a whole guest.
    let (file, _) = recorded();
    assert!(is_whole(&bytes_of(&file)));
    let line = Line::open(&file, Access::Cached);
    assert!(!is_whole(&bytes_of(&file)));
    line.await_reply(tag::ACCEPTED);
    assert!(!is_whole(&bytes_of(&file)));
    line.pages(0, 0, PAGES as u32, 3);
    line.zeros(1, 0, 10);
    line.mark(1);
    let error = MappedPlaying::of(&file_of(&bytes_of(&file)), Access::Cached).err().unwrap();
    assert!(error.to_string().contains("not written to its end"), "{error}");
    let error = Paging::new(file_of(&bytes_of(&file))).err().unwrap();
    assert!(error.to_string().contains("not written to its end"), "{error}");
    line.say(&Forward::State(Vec::new()));
    line.await_reply(tag::READY);
    line.say(&Forward::HandOver { running: true });
    assert!(!is_whole(&bytes_of(&file)));
    line.say(&Forward::Complete);
    line.await_reply(tag::ALL_RECEIVED);
    assert!(is_whole(&bytes_of(&file)));
}

#[test]
fn a_source_that_goes_away_leaves_no_guest() {
    let file = tempfile::tempfile().unwrap();
    for cancelled in [true, false] {
        let line = Line::open(&file, Access::Cached);
        line.pages(0, 0, 10, 3);
        line.mark(1);
        if cancelled {
            line.say(&Forward::Cancel("the user said so".into()));
        }
        drop(line);
        assert!(!is_whole(&bytes_of(&file)));
    }
}

#[test]
fn a_file_that_was_cut_anywhere_starts_no_guest() {
    let (file, _) = recorded();
    let bytes = bytes_of(&file);
    let length = bytes.len();
    let places =
        [48, 79, 80, 200, 1000, MIB as usize, MIB as usize + 1, length / 2, length - 1000, length - 9, length - 1];
    for cut in places {
        let file = file_of(&bytes[..cut]);
        let error = MappedPlaying::of(&file, Access::Cached).map(|playing| playing.is_some());
        if cut >= 80 {
            assert!(error.unwrap_err().to_string().contains("was cut"), "{cut} of {length} bytes");
        } else {
            // Too little to tell the two layouts apart: as a stream it is cut, too.
            assert!(!error.unwrap());
        }
        assert!(Paging::new(file).is_err(), "{cut} of {length} bytes");
    }
}

#[test]
fn a_stream_is_left_to_others_and_a_mapped_file_is_not_taken_for_one() {
    let (file, _) = recorded();
    // As it would come through a pipe.
    let (read, mut write) = io::pipe().unwrap();
    let bytes = bytes_of(&file);
    let writer = std::thread::spawn(move || drop(write.write_all(&bytes)));
    let (guest, watch) = (TestGuest::new(&[PAGES, 10], false), Watch::new());
    let playing = Box::new(Playing::new(read.into()).unwrap());
    let destination = destination::start(guest.clone(), playing, watch.clone()).unwrap();
    assert_eq!(watch.until(&[Status::Completed, Status::Failed]), Status::Failed);
    let error = destination.report().error.unwrap();
    assert!(error.contains("mapped RAM") && error.contains("file:PATH"), "{error}");
    assert!(!guest.is_running());
    drop(destination);
    writer.join().unwrap();
    let (read, _write) = io::pipe().unwrap();
    let pipe = File::from(std::os::fd::OwnedFd::from(read));
    assert!(MappedPlaying::of(&pipe, Access::Cached).unwrap().is_none());
}

#[test]
fn where_nothing_can_be_written_the_guest_stays_and_the_reason_is_told() {
    // A file that is open for reading takes nothing.
    let path = tempfile::NamedTempFile::new().unwrap();
    let file = File::open(path.path()).unwrap();
    assert!(MappedRecording::new(file, 0, Access::Cached).is_err());
    let (read, _write) = io::pipe().unwrap();
    let pipe = File::from(std::os::fd::OwnedFd::from(read));
    let error = MappedRecording::new(pipe, 0, Access::Cached).err().unwrap();
    assert!(error.to_string().contains("a regular file"), "{error}");
    // Pages that no block has.
    let file = tempfile::tempfile().unwrap();
    let line = Line::open(&file, Access::Cached);
    line.pages(0, PAGES, 1, 3);
    let why = String::from_utf8(line.await_reply(tag::NOT_STARTED)).unwrap();
    assert!(why.contains("could not be written") && why.contains("block 0 has no pages 300+1"), "{why}");
    // What else the source says is listened to, up to its farewell.
    line.pages(0, 0, 10, 0xff);
    line.say(&Forward::Cancel("as you say".into()));
    let line = Line::open(&file, Access::Cached);
    line.say(&Forward::Listen);
    let why = String::from_utf8(line.await_reply(tag::NOT_STARTED)).unwrap();
    assert!(why.contains("'arm'"), "{why}");
}

fn is_direct(file: &File) -> bool {
    OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL).unwrap()).contains(OFlag::O_DIRECT)
}

/// Whether files where the tests' are do direct I/O at all.
fn has_direct() -> bool {
    let file = tempfile::tempfile().unwrap();
    let possible = fcntl(&file, FcntlArg::F_SETFL(OFlag::O_DIRECT)).is_ok();
    if !possible {
        skip::skip("the file system of temporary files does not do direct I/O");
    }
    possible
}

#[test]
fn pages_go_past_the_cache_and_come_back_past_it() {
    if !has_direct() {
        return;
    }
    let file = tempfile::tempfile().unwrap();
    for offset in [0, 1000] {
        let source = record_at(&file, offset, Access::Direct);
        for access in [Access::Direct, Access::Cached] {
            let (guest, end, error) = played(&file, offset, access);
            assert_eq!((end, error), (Status::Completed, None));
            same_ram(&guest, &source);
            assert_eq!(is_direct(&file), access == Access::Direct);
            fcntl(&file, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        }
    }
    // The clone of the descriptor shows how the pages are written: what is not pages is not written
    // so.
    let line = Line::open(&file, Access::Direct);
    line.await_reply(tag::ACCEPTED);
    line.pages(0, 0, 10, 3);
    line.mark(1);
    assert!(is_direct(&file));
    line.end();
    assert!(!is_direct(&file));
    let line = Line::open(&file, Access::Cached);
    line.await_reply(tag::ACCEPTED);
    assert!(!is_direct(&file));
}

#[test]
fn where_direct_io_is_not_possible_it_is_refused() {
    // The kernel's own files have none.
    let kernel = File::options().read(true).write(true).open("/proc/self/comm").unwrap();
    assert!(MappedRecording::new(kernel, 0, Access::Direct).is_err());
    // Pages that do not stand where a disk can be read.
    let file = tempfile::tempfile().unwrap();
    record_at(&file, 1000, Access::Cached);
    let moved = file_of(&bytes_of(&file)[1000..]);
    let error = MappedPlaying::of(&moved, Access::Direct).err().unwrap();
    assert!(error.to_string().contains("multiples of 4096"), "{error}");
}
