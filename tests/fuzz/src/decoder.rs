//! Everything that the engine reads off a channel, as bytes.
//!
//! The first byte chooses what they are: a hello, an answer, or the messages of one channel's one
//! direction.

use whimbrel_postcopy::bitmap::RamBitmap;
use whimbrel_postcopy::encoding::{Codec, Compression, Compressor};
use whimbrel_postcopy::memory::AnonymousRam;
use whimbrel_postcopy::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};
use whimbrel_postcopy::wire::{
    Answer, BlockDescription, ChannelKind, DecodeError, Features, Forward, Fragment, Header, Hello, Reply, Request,
    Token, decode_demand, decode_forward, decode_multifd, decode_reply, fragments, tag,
};

use crate::input::Input;
use crate::{Seed, memory};

/// A run costs as much here as on the wire, an empty pair of a configuration six times as much, and
/// a list grows to twice its size.
const PER_BYTE: usize = 16;

pub fn check(data: &[u8]) {
    memory::limit(PER_BYTE * data.len() + (64 << 10));
    let mut input = Input(data);
    match input.u8() {
        Some(0) => hello(&mut input),
        Some(1) => answer(&mut input),
        Some(2) => bitmap(&mut input),
        Some(channel) => while message(channel, &mut input).is_some() {},
        None => {}
    }
    memory::limit(512 << 20);
}

fn hello(input: &mut Input) {
    let Some(bytes) = input.array() else { return };
    match Hello::decode(&bytes) {
        Ok(hello) => {
            // What is reserved is not looked at, and any other byte than zero says that a migration
            // is joined again.
            let again = hello.encode();
            assert_eq!(Hello::decode(&again), Ok(hello));
            assert_eq!((&again[..13], &again[16..]), (&bytes[..13], &bytes[16..]));
            let _ = hello.choose().map_err(|error| error.to_string());
        }
        Err(error) => drop(error.to_string()),
    }
}

fn answer(input: &mut Input) {
    let Some(fixed) = input.array() else { return };
    let Ok(length) = Answer::text_len(&fixed) else { return };
    let text = input.bytes(length);
    match Answer::decode(&fixed, text) {
        Ok(answer) => {
            let again = answer.encode();
            let fixed = *again.first_chunk().expect("an answer has a fixed part");
            let length = Answer::text_len(&fixed).expect("an answer of our own");
            assert_eq!(again.len(), Answer::LEN + length);
            let back = Answer::decode(&fixed, &again[Answer::LEN..]).expect("an answer of our own");
            // What was no text has grown, and may have been cut.
            assert!(back == answer || std::str::from_utf8(text).is_err());
        }
        Err(error) => drop(error.to_string()),
    }
}

/// What is received is told in fragments, whole.
fn bitmap(input: &mut Input) {
    const PAGES: [u64; 3] = [200, 64, 1];
    let bitmap = RamBitmap::with_pages(PAGES);
    while let (Some(block), Some(word), Some(bits)) = (input.u8(), input.u8(), input.u64()) {
        if let Some(block) = bitmap.block(BlockId(u16::from(block % 3))) {
            block.or_word(usize::from(word % 4).min(block.len_words() - 1), bits);
        }
    }
    let told = RamBitmap::with_pages(PAGES);
    for fragment in fragments(&bitmap) {
        assert!(fragment.fits(&told));
        let mut bytes = Vec::new();
        Reply::Received(fragment.clone()).encode(&mut bytes);
        let (header, fields) = split(&bytes);
        assert_eq!(decode_reply(header, fields), Ok(Reply::Received(fragment.clone())));
        for (word, bits) in fragment.iter() {
            told.block(fragment.block).expect("it fits").or_word(word, bits);
        }
    }
    assert_eq!(told.count(), bitmap.count());
}

/// The next message of a channel; `None` at the end of what makes sense, where an engine would hang
/// up.
fn message(channel: u8, input: &mut Input) -> Option<()> {
    let head = input.array()?;
    let header = match Header::decode(head) {
        Ok(header) => header,
        Err(error) => {
            let _ = error.to_string();
            return None;
        }
    };
    let fields = input.bytes(header.fields());
    let whole = fields.len() == header.fields();
    let mut again = Vec::new();
    let encoded = match channel % 5 {
        0 => decode_forward(header, fields).map(|message| message.encode(&mut again)),
        1 => decode_demand(header, fields).map(|message| message.encode(&mut again)),
        2 => decode_multifd(header, fields).map(|message| message.encode(&mut again)),
        3 => decode_reply(header, fields).map(|message| message.encode(&mut again)),
        _ => Request::decode(header, fields).map(|message| message.encode(&mut again)),
    };
    match encoded {
        Ok(()) if whole => same(header, fields, &again),
        // Never asked by an engine, which waits for all of it.
        Ok(()) => return None,
        Err(error) => {
            let _ = error.to_string();
            return None;
        }
    }
    if matches!(header.tag, tag::PAGES | tag::COMPRESSED | tag::XBZRLE) {
        input.bytes(header.length as usize - header.fields());
    }
    Some(())
}

/// What was decoded encodes to what it was.
fn same(header: Header, fields: &[u8], again: &[u8]) {
    let words = matches!(header.tag, tag::DESCRIPTION | tag::CANCEL | tag::NOT_STARTED);
    let (mine, my_fields) = match try_split(again) {
        Ok(parts) => parts,
        // A description is this program's own, and has no use but to be read by people.
        Err(DecodeError::TooLong { tag: tag::DESCRIPTION, .. }) => return,
        Err(error) => panic!("what this side says is not understood: {error}"),
    };
    if words && std::str::from_utf8(fields).is_err() {
        return;
    }
    assert_eq!((mine, my_fields), (header, fields));
}

