//! `whimbrel migrate`: drives a running virtual machine through its QMP socket.

mod connection;
mod drive;
mod plan;
mod progress;
mod status;

pub use connection::QmpError;
pub use drive::{DriveError, migrate};
pub use plan::{Mode, Plan, QmpAddress};

#[cfg(test)]
mod tests;
