//! Compressing runs of pages, and the strict opposite: whatever comes, no more is unpacked than the
//! run holds.

use std::io;

use flate2::{Compress, Compression as ZlibLevel, Decompress, FlushCompress, FlushDecompress, Status};

use super::{Codec, Compression, EncodingError, MAX_COMPRESSED_PAGES};
use crate::memory::RamBlock;
use crate::ram::{PAGE_SIZE, PageRun};

/// What is gained must be worth unpacking: a sixteenth at least.
const GAIN: usize = 16;
/// The most that one run holds, in bytes.
const MOST: usize = MAX_COMPRESSED_PAGES as usize * PAGE_SIZE;

/// Compresses runs of pages, one by one: none needs another one to be unpacked.
pub struct Compressor {
    engine: Engine,
    codec: Codec,
    /// The guest may write its pages meanwhile: they are copied first.
    raw: Vec<u8>,
    packed: Vec<u8>,
}

enum Engine {
    Zlib(Compress),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Compressor {
    /// Errors: no memory for it.
    pub fn new(packing: Compression) -> io::Result<Self> {
        let engine = match packing {
            Compression::Zlib(level) => Engine::Zlib(Compress::new(ZlibLevel::new(level.into()), true)),
            Compression::Zstd(level) => Engine::Zstd(zstd::bulk::Compressor::new(level.into())?),
        };
        Ok(Self { engine, codec: packing.codec(), raw: vec![0; MOST], packed: vec![0; MOST] })
    }

    /// What [`Decompressor::unpack`] needs besides.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// The run's contents as they are now, compressed; `None` if that gains next to nothing. The
    /// run is at most [`MAX_COMPRESSED_PAGES`] long.
    pub fn pack(&mut self, block: &RamBlock, run: PageRun) -> Option<&[u8]> {
        let (pages, _) = self.raw.as_chunks_mut::<PAGE_SIZE>();
        run.pages().zip(pages).for_each(|(page, copy)| block.read(page, copy));
        let (raw, most) = (self.raw.get(..run.bytes())?, run.bytes() - run.bytes() / GAIN);
        let room = self.packed.get_mut(..most)?;
        let length = match &mut self.engine {
            Engine::Zlib(zlib) => {
                zlib.reset();
                match zlib.compress(raw, room, FlushCompress::Finish) {
                    Ok(Status::StreamEnd) => zlib.total_out() as usize,
                    _ => return None,
                }
            }
            // Too little room is its only error here.
            Engine::Zstd(zstd) => zstd.compress_to_buffer(raw, room).ok()?,
        };
        self.packed.get(..length)
    }
}

/// Unpacks runs of pages.
pub struct Decompressor {
    zlib: Decompress,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    raw: Vec<u8>,
}

impl Default for Decompressor {
    /// Takes no memory to speak of before the first run.
    fn default() -> Self {
        Self { zlib: Decompress::new(true), zstd: None, raw: Vec::new() }
    }
}

impl Decompressor {
    /// Exactly `wanted` bytes, which are at most [`MAX_COMPRESSED_PAGES`] pages. No more is ever
    /// unpacked, whatever `packed` claims to hold.
    pub fn unpack(&mut self, codec: Codec, packed: &[u8], wanted: usize) -> Result<&[u8], EncodingError> {
        // A byte more, to see whether more would come.
        self.raw.resize(wanted.min(MOST) + 1, 0);
        let got = match codec {
            Codec::Zlib => unpack_zlib(&mut self.zlib, packed, &mut self.raw)?,
            Codec::Zstd => {
                let zstd = match &mut self.zstd {
                    Some(zstd) => zstd,
                    none => none.insert(zstd::bulk::Decompressor::new().map_err(|_| EncodingError::Broken)?),
                };
                unpack_zstd(zstd, packed, &mut self.raw)?
            }
        };
        match got {
            _ if got == wanted => Ok(&self.raw[..wanted]),
            _ if got > wanted => Err(EncodingError::TooMuch(wanted)),
            _ => Err(EncodingError::TooLittle { got, wanted }),
        }
    }
}

fn unpack_zlib(zlib: &mut Decompress, packed: &[u8], raw: &mut [u8]) -> Result<usize, EncodingError> {
    zlib.reset(true);
    let status = zlib.decompress(packed, raw, FlushDecompress::Finish).map_err(|_| EncodingError::Broken)?;
    let (taken, got) = (zlib.total_in() as usize, zlib.total_out() as usize);
    match status {
        Status::StreamEnd if taken == packed.len() => Ok(got),
        Status::StreamEnd => Err(EncodingError::Rest(packed.len() - taken)),
        _ if got == raw.len() => Ok(got),
        _ => Err(EncodingError::Broken),
    }
}

fn unpack_zstd(
    zstd: &mut zstd::bulk::Decompressor<'static>,
    packed: &[u8],
    raw: &mut [u8],
) -> Result<usize, EncodingError> {
    // One frame, and nothing behind it: several would be unpacked one after the other.
    let frame = zstd::zstd_safe::find_frame_compressed_size(packed).map_err(|_| EncodingError::Broken)?;
    if frame != packed.len() {
        return Err(EncodingError::Rest(packed.len() - frame));
    }
    // What the frame claims to hold is judged before it is unpacked; one that claims nothing ends
    // at the end of the room.
    let claimed = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten();
    if claimed.is_some_and(|claimed| claimed >= raw.len() as u64) {
        return Err(EncodingError::TooMuch(raw.len() - 1));
    }
    zstd.decompress_to_buffer(packed, raw).map_err(|_| EncodingError::Broken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::AnonymousRam;
    use crate::ram::{BlockId, PageIndex};

    const ALL: [Compression; 4] =
        [Compression::Zlib(1), Compression::Zlib(9), Compression::Zstd(1), Compression::Zstd(20)];

    fn run(start: u64, count: u32) -> PageRun {
        PageRun { block: BlockId(0), start: PageIndex(start), count }
    }

    /// Pages of text, each with its own.
    fn text(pages: u64) -> RamBlock {
        let block = AnonymousRam::block("ram0", pages).unwrap();
        for page in 0..pages {
            let line = format!("page {page} of a guest; ");
            block.write(PageIndex(page), 0, &line.repeat(PAGE_SIZE / line.len()).into_bytes());
        }
        block
    }

    fn contents(block: &RamBlock, run: PageRun) -> Vec<u8> {
        let mut bytes = [0; PAGE_SIZE];
        run.pages()
            .flat_map(|page| {
                block.read(page, &mut bytes);
                bytes
            })
            .collect()
    }

    #[test]
    fn runs_come_out_as_they_went_in_whatever_came_before() {
        let block = text(100);
        let mut decompressor = Decompressor::default();
        for packing in ALL {
            let mut compressor = Compressor::new(packing).unwrap();
            for run in [run(0, 1), run(3, 64), run(36, 64), run(99, 1)] {
                let packed = compressor.pack(&block, run).unwrap();
                assert!(packed.len() < run.bytes() / 4, "{packing:?} {run}: {} bytes", packed.len());
                let raw = decompressor.unpack(packing.codec(), packed, run.bytes()).unwrap();
                assert!(raw == contents(&block, run), "{packing:?} {run}");
            }
        }
    }

    #[test]
    fn what_does_not_get_shorter_is_left_as_it_is() {
        let block = AnonymousRam::block("ram0", 8).unwrap();
        let mut word = 1u64;
        for page in 0..8 {
            for at in (0..PAGE_SIZE).step_by(8) {
                word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                block.write(PageIndex(page), at, &(word ^ word >> 29).to_le_bytes());
            }
        }
        for packing in ALL.into_iter().chain([Compression::Zlib(0)]) {
            assert!(Compressor::new(packing).unwrap().pack(&block, run(0, 8)).is_none(), "{packing:?}");
        }
    }

    /// A megabyte in a few bytes, whatever it claims: no more than the run's bytes come out, and
    /// what came before stays usable.
    #[test]
    fn bombs_are_refused_by_name() {
        let many = vec![0; 64 << 20];
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), ZlibLevel::best());
        io::Write::write_all(&mut zlib, &many).unwrap();
        let zlib = zlib.finish().unwrap();
        // With and without the length that a frame may claim.
        let claims = zstd::bulk::compress(&many, 19).unwrap();
        let silent = zstd::stream::encode_all(&many[..], 19).unwrap();
        assert!(zstd::zstd_safe::get_frame_content_size(&silent).unwrap().is_none());
        let mut decompressor = Decompressor::default();
        assert_eq!(decompressor.unpack(Codec::Zlib, &zlib, PAGE_SIZE), Err(EncodingError::TooMuch(PAGE_SIZE)));
        assert_eq!(decompressor.unpack(Codec::Zstd, &claims, PAGE_SIZE), Err(EncodingError::TooMuch(PAGE_SIZE)));
        assert_eq!(decompressor.unpack(Codec::Zstd, &silent, PAGE_SIZE), Err(EncodingError::Broken));
        assert!(decompressor.raw.capacity() <= MOST + 1);
    }

