//! What `--cpu` chooses: the processor that a guest is shown.
//!
//! | file | what is in it |
//! |---|---|
//! | `choice` | [`CpuModel`]: a base and changes to it, from text and back |
//! | `levels` | the features of each baseline |
//! | `needs` | which feature needs which |
//! | `offer` | [`Offer`]: what the host's KVM can show |
//! | `guest` | [`GuestCpu`]: a model on a host: its features, its leaves |
//! | `leaves` | the leaves of a baseline, the same on every host |
//! | `xsave` | the leaf that lays out extended registers |

mod choice;
mod guest;
mod leaves;
mod levels;
mod needs;
mod offer;
mod xsave;

pub use choice::{CpuBase, CpuModel, CpuModelError};
pub use guest::{GuestCpu, UnfitHost};
pub use levels::Level;
pub use offer::{Offer, physical_bits, vendor};
pub use xsave::xsave_layout;

#[cfg(test)]
mod tests;
