//! A live-migration engine: precopy, postcopy on userfaultfd, and both in turn.

pub mod bitmap;
pub mod guest;
pub mod memory;
pub mod ram;
pub mod stats;
pub mod wire;
