//! Migrations over streams that go one way: recorded, played, cut, and written to where nothing can
//! be written. Files, pipes and threads, no KVM.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "../../tests/e2e/support/skip.rs"]
mod skip;

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use common::{TestGuest, Watch};
use whimbrel_postcopy::destination::{self, Options};
use whimbrel_postcopy::encoding::Codec;
use whimbrel_postcopy::error::sentence;
use whimbrel_postcopy::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};
use whimbrel_postcopy::source::{self, Limits, SourceHandle};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::stream::{Descriptor, Listening, Paging, Playing, Recording, Sink};
use whimbrel_postcopy::uffd::Uffd;
use whimbrel_postcopy::wire::{Features, Forward, Header, Hello, tag};

const PAGES: u64 = 300;

/// Two blocks: pages with contents and pages of zeros in turn.
fn guest() -> Arc<TestGuest> {
    let guest = TestGuest::new(&[PAGES, 10], true);
    (0..PAGES).filter(|page| page % 3 != 0).for_each(|page| guest.write(0, page, 1));
    *guest.last_writes.lock().unwrap() = vec![(0, 5, 2), (1, 9, 2)];
    guest
}

fn leave(guest: &Arc<TestGuest>, sink: Box<dyn Sink>, watch: &Arc<Watch>) -> SourceHandle {
    source::start(guest.clone(), Arc::new(Recording::new(sink)), Limits::default(), watch.clone()).unwrap()
}

/// What a whole migration wrote, and the guest that it was of.
fn recorded() -> (Vec<u8>, Arc<TestGuest>) {
    let (guest, watch) = (guest(), Watch::new());
    let mut file = tempfile::tempfile().unwrap();
    let _source = leave(&guest, Box::new(Descriptor::new(file.try_clone().unwrap().into()).unwrap()), &watch);
    assert_eq!(watch.until(&[Status::Completed, Status::Failed]), Status::Completed);
    assert!(!guest.is_running());
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    (bytes, guest)
}

/// The guest to which `stream` is played, and how that ended.
fn played(stream: OwnedFd) -> (Arc<TestGuest>, Status, Option<String>) {
    let (guest, watch) = (TestGuest::new(&[PAGES, 10], false), Watch::new());
    let options = Options { features: Features::default(), listen_again: None };
    let playing = Box::new(Playing::new(stream).unwrap());
    let destination = destination::start_with(guest.clone(), playing, watch.clone(), options).unwrap();
    let end = watch.until(&[Status::Completed, Status::Failed]);
    (guest, end, destination.report().error)
}

fn file_of(bytes: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file.into()
}

fn same_ram(one: &TestGuest, other: &TestGuest) {
    for (block, pages) in [(0, PAGES), (1, 10)] {
        for page in 0..pages {
            assert_eq!(one.read(block, page), other.read(block, page), "page {page} of block {block}");
        }
    }
}

/// Where in the stream each message ends, and its number.
fn messages(stream: &[u8]) -> Vec<(usize, u16)> {
    let (mut at, mut ends) = (Hello::LEN, Vec::new());
    while at < stream.len() {
        let header = Header::decode(stream[at..at + Header::LEN].try_into().unwrap()).unwrap();
        at += Header::LEN + header.length as usize;
        ends.push((at, header.tag));
    }
    ends
}

#[test]
fn a_recorded_guest_runs_where_it_is_played_as_often_as_it_is() {
    let (stream, source) = recorded();
    for _ in 0..2 {
        let (guest, end, error) = played(file_of(&stream));
        assert_eq!((end, error), (Status::Completed, None));
        assert!(guest.is_running());
        assert_eq!(*guest.state.lock().unwrap(), *source.state.lock().unwrap());
        same_ram(&guest, &source);
    }
}

