//! End to end: real processes, real KVM, guests that check every page of their memory.
//!
//! One program with a module for each subject, so that it links once: `cargo test --test e2e
//! migrate::`. What a test needs of the host it asks for (`support::host`); where that is missing
//! it is skipped, loudly.
#![allow(clippy::unwrap_used, clippy::panic)]

mod analyze;
mod bandwidth;
mod both_ways;
mod cancel;
mod clients;
mod cpu;
mod driven;
mod encodings;
mod files;
mod lifecycle;
mod live_upgrade;
mod mapped;
mod migrate;
mod monitor;
mod one_way;
mod output;
mod paused;
mod postcopy_break;
mod security;
mod service_manager;
mod snapshots;
mod streams;
mod support;
mod switchover;
mod there_and_back;
mod throttle;
mod tls;
#[cfg(feature = "top")]
mod top;
mod torture;
mod waits_on;
