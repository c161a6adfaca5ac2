//! What the fuzz targets do with their bytes, a module each: `check` may panic only where Whimbrel
//! is wrong. `seeds` are inputs to begin with, which `cargo run --example seeds` writes into the
//! corpora.

pub mod arrival;
pub mod command_line;
pub mod decoder;
pub mod destination;
mod input;
pub mod loaders;
mod memory;
pub mod monitor;
pub mod qcow2;
pub mod return_path;
pub mod state;
pub mod virtio;

/// A name and bytes to begin with.
pub type Seed = (&'static str, Vec<u8>);

/// A target's name and its seeds.
pub type Target = (&'static str, fn() -> Vec<Seed>);

/// Every target.
pub const TARGETS: [Target; 10] = [
    ("arrival", arrival::seeds),
    ("command_line", command_line::seeds),
    ("decoder", decoder::seeds),
    ("destination", destination::seeds),
    ("loaders", loaders::seeds),
    ("monitor", monitor::seeds),
    ("qcow2", qcow2::seeds),
    ("return_path", return_path::seeds),
    ("state", state::seeds),
    ("virtio", virtio::seeds),
];