/// A source of ours writes no such stream; the settings exclude it. One that comes from elsewhere
/// can still be read in order.
#[test]
fn pages_that_are_not_whole_can_be_played_and_not_paged() {
    let (mut stream, source) = recorded();
    let begin = messages(&stream).into_iter().find(|(_, tag)| *tag == tag::PASS_BEGIN).unwrap().0;
    let run = PageRun { block: BlockId(0), start: PageIndex(0), count: 1 };
    let contents = zstd::bulk::compress(&[7; PAGE_SIZE], 1).unwrap();
    let mut message = Vec::new();
    Forward::Compressed { run, codec: Codec::Zstd, length: contents.len() as u32 }.encode(&mut message);
    // The page itself comes later, and counts.
    stream.splice(begin..begin, [message, contents].concat());
    let error = sentence(&Paging::new(File::from(file_of(&stream))).err().unwrap());
    assert!(error.contains("pages are not whole ('packed'), so that none can be read alone"), "{error}");
    let (guest, end, error) = played(file_of(&stream));
    assert_eq!((end, error), (Status::Completed, None));
    same_ram(&guest, &source);
}

#[test]
fn the_stream_ends_with_its_last_message_and_what_follows_is_not_touched() {
    let (mut stream, source) = recorded();
    assert_eq!(messages(&stream).last(), Some(&(stream.len(), tag::COMPLETE)));
    stream.extend_from_slice(b"something else");
    let (guest, end, _) = played(file_of(&stream));
    assert_eq!(end, Status::Completed);
    same_ram(&guest, &source);
}

#[test]
fn a_stream_through_a_pipe_is_played_as_it_comes() {
    let (read, write) = io::pipe().unwrap();
    let (guest, watch) = (guest(), Watch::new());
    let _source = leave(&guest, Box::new(Descriptor::new(write.into()).unwrap()), &watch);
    let (arrived, end, error) = played(read.into());
    assert_eq!((end, error), (Status::Completed, None));
    assert_eq!(watch.until(&[Status::Completed, Status::Failed]), Status::Completed);
    same_ram(&arrived, &guest);
}

#[test]
fn a_stream_that_was_cut_anywhere_starts_no_guest() {
    let (stream, _) = recorded();
    let ends = messages(&stream).into_iter().map(|(end, _)| end);
    let around = ends.flat_map(|end| [end - 1, end, end + 3]).chain([0, 1, Hello::LEN - 1, Hello::LEN]);
    for length in around.filter(|length| *length < stream.len()) {
        let (guest, end, error) = played(file_of(&stream[..length]));
        assert_eq!(end, Status::Failed, "{length} of {} bytes", stream.len());
        assert!(!guest.is_running(), "{length} of {} bytes", stream.len());
        assert!(
            error.is_some_and(|error| error.contains("closed the connection") || error.contains("cut")),
            "{length} bytes"
        );
    }
}

#[test]
fn what_is_no_stream_is_refused_by_name() {
    let (mut stream, _) = recorded();
    let (_, end, error) = played(file_of(&[b'x'; 100]));
    assert_eq!(end, Status::Failed);
    assert!(error.unwrap().contains("does not begin as what Whimbrel writes"));
    let (last, _) = messages(&stream)[3];
    stream[last] = 0xee;
    let (guest, end, error) = played(file_of(&stream));
    assert_eq!(end, Status::Failed);
    let error = error.unwrap();
    assert!(error.contains("it is damaged"), "{error}");
    assert!(!guest.is_running());
}

#[test]
fn where_nothing_can_be_written_the_guest_stays_and_the_reason_is_told() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (read, write) = io::pipe().unwrap();
    drop(read);
    for (sink, why) in [(full.into(), "No space left"), (OwnedFd::from(write), "Broken pipe")] {
        let (guest, watch) = (guest(), Watch::new());
        let source = leave(&guest, Box::new(Descriptor::new(sink).unwrap()), &watch);
        assert_eq!(watch.until(&[Status::Completed, Status::Failed]), Status::Failed);
        let error = source.report().error.unwrap();
        assert!(error.contains("could not be written") && error.contains(why), "{error}");
        guest.await_running();
    }
}

/// Takes everything and loses it at the end.
struct Unsafe(OwnedFd);

impl Sink for Unsafe {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
    fn commit(self: Box<Self>) -> io::Result<()> {
        Err(io::Error::other("the command ended with exit code 3"))
    }
}

