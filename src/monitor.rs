//! The monitor: one table of commands with two faces, and the loop that serves both.
//!
//! | file | what is in it |
//! |---|---|
//! | `mainloop` | the one thread that serves all clients: sockets, signals, events, the end |
//! | `client`, `endpoint`, `outbox` | a client's socket, where clients come from, unsent answers |
//! | `hmp`, `qmp` | the two faces: bytes in, a command with its arguments, bytes out |
//! | `command` | what a row of the table is |
//! | `table` | the commands: a command is one row of one file, with its handlers |
//! | `vm` | whose method does what a handler asks for |
//! | `notice`, `event` | what machine and migration tell, and how QMP's clients hear of it |
//!
//! A command's way: `mainloop`, `client`, the session of `hmp` or `qmp`, the row's handler in
//! `table`, [`crate::migration::Migration`] (or the machine, or the snapshots), and back.

pub mod args;
mod client;
pub mod command;
mod endpoint;
pub mod error;
pub mod event;
mod event_rate_limit;
pub mod hmp;
mod info_migrate;
pub mod mainloop;
pub mod notice;
mod outbox;
pub mod qmp;
mod query_migrate;
pub mod session;
mod splitter;
pub mod table;
pub mod vm;

pub use mainloop::{Ending, MainLoop, MonitorError};
pub use vm::LiveVm;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fake;
