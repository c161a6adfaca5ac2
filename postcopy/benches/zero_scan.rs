//! Looking for zero pages in 16 MiB of guest RAM. Floor: reading as much memory word by word.
//!
//! A page whose first byte is not zero is known by its first 64 bytes: its figure counts the whole
//! page all the same. The block is in huge pages where the host has them and the floor's memory
//! need not be, so that the floor may come out a little slower.
#![allow(clippy::unwrap_used)]

#[path = "common/settings.rs"]
mod settings;
#[path = "common/zero.rs"]
mod zero;

use std::hint::black_box;

use criterion::Throughput;
use whimbrel_postcopy::ram::PAGE_SIZE;

fn main() {
    let mut criterion = settings::criterion();
    let mut group = criterion.benchmark_group("zero_scan/16 MiB");
    let bytes = zero::PAGES as usize * PAGE_SIZE;
    group.throughput(Throughput::Bytes(bytes as u64));
    // Written, so that it has memory of its own; zeros from the allocator would all be the kernel's
    // one zero page.
    let mut words = vec![1u64; bytes / 8];
    words.fill(0);
    group.bench_function("floor: OR of all words", |bencher| {
        bencher.iter(|| black_box(&words).iter().fold(0, |all, word| all | word));
    });
    for (name, block) in [
        ("is_zero, zero pages", zero::zeros().unwrap()),
        ("is_zero, last byte is not zero", zero::zeros_but(PAGE_SIZE - 1).unwrap()),
        ("is_zero, first byte is not zero", zero::zeros_but(0).unwrap()),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| zero::scan(black_box(&block))));
    }
    group.finish();
    criterion.final_summary();
}
