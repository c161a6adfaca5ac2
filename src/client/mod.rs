//! `whimbrel migrate`: drives a running virtual machine through its QMP socket.

mod connection;
mod drive;
mod plan;
mod progress;
mod status;

pub(crate) use connection::Connection;
pub use connection::QmpError;
pub(crate) use drive::start;
pub use drive::{DriveError, migrate};
pub use plan::{Mode, Plan, QmpAddress};
pub(crate) use status::{Phase, Progress};

#[cfg(test)]
mod tests;
