//! Putting pages in place by userfaultfd. Floor: copying into memory that is there already.
//!
//! Both walk through 64 MiB, so that the near caches hold neither's target; what is placed is the
//! same each time and lies in a cache, as it does just after it was received. The floor's memory is
//! in huge pages where the host has them, placed pages never are.
#![allow(clippy::unwrap_used)]

#[path = "common/settings.rs"]
mod settings;

use std::time::{Duration, Instant};

use criterion::{Bencher, Criterion, Throughput};
use whimbrel_postcopy::memory::{AnonymousRam, RamBlock};
use whimbrel_postcopy::ram::{BlockId, PAGE_SIZE, PageIndex, PageRun};
use whimbrel_postcopy::uffd::Uffd;

/// Pages of 64 MiB.
const PAGES: u32 = 16_384;

fn all() -> PageRun {
    run(0, PAGES)
}

fn run(start: u32, count: u32) -> PageRun {
    PageRun { block: BlockId(0), start: PageIndex(u64::from(start)), count }
}

/// Times `place` run by run through the block; at its end, and untimed, `again` makes it ready for
/// another round.
fn rounds(bencher: &mut Bencher<'_>, count: u32, again: impl Fn(), place: impl Fn(PageRun)) {
    bencher.iter_custom(|iterations| {
        let mut left = iterations;
        let mut taken = Duration::ZERO;
        while left > 0 {
            again();
            let now = left.min(u64::from(PAGES / count)) as u32;
            let start = Instant::now();
            (0..now).for_each(|number| place(run(number * count, count)));
            taken += start.elapsed();
            left -= u64::from(now);
        }
        taken
    });
}

fn bench(criterion: &mut Criterion, uffd: &Uffd, watched: &RamBlock, populated: &RamBlock, (size, count): (&str, u32)) {
    let contents = vec![0xA5; run(0, count).bytes()];
    let mut group = criterion.benchmark_group(format!("place/{size}"));
    group.throughput(Throughput::Bytes(contents.len() as u64));
    group.bench_function("floor: copy into populated memory", |bencher| {
        rounds(bencher, count, || (), |run| populated.write(run.start, 0, &contents));
    });
    let drop_all = || watched.discard(all()).unwrap();
    group.bench_function("UFFDIO_COPY", |bencher| {
        rounds(bencher, count, drop_all, |run| uffd.copy(watched, run, &contents).unwrap());
    });
    if contents.len() == PAGE_SIZE {
        group.bench_function("UFFDIO_ZEROPAGE", |bencher| {
            rounds(bencher, count, drop_all, |run| uffd.zero(watched, run).unwrap());
        });
    }
    group.finish();
}

fn main() {
    let uffd = match Uffd::open() {
        Ok(uffd) => uffd,
        Err(error) => return println!("place: skipped: {error}"),
    };
    let watched = AnonymousRam::block("watched", u64::from(PAGES)).unwrap();
    uffd.register(&watched).unwrap();
    let populated = AnonymousRam::block("populated", u64::from(PAGES)).unwrap();
    populated.populate(all()).unwrap();
    let mut criterion = settings::criterion();
    for size in [("4 KiB", 1), ("64 KiB", 16), ("2 MiB", 512)] {
        bench(&mut criterion, &uffd, &watched, &populated, size);
    }
    criterion.final_summary();
}
