//! virtio over MMIO, version 1 of the specification (OASIS virtio 1.2, section 4.2): one device a
//! file.
//!
//! | file | what is in it |
//! |---|---|
//! | `backend` | [`Backend`]: what a kind of device must do |
//! | `device` | [`VirtioDevice`]: one device on the bus, and its saved state |
//! | `registers` | what the driver wrote into the transport's registers: pure, no I/O |
//! | `worker` | the thread that serves one device's queues |
//! | `gate` | stopping that thread at a point where nothing is under way |
//! | `ring` | one queue: taking chains, giving them back, interrupting |
//! | `chain` | a descriptor chain, checked to lie in RAM, and copying in and out of it |
//! | `signal` | the interrupt, its cause, and `needs reset` |
//! | `sparing` | complaints of what a guest does, few of them |
//! | `config_space` | the bytes that the driver reads behind the registers |
//! | `blk` | disks |
//! | `net` | network cards |
//! | `rng` | entropy |
//! | `console` | a console, Linux's `hvc0` |
//! | `balloon` | memory that the guest gives back |
//!
//! ```text
//!  vCPU: register write --> registers --> worker parked --> queues set up or taken away --> worker goes on
//!  vCPU: notification -----> ioeventfd -+
//!  host: tap, timer, ... --> descriptor +--> worker --> backend --> used ring --> irqfd --> interrupt
//! ```
//! A worker may wait for a page of a migration for as long as it likes: the lock that it holds then
//! is only taken by who has seen it parked.

mod backend;
mod balloon;
mod blk;
mod chain;
mod config_space;
mod console;
mod device;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod log_ratelimit;
mod net;
mod registers;
mod ring;
mod rng;
mod signal;
#[cfg(test)]
pub(crate) mod testing;
mod worker;
mod worker_gate;

pub use backend::{Backend, Broken, Host, Kind, Work};
pub use balloon::{Balloon, BalloonLevel};
pub use blk::Block;
pub use chain::{Chain, Segment};
pub use config_space::ConfigSpace;
pub use console::{Console, Inbox};
pub use device::{VirtioDevice, VirtioError};
pub use net::Net;
pub use ring::Ring;
pub use rng::Rng;
pub use worker::WorkerEvents;