#[test]
fn a_stream_that_is_not_safe_in_the_end_keeps_the_guest() {
    let (guest, watch) = (guest(), Watch::new());
    let source = leave(&guest, Box::new(Unsafe(tempfile::tempfile().unwrap().into())), &watch);
    assert_eq!(watch.until(&[Status::Completed, Status::Failed]), Status::Failed);
    assert!(source.report().error.unwrap().contains("exit code 3"));
    guest.await_running();
}

#[test]
fn a_stream_that_nobody_reads_can_be_cancelled() {
    let (read, write) = io::pipe().unwrap();
    let (guest, watch) = (guest(), Watch::new());
    let source = leave(&guest, Box::new(Descriptor::new(write.into()).unwrap()), &watch);
    watch.until(&[Status::Active]);
    source.cancel().unwrap();
    assert_eq!(watch.until(&[Status::Cancelled, Status::Failed]), Status::Cancelled);
    guest.await_running();
    // The writer lets go of it, too: the stream ends.
    drop(source);
    let mut rest = Vec::new();
    File::from(OwnedFd::from(read)).read_to_end(&mut rest).unwrap();
    let (other, end, _) = played(file_of(&rest));
    assert_eq!(end, Status::Failed);
    assert!(!other.is_running());
}

#[test]
fn postcopy_is_refused_since_nothing_can_be_asked_for() {
    let (_read, write) = io::pipe().unwrap();
    let (guest, watch) = (guest(), Watch::new());
    let source = leave(&guest, Box::new(Descriptor::new(write.into()).unwrap()), &watch);
    watch.until(&[Status::Active]);
    assert!(source.start_postcopy().is_err());
    source.cancel().unwrap();
    watch.until(&[Status::Cancelled]);
}

#[test]
fn the_state_is_the_last_before_the_end() {
    let (stream, _) = recorded();
    let tags: Vec<_> = messages(&stream).into_iter().map(|(_, tag)| tag).collect();
    assert_eq!(tags[tags.len() - 3..], [tag::STATE, tag::HAND_OVER, tag::COMPLETE]);
    let mut goodbye = Vec::new();
    Forward::Goodbye.encode(&mut goodbye);
    assert!(!stream.ends_with(&goodbye));
}

