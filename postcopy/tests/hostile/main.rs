//! A lying peer against the real drivers, over socket pairs: each lie gets one clear sentence,
//! costs no memory, hangs nobody, and before the hand-over the guest on the source runs on.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod encodings;
mod false_destination;
mod false_ram;
mod false_source;
mod multifd;
mod peer;
mod truncated;