    #[test]
    fn too_little_too_much_and_what_stands_behind_is_refused_by_name() {
        let block = text(2);
        let mut decompressor = Decompressor::default();
        for packing in [Compression::Zlib(1), Compression::Zstd(1)] {
            let codec = packing.codec();
            let packed = Compressor::new(packing).unwrap().pack(&block, run(0, 1)).unwrap().to_vec();
            let (page, two) = (PAGE_SIZE, 2 * PAGE_SIZE);
            let little = EncodingError::TooLittle { got: page, wanted: two };
            assert_eq!(decompressor.unpack(codec, &packed, two), Err(little), "{codec:?}");
            assert_eq!(
                decompressor.unpack(codec, &packed, page - 1),
                Err(EncodingError::TooMuch(page - 1)),
                "{codec:?}"
            );
            let behind = [&packed[..], &[1, 2]].concat();
            assert!(decompressor.unpack(codec, &behind, page).is_err(), "{codec:?}");
            let twice = [&packed[..], &packed].concat();
            assert!(decompressor.unpack(codec, &twice, two).is_err(), "{codec:?}");
            for end in 0..packed.len() {
                assert!(decompressor.unpack(codec, &packed[..end], page).is_err(), "{codec:?} cut at {end}");
            }
            assert!(decompressor.unpack(codec, &packed, page).is_ok(), "{codec:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_unpacked_to_the_byte_or_refused(
            codec in prop_oneof![Just(Codec::Zlib), Just(Codec::Zstd)],
            cut in 0..200usize,
            damage in prop::collection::vec((0..200usize, any::<u8>()), 0..4),
            pages in 1..3usize,
        ) {
            let packing = match codec { Codec::Zlib => Compression::Zlib(1), Codec::Zstd => Compression::Zstd(1) };
            let mut bytes = Compressor::new(packing).unwrap().pack(&text(2), run(0, 2)).unwrap().to_vec();
            for (at, value) in damage {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            bytes.truncate(bytes.len() - cut % bytes.len());
            if let Ok(raw) = Decompressor::default().unpack(codec, &bytes, pages * PAGE_SIZE) {
                prop_assert_eq!(raw.len(), pages * PAGE_SIZE);
            }
        }
    }
}
