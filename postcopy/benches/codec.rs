//! Encoding and decoding the messages of which a migration sends many. Floor: copying as many
//! bytes.
#![allow(clippy::unwrap_used)]

#[path = "common/messages.rs"]
mod messages;
#[path = "common/settings.rs"]
mod settings;

use std::hint::black_box;

use criterion::{Criterion, Throughput};

/// `encode` appends a message, `decode` reads it back.
fn bench<T>(criterion: &mut Criterion, name: &str, encode: impl Fn(&mut Vec<u8>), decode: impl Fn(&[u8]) -> T) {
    let bytes = messages::encoded(&encode);
    let mut group = criterion.benchmark_group(format!("codec/{name}"));
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    // The engine keeps its buffers, too: nothing is allocated here.
    let mut out = Vec::with_capacity(bytes.len());
    group.bench_function("floor: copy", |bencher| {
        bencher.iter(|| {
            out.clear();
            out.extend_from_slice(black_box(&bytes));
            black_box(&out);
        });
    });
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            out.clear();
            encode(&mut out);
            black_box(&out);
        });
    });
    group.bench_function("decode", |bencher| bencher.iter(|| decode(black_box(&bytes))));
    group.finish();
}

fn main() {
    let mut criterion = settings::criterion();
    let (pages, request, zeros) = (messages::pages(), messages::request(), messages::zeros());
    let decode = |bytes: &[u8]| messages::decode(bytes).unwrap();
    bench(&mut criterion, "pages header", |out| black_box(&pages).encode(out), decode);
    let decode_request = |bytes: &[u8]| messages::decode_request(bytes).unwrap();
    bench(&mut criterion, "request of 1 run", |out| black_box(&request).encode(out), decode_request);
    bench(&mut criterion, "zeros of 64 runs", |out| black_box(&zeros).encode(out), decode);
    criterion.final_summary();
}
