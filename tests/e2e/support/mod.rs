//! What the tests stand on.
//!
//! | file | what is in it |
//! |---|---|
//! | `host`, `skip` | what the host can do, and skipping what it cannot |
//! | `vm` | a Whimbrel process with its sockets; `Machine` starts sources and destinations alike |
//! | `qmp` | a client of the QMP socket |
//! | `guest` | the talk with the test guest over the serial port |
//! | `proxy` | a link that counts, and can hang and be cut |
//! | `faulty_link` | a link that reads along, and breaks at a chosen place of a chosen channel |
//! | `terminal` | a terminal that a process runs on, and what its screen shows |
//! | `transcript` | everything that a stream said, and waiting for it to say something |

pub mod faulty_link;
pub mod guest;
pub mod host;
pub mod proxy;
pub mod qmp;
pub mod skip;
pub mod terminal;
pub mod transcript;
pub mod vm;

use std::time::Duration;

pub use vm::{Machine, Transport, Vm};

/// How long anything may take. Far more than it does: what runs into it is broken.
pub const LIMIT: Duration = Duration::from_secs(60);
