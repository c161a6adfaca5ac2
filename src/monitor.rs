//! The monitor: one table of commands with two faces, and the loop that serves both.
//!
//! A line (HMP) or a JSON object (QMP) becomes a [`request::Request`] by the command [`table`], is
//! executed once ([`execute`]) on a [`vm::Vm`], and its [`request::Reply`] is rendered by the face
//! that asked. The faces ([`hmp`], [`qmp`]) take bytes and give bytes; sockets, signals and events
//! meet in [`mainloop`].

pub mod args;
mod block;
mod client;
mod dirty;
mod endpoint;
pub mod error;
pub mod event;
mod event_rate_limit;
pub mod execute;
pub mod hmp;
mod info_migrate;
pub mod mainloop;
mod outbox;
pub mod qmp;
mod query_migrate;
pub mod request;
pub mod session;
mod snapshots;
mod splitter;
pub mod table;
pub mod vm;

pub use mainloop::{Ending, MainLoop, MonitorError};
pub use vm::LiveVm;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fake;
