//! Whimbrel: a KVM virtual machine monitor built around postcopy-first live migration.
// They panic where the output is full or closed: see `stdio`.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod analyze;
pub mod block;
pub mod boot;
pub mod chardev;
pub mod cli;
pub mod client;
pub mod config;
pub mod demo;
pub mod devices;
pub mod dirty;
pub mod fds;
pub mod host;
pub mod kvm;
pub mod launcher;
pub mod machine;
pub mod migration;
pub mod monitor;
pub mod nearest;
pub mod net;
pub mod os;
pub mod run;
pub mod sandbox;
pub mod sd_notify;
pub mod sentence;
pub mod signals;
pub mod size;
pub mod snapshots;
pub mod state;
pub mod stdio;
mod sync;
#[cfg(feature = "top")]
pub mod top;
pub mod vcpu;

// One text for all tests that skip, unit tests and end-to-end tests alike.
#[cfg(test)]
#[path = "../tests/e2e/support/skip.rs"]
mod skip;