#[test]
fn a_recorded_guest_runs_before_its_pages_are_read() {
    if let Err(error) = Uffd::open() {
        return skip::skip(&whimbrel_postcopy::error::sentence(&error));
    }
    let (stream, source) = recorded();
    // Somewhere in a file.
    let mut file = File::from(file_of(&[&[0xaa; 1000][..], &stream].concat()));
    file.seek(io::SeekFrom::Start(1000)).unwrap();
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

#[test]
fn pages_are_demanded_only_of_a_whole_file() {
    let (stream, _) = recorded();
    for length in
        messages(&stream).into_iter().flat_map(|(end, _)| [end - 1, end]).filter(|length| *length < stream.len())
    {
        assert!(Paging::new(file_of(&stream[..length]).into()).is_err(), "{length} of {} bytes", stream.len());
    }
    let (read, _write) = io::pipe().unwrap();
    let error = Paging::new(OwnedFd::from(read).into()).err().unwrap();
    assert!(whimbrel_postcopy::error::sentence(&error).contains("not of a pipe"));
    // Pages that no block has.
    let mut damaged = stream.clone();
    let pages = messages(&stream).iter().position(|(_, tag)| *tag == tag::PAGES).unwrap();
    let (begin, _) = messages(&stream)[pages - 1];
    damaged[begin + Header::LEN + 8..][..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(Paging::new(file_of(&damaged).into()).is_err());
    damaged[begin + Header::LEN + 8..][..8].copy_from_slice(&PAGES.to_le_bytes());
    assert!(Paging::new(file_of(&damaged).into()).is_err());
}

/// A destination behind one end of a stream socket whose other end this gives.
fn both_ways() -> (Box<dyn Sink>, OwnedFd, Playing) {
    let (source, destination) = std::os::unix::net::UnixStream::pair().unwrap();
    let destination = OwnedFd::from(destination);
    let playing = Playing::with_way_back(destination.try_clone().unwrap(), destination).unwrap();
    let source = OwnedFd::from(source);
    (Box::new(Descriptor::new(source.try_clone().unwrap()).unwrap()), source, playing)
}

#[test]
fn a_stream_that_goes_both_ways_carries_a_postcopy() {
    if let Err(error) = Uffd::open() {
        return skip::skip(&whimbrel_postcopy::error::sentence(&error));
    }
    let (sink, back, playing) = both_ways();
    let (leaving, watch) = (guest(), Watch::new());
    let (arriving, arrived) = (TestGuest::new(&[PAGES, 10], false), Watch::new());
    arriving.load_touches.store(true, std::sync::atomic::Ordering::SeqCst);
    let _destination =
        destination::start_with(arriving.clone(), Box::new(playing), arrived.clone(), Options::default()).unwrap();
    let limits = Limits { policy: source::Policy::AfterPasses(0), ..Limits::default() };
    let recording = Recording::with_way_back(sink, back, Listening::Needed).unwrap();
    let _source = source::start(leaving.clone(), Arc::new(recording), limits, watch.clone()).unwrap();
    assert_eq!(watch.until(&[Status::Completed, Status::Failed]), Status::Completed);
    assert_eq!(arrived.until(&[Status::Completed, Status::Failed]), Status::Completed);
    assert!(arrived.seen().contains(&Status::PostcopyActive), "{:?}", arrived.seen());
    assert!(!leaving.is_running() && arriving.is_running());
    same_ram(&arriving, &leaving);
}

#[test]
fn a_destination_that_refuses_is_heard_over_a_stream() {
    let (sink, back, playing) = both_ways();
    let (leaving, watch) = (guest(), Watch::new());
    // Another machine.
    let (arriving, arrived) = (TestGuest::new(&[PAGES], false), Watch::new());
    let _destination =
        destination::start_with(arriving, Box::new(playing), arrived.clone(), Options::default()).unwrap();
    let recording = Recording::with_way_back(sink, back, Listening::Aside).unwrap();
    let source = source::start(leaving.clone(), Arc::new(recording), Limits::default(), watch.clone()).unwrap();
    assert_eq!(watch.until(&[Status::Completed, Status::Failed]), Status::Failed);
    assert!(source.report().error.unwrap().contains("destination"));
    leaving.await_running();
}

#[test]
fn words_that_are_no_answer_make_a_stream_go_one_way() {
    let mut file = tempfile::tempfile().unwrap();
    let (back, mut printed) = io::pipe().unwrap();
    printed.write_all(b"gzip: welcome to this program, which has much to say").unwrap();
    let (leaving, watch) = (guest(), Watch::new());
    let sink = Box::new(Descriptor::new(file.try_clone().unwrap().into()).unwrap());
    let recording = Recording::with_way_back(sink, back.into(), Listening::Aside).unwrap();
    let _source = source::start(leaving.clone(), Arc::new(recording), Limits::default(), watch.clone()).unwrap();
    assert_eq!(watch.until(&[Status::Completed, Status::Failed]), Status::Completed);
    file.rewind().unwrap();
    let (arriving, end, error) = played(file.into());
    assert_eq!((end, error), (Status::Completed, None));
    same_ram(&arriving, &leaving);
}

#[test]
fn frames_that_are_none_break_the_link_and_nothing_else() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let theirs = OwnedFd::from(theirs);
    let playing = Playing::with_way_back(theirs.try_clone().unwrap(), theirs).unwrap();
    let (arriving, arrived) = (TestGuest::new(&[PAGES, 10], false), Watch::new());
    let destination =
        destination::start_with(arriving.clone(), Box::new(playing), arrived.clone(), Options::default()).unwrap();
    let (stream, _) = recorded();
    let mut ours = ours;
    ours.write_all(&stream[..Hello::LEN]).unwrap();
    ours.write_all(b"WHIM2WAY").unwrap();
    ours.write_all(&[9, 0, 0, 0, 8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    assert_eq!(arrived.until(&[Status::Completed, Status::Failed]), Status::Failed);
    assert!(destination.report().error.is_some());
    assert!(!arriving.is_running());
}
