//! `whimbrel migrate`: drives a running virtual machine through its QMP socket.

mod applied;
mod connection;
mod drive;
mod outcome;
mod plan;
mod progress;
mod status;

pub(crate) use connection::Connection;
pub use connection::QmpError;
pub use drive::migrate;
pub(crate) use drive::start;
pub use outcome::{CODES, Outcome};
pub use plan::{GivenTwice, Mode, Plan, QmpAddress, Settings, Task};
pub(crate) use status::{Phase, Progress};

#[cfg(test)]
mod tests;
