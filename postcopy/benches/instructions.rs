//! The engine's hot parts without a clock, for `scripts/instructions` to count their instructions.
//!
//! `instructions PART ROUNDS` prepares the part and runs it so many times, at most [`MOST_ROUNDS`]:
//! the count of a run with 0 rounds is what preparing costs. With anything else every part runs
//! once and is listed: its name, what is counted, and how many of that a round has.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "common/messages.rs"]
mod messages;
#[path = "common/pattern.rs"]
mod pattern;
#[path = "common/scan.rs"]
mod scan;
#[path = "common/zero.rs"]
mod zero;

use std::hint::black_box;

use whimbrel_postcopy::bitmap::PageBitmap;
use whimbrel_postcopy::memory::RamBlock;
use whimbrel_postcopy::ram::PAGE_SIZE;

/// A part that changes what it works on prepares so many of them, however many rounds there will
/// be.
const MOST_ROUNDS: usize = 4;
/// Messages a round.
const MESSAGES: u64 = 1000;

/// Prepares, then runs so many rounds.
type Part = fn(usize);

const PARTS: [(&str, &str, u64, Part); 16] = [
    ("next_set, empty", "page", pattern::PAGES, |rounds| look(pattern::empty(), scan::next_set, rounds)),
    ("next_set, every 3rd page", "page", pattern::PAGES, |rounds| look(pattern::third(), scan::next_set, rounds)),
    ("runs, full", "page", pattern::PAGES, |rounds| look(pattern::full(), scan::runs, rounds)),
    ("runs, every 3rd page", "page", pattern::PAGES, |rounds| look(pattern::third(), scan::runs, rounds)),
    ("runs, random 1%", "page", pattern::PAGES, |rounds| look(pattern::hundredth(), scan::runs, rounds)),
    ("next_clear_run, random 1%", "page", pattern::PAGES, |rounds| {
        look(pattern::hundredth(), scan::next_clear_run, rounds);
    }),
    ("claim_run, full", "page", pattern::PAGES, |rounds| claim(pattern::full(), rounds)),
    ("claim_run, every 3rd page", "page", pattern::PAGES, |rounds| claim(pattern::third(), rounds)),
    ("is_zero, zero pages", "page", zero::PAGES, |rounds| is_zero(zero::zeros().unwrap(), rounds)),
    ("is_zero, last byte is not", "page", zero::PAGES, |rounds| {
        is_zero(zero::zeros_but(PAGE_SIZE - 1).unwrap(), rounds);
    }),
    ("encode pages header", "message", MESSAGES, |rounds| {
        let message = messages::pages();
        encode(|out| black_box(&message).encode(out), rounds);
    }),
    ("decode pages header", "message", MESSAGES, |rounds| {
        decode(
            messages::encoded(|out| messages::pages().encode(out)),
            |bytes| messages::decode(bytes).unwrap(),
            rounds,
        );
    }),
    ("encode request of 1 run", "message", MESSAGES, |rounds| {
        let message = messages::request();
        encode(|out| black_box(&message).encode(out), rounds);
    }),
    ("decode request of 1 run", "message", MESSAGES, |rounds| {
        let bytes = messages::encoded(|out| messages::request().encode(out));
        decode(bytes, |bytes| messages::decode_request(bytes).unwrap(), rounds);
    }),
    ("encode zeros of 64 runs", "message", MESSAGES, |rounds| {
        let message = messages::zeros();
        encode(|out| black_box(&message).encode(out), rounds);
    }),
    ("decode zeros of 64 runs", "message", MESSAGES, |rounds| {
        decode(
            messages::encoded(|out| messages::zeros().encode(out)),
            |bytes| messages::decode(bytes).unwrap(),
            rounds,
        );
    }),
];

fn repeat<T>(rounds: usize, mut round: impl FnMut(usize) -> T) {
    (0..rounds).for_each(|number| {
        black_box(round(number));
    });
}

fn look(words: Vec<u64>, scan: fn(&PageBitmap) -> u64, rounds: usize) {
    let bitmap = pattern::bitmap(&words);
    repeat(rounds, |_| scan(black_box(&bitmap)));
}

fn claim(words: Vec<u64>, rounds: usize) {
    let bitmaps: Vec<_> = (0..MOST_ROUNDS).map(|_| pattern::bitmap(&words)).collect();
    repeat(rounds, |number| scan::claim_run(black_box(&bitmaps[number])));
}

fn is_zero(block: RamBlock, rounds: usize) {
    repeat(rounds, |_| zero::scan(black_box(&block)));
}

fn encode(encode: impl Fn(&mut Vec<u8>), rounds: usize) {
    let mut out = Vec::with_capacity(PAGE_SIZE);
    repeat(rounds, |_| {
        (0..MESSAGES).for_each(|_| {
            out.clear();
            encode(&mut out);
            black_box(&out);
        });
    });
}

fn decode<T>(bytes: Vec<u8>, decode: impl Fn(&[u8]) -> T, rounds: usize) {
    repeat(rounds, |_| {
        (0..MESSAGES).for_each(|_| {
            black_box(decode(black_box(&bytes)));
        });
    });
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [part, rounds] = arguments.as_slice()
        && let Ok(rounds) = rounds.parse::<usize>()
    {
        let Some((.., run)) = PARTS.iter().find(|(name, ..)| name == part) else {
            panic!("no part is called {part:?}")
        };
        assert!(rounds <= MOST_ROUNDS, "at most {MOST_ROUNDS} rounds");
        return run(rounds);
    }
    // So it is under `cargo bench` and `cargo test --benches`.
    for (name, unit, units, run) in PARTS {
        run(1);
        println!("{name}\t{unit}\t{units}");
    }
}
