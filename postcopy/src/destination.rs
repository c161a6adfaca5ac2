//! The destination of a migration: the guest arrives.
//!
//! `state` decides, `driver` does: it owns the control channel, precopied and background pages and
//! the guest. `faults` serves touched pages on a channel and a thread of its own. `tracker` is what
//! both know of each page, `place` puts pages into RAM for both, `staging` has the background come
//! together in huge pages first, and `populate` provides memory beforehand. `intake` takes pages
//! off a channel: the control channel or, on as many threads, those of `multifd`. `rejoin` is what
//! `driver` does while the link is gone.

mod chunk;
mod connection;
mod control;
mod driver;
mod faults;
mod groups;
mod intake;
mod latency;
mod lobby;
mod multifd;
mod page_source;
mod place;
mod populate;
mod recover;
mod staging;
mod state;
mod tracker;

pub use control::{DestinationHandle, ListenAgain, Options, start, start_with};
pub use multifd::MultifdEpoch;
pub use state::{Compressed, Destination, Effect, GuestPlace};
pub use tracker::{Touch, Tracker};
