//! Scans of the bitmap of 1 GiB of guest RAM. Floors: a plain pass over its words that reads them,
//! and one that counts their bits.

#[path = "common/pattern.rs"]
mod pattern;
#[path = "common/scan.rs"]
mod scan;
#[path = "common/settings.rs"]
mod settings;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};

fn bench(criterion: &mut Criterion, name: &str, words: &[u64]) {
    let bitmap = pattern::bitmap(words);
    let mut group = criterion.benchmark_group(format!("bitmap/{name}"));
    group.throughput(Throughput::Elements(pattern::PAGES));
    group.bench_function("floor: OR of all words", |bencher| {
        bencher.iter(|| black_box(words).iter().fold(0, |all, word| all | word));
    });
    group.bench_function("floor: count_ones", |bencher| {
        bencher.iter(|| black_box(words).iter().map(|word| u64::from(word.count_ones())).sum::<u64>());
    });
    group.bench_function("next_set", |bencher| bencher.iter(|| scan::next_set(black_box(&bitmap))));
    group.bench_function("runs", |bencher| bencher.iter(|| scan::runs(black_box(&bitmap))));
    group.bench_function("next_clear_run", |bencher| bencher.iter(|| scan::next_clear_run(black_box(&bitmap))));
    // Claiming empties the bitmap: each time it gets one of its own.
    group.bench_function("claim_run", |bencher| {
        bencher.iter_batched_ref(
            || pattern::bitmap(words),
            |bitmap| scan::claim_run(black_box(bitmap)),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn main() {
    let mut criterion = settings::criterion();
    bench(&mut criterion, "empty", &pattern::empty());
    bench(&mut criterion, "full", &pattern::full());
    bench(&mut criterion, "every 3rd page", &pattern::third());
    bench(&mut criterion, "random 1%", &pattern::hundredth());
    criterion.final_summary();
}
