//! The source of a migration: the guest leaves.
//!
//! `state` decides, `driver` does: it owns the guest and the `connection` with its channels.
//! `demand` answers page requests on a channel and a thread of its own, so that no background byte
//! stands before a page that somebody waits for. `slowing` decides by how much a guest that writes
//! too fast is throttled, by what `meter` reads; `throttled` sees that it does not stay so.
//! `rejoin` is what `driver` does while the link is gone. `multifd` sends many pages on several
//! channels at once, `release` gives pages back to the host that the destination has, and `pacer`
//! holds whatever goes in the background to what `link` finds.

mod action;
mod auto_converge;
mod congestion;
mod connection;
mod control;
mod convergence;
mod demand;
mod dirty_rate;
mod driver;
mod multifd;
mod multifd_driver;
mod outgoing;
mod pacing;
mod rate_limit;
mod recover;
mod release;
mod scheduler;
mod state;
mod throttle_guard;
mod xbzrle;

pub use action::{Action, Figures, MultifdThresholds, Outcome};
pub use auto_converge::{AutoConverge, DirtyLimit, ThrottlePolicy, regulate};
pub use control::{Multifd, SourceHandle, TooLate, start, start_with};
pub use convergence::{Limits, Policy};
pub use demand::answer;
pub use dirty_rate::DirtyRateMeter;
pub(crate) use driver::introduction;
pub use release::Released;
pub use scheduler::Hint;
pub use state::Source;
