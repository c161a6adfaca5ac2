//! What `--cpu` chooses: the processor that a guest is shown.
//!
//! | file | what is in it |
//! |---|---|
//! | `choice` | [`CpuModel`]: a base and changes to it, from text and back |
//! | `levels` | the features of each baseline |
//! | `needs` | which feature needs which |
//! | `offer` | [`HostCaps`]: what the host's KVM can show |
//! | `guest` | [`GuestCpu`]: a model on a host: its features, its leaves |
//! | `leaves` | the leaves of a baseline, the same on every host |
//! | `xsave` | the leaf that lays out extended registers |

mod choice;
mod feature_deps;
mod guest;
mod host_caps;
mod leaves;
mod levels;
mod xsave;

pub use choice::{CpuBase, CpuModel, CpuModelError};
pub use guest::{GuestCpu, UnfitHost};
pub use host_caps::{HostCaps, physical_bits, vendor};
pub use levels::Level;
pub use xsave::xsave_layout;

#[cfg(test)]
mod tests;
