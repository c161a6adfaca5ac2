//! The host's side of the guest's network cards.
//!
//! | file | what is in it |
//! |---|---|
//! | `mac` | Ethernet addresses, and the one a card has when none was given |
//! | `tap` | a tap: opening it or taking over an open one, frames, offloads |
//! | `rarp` | the frame by which switches learn where the guest is now |
//! | `announce` | when such frames are sent: rounds and their delays, without a clock of its own |
//! | `interface` | one card, as the monitor and the card's own thread share it |
//! | `network` | all cards of a machine: announcing, listing |

mod announce;
mod config;
mod interface;
mod mac;
mod network;
mod rarp;
mod tap;

pub use announce::{Announcement, Announcements, OutOfRange, Schedule, Timing, TooManyAnnouncements};
pub use config::{NetConfig, TapSource};
pub use interface::{Interface, InterfaceInfo};
pub use mac::{MacAddr, MacError};
pub use network::{Network, NetworkError};
pub use rarp::{RARP_FRAME, rarp_frame};
pub use tap::{HEADER, Offload, Tap, TapError};

#[cfg(test)]
pub(crate) mod testing;