fn try_split(message: &[u8]) -> Result<(Header, &[u8]), DecodeError> {
    let (head, fields) = message.split_first_chunk().expect("a message has a header");
    Header::decode(*head).map(|header| (header, fields))
}

fn split(message: &[u8]) -> (Header, &[u8]) {
    try_split(message).expect("a message of our own")
}

fn run(block: u16, start: u64, count: u32) -> PageRun {
    PageRun { block: BlockId(block), start: PageIndex(start), count }
}

/// An honest source's messages, of two small blocks of RAM, with the pages' contents.
pub(crate) fn forwards() -> Vec<Forward> {
    use whimbrel_postcopy::guest::Section;
    let block = |name: &str, guest_address, pages| BlockDescription { name: name.into(), guest_address, pages };
    let fragment = Fragment { block: BlockId(0), first_word: 0, words: vec![0b1010] };
    let section = |name: &str| Section { name: name.into(), instance: 0, version: 1, bytes: vec![1, 2, 3] };
    vec![
        Forward::Configuration(vec![("vcpus".into(), "1".into())]),
        Forward::Ram { page_size: PAGE_SIZE as u32, blocks: vec![block("ram0", 0, 70), block("ram1", 0, 3)] },
        Forward::Description("{}".into()),
        Forward::PassBegin(1),
        Forward::Zeros(vec![run(0, 0, 69), run(1, 0, 3)]),
        Forward::Pages(run(0, 69, 1)),
        Forward::Compressed { run: run(0, 69, 1), codec: Codec::Zstd, length: packed().len() as u32 },
        Forward::Xbzrle { run: run(0, 69, 1), length: 6 },
        Forward::MultifdStart,
        Forward::MultifdFlush,
        Forward::PassEnd(1),
        Forward::Barrier(1),
        Forward::Discard(fragment),
        Forward::Listen,
        Forward::State(vec![section("clock"), section("vcpu")]),
        Forward::HandOver { running: true },
        Forward::Zeros(vec![run(0, 1, 1), run(0, 3, 1)]),
        Forward::Complete,
        Forward::Cancel("enough".into()),
    ]
}

pub(crate) fn replies() -> Vec<Reply> {
    let fragment = Fragment { block: BlockId(0), first_word: 1, words: vec![0b11] };
    vec![
        Reply::Accepted,
        Reply::BarrierAck(1),
        Reply::Listening,
        Reply::Ready,
        Reply::Running,
        Reply::Received(fragment),
        Reply::ReceivedEnd,
        Reply::AllReceived,
        Reply::NotStarted("no".into()),
    ]
}

/// A page of sevens, compressed.
fn packed() -> Vec<u8> {
    let block = AnonymousRam::block("ram0", 1).expect("memory");
    block.write(PageIndex(0), 0, &[7; PAGE_SIZE]);
    let mut compressor = Compressor::new(Compression::Zstd(1)).expect("memory");
    compressor.pack(&block, run(0, 0, 1)).expect("it gets shorter").to_vec()
}

/// A forward message with contents of pages.
pub(crate) fn encoded(message: &Forward) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    match message {
        Forward::Pages(run) => bytes.resize(bytes.len() + run.bytes(), 5),
        // A page of sevens.
        Forward::Compressed { .. } => bytes.extend(packed()),
        // Two bytes of it are others.
        Forward::Xbzrle { .. } => bytes.extend([4, 0, 9, 2, 1, 2]),
        _ => {}
    }
    bytes
}

pub fn seeds() -> Vec<Seed> {
    let hello = Hello {
        versions: (1, 1),
        kind: ChannelKind::Control,
        recover: false,
        token: Token([7; 16]),
        features: Features::POSTCOPY,
    };
    let welcome = Answer::Welcome { version: 1, features: Features::POSTCOPY };
    let only = |wanted: &[u16]| -> Vec<u8> {
        forwards().iter().filter(|it| wanted.contains(&it.tag())).flat_map(encoded).collect()
    };
    let mut spoken = vec![3];
    replies().iter().for_each(|it| it.encode(&mut spoken));
    let mut asked = vec![4];
    Request(vec![run(0, 5, 2), run(1, 0, 1)]).encode(&mut asked);
    vec![
        ("hello", [&[0][..], &hello.encode()].concat()),
        ("welcome", [&[1][..], &welcome.encode()].concat()),
        ("refusal", [&[1][..], &Answer::Refused("no".into()).encode()].concat()),
        ("bitmap", [&[2, 0, 1][..], &u64::MAX.to_le_bytes(), &[1, 0], &5u64.to_le_bytes()].concat()),
        ("control", [&[5][..], &forwards().iter().flat_map(encoded).collect::<Vec<_>>()].concat()),
        ("demand", [&[6][..], &only(&[tag::PAGES, tag::ZEROS])].concat()),
        ("multifd", [&[7][..], &only(&[tag::PAGES, tag::COMPRESSED, tag::ZEROS, tag::MULTIFD_FLUSH])].concat()),
        ("replies", [&[8][..], &spoken[1..]].concat()),
        ("requests", [&[9][..], &asked[1..]].concat()),
        ("cancel", [&[5][..], &encoded(&Forward::Cancel("w".repeat(4000)))].concat()),
    ]
}
