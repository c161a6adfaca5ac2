//! Making pages shorter for the wire, and pages of that again. Floor: copying a page, which both
//! kinds do first, and comparing two.
//!
//! All pages lie in the near caches. Compressed are 64 pages of words of which 8 bits are drawn,
//! and 64 of which all are.
#![allow(clippy::unwrap_used)]

#[path = "common/settings.rs"]
mod settings;

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use whimbrel_postcopy::encoding::{Compression, Compressor, Decompressor, Page, XbzrleDecoder, encode_xbzrle};
use whimbrel_postcopy::memory::{AnonymousRam, RamBlock};
use whimbrel_postcopy::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};
use whimbrel_postcopy::wire::MAX_COMPRESSED_PAGES;

const RUN: PageRun = PageRun { block: BlockId(0), start: PageIndex(0), count: MAX_COMPRESSED_PAGES };

/// Words of which so many bits are drawn.
fn drawn(bits: u32) -> RamBlock {
    let block = AnonymousRam::block("ram0", MAX_COMPRESSED_PAGES.into()).unwrap();
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    for (page, at) in RUN.pages().flat_map(|page| (0..PAGE_SIZE).step_by(8).map(move |at| (page, at))) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.write(page, at, &(state >> (64 - bits)).to_le_bytes());
    }
    block
}

fn changes(criterion: &mut Criterion) {
    let block = drawn(64);
    let (mut old, mut copy): (Page, Page) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
    block.read(PageIndex(0), &mut old);
    let mut group = criterion.benchmark_group("changes/4 KiB");
    group.throughput(Throughput::Bytes(PAGE_SIZE as u64));
    group.bench_function("floor: copy", |bencher| bencher.iter(|| block.read(PageIndex(0), black_box(&mut copy))));
    let same = old;
    group.bench_function("floor: compare", |bencher| bencher.iter(|| black_box(&old) == black_box(&same)));
    let (mut few, mut other) = (old, old);
    for at in [8, 2000, PAGE_SIZE - 8] {
        few[at] ^= 1;
    }
    other.iter_mut().for_each(|byte| *byte = !*byte);
    let mut out = Vec::with_capacity(2 * PAGE_SIZE);
    for (name, new) in [("nothing changed", old), ("three bytes changed", few), ("all changed", other)] {
        group.bench_function(format!("encode: {name}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                encode_xbzrle(black_box(&old), black_box(&new), &mut out)
            });
        });
    }
    out.clear();
    encode_xbzrle(&old, &few, &mut out);
    group.bench_function("apply: three bytes changed", |bencher| {
        bencher.iter(|| {
            let mut changes = XbzrleDecoder::of(black_box(&out));
            while let Some((at, bytes)) = changes.take().unwrap() {
                block.write(PageIndex(1), at, bytes);
            }
        });
    });
    group.finish();
}

fn packing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packed/256 KiB");
    group.throughput(Throughput::Bytes(RUN.bytes() as u64));
    let (sparse, dense) = (drawn(8), drawn(64));
    let mut copy = [0; PAGE_SIZE];
    group.bench_function("floor: copy", |bencher| {
        bencher.iter(|| RUN.pages().for_each(|page| sparse.read(page, black_box(&mut copy))));
    });
    for (name, packing) in [("zlib 1", Compression::Zlib(1)), ("zstd 1", Compression::Zstd(1))] {
        let (mut compressor, mut decompressor) = (Compressor::new(packing).unwrap(), Decompressor::default());
        let packed = compressor.pack(&sparse, RUN).unwrap().to_vec();
        let length = packed.len() / 1024;
        group.bench_function(format!("pack: {name}, 8 bits of 64 drawn, to {length} KiB"), |bencher| {
            bencher.iter(|| compressor.pack(black_box(&sparse), RUN).map(<[u8]>::len));
        });
        group.bench_function(format!("pack: {name}, all drawn"), |bencher| {
            bencher.iter(|| compressor.pack(black_box(&dense), RUN).map(<[u8]>::len));
        });
        group.bench_function(format!("unpack: {name}"), |bencher| {
            bencher.iter(|| decompressor.unpack(packing.codec(), black_box(&packed), RUN.bytes()).map(<[u8]>::len));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = settings::criterion();
    changes(&mut criterion);
    packing(&mut criterion);
    criterion.final_summary();
}
