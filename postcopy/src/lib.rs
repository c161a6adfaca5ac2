#![doc = include_str!("../README.md")]

pub mod bitmap;
pub mod channel;
pub mod destination;
pub mod error;
mod greeting;
pub mod guest;
pub mod memory;
pub mod progress;
pub mod ram;
pub mod source;
pub mod stats;
pub mod uffd;
pub mod wire;
