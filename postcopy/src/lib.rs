//! A live-migration engine for virtual machine monitors: precopy, postcopy on userfaultfd, and both
//! in turn.
//!
//! The engine moves guest RAM itself and treats everything else as opaque: a monitor implements
//! [`guest::Guest`], says where to ([`channel::Connector`]) or where from ([`channel::Acceptor`]),
//! and calls [`source::start`] or [`destination::start`]. It knows no KVM and no device.
//!
//! # The design on one page
//!
//! One migration has two channels. The *control* channel carries the guest's description, precopied
//! and background pages and the device state forward, and replies back. The *demand* channel
//! carries page requests back and the pages they ask for forward, so that no background byte ever
//! stands before a page that a vCPU waits for. Each side has two threads: one for each channel.
//! There may be *multifd* channels besides, each with a thread on both sides: many pages go on all
//! of them at once, between two words on the control channel (`source/multifd.rs`,
//! `destination/multifd.rs`). A thread that panics breaks the link, no more (`panics.rs`).
//!
//! ```text
//!        source host                                        destination host
//!   vCPUs   migration thread ===== control channel =====> incoming thread   vCPUs
//!             (passes, pusher)   <---- replies ------      (writes, places)    | touch a missing page
//!                                                                              v
//!           demand thread   ===== demand channel ======> fault loop <--- userfaultfd
//!             (claims pages)     <---- requests -----      (asks, places)
//! ```
//!
//! What each side decides stands in a state machine without I/O, clock or thread:
//! [`source::Source`] and [`destination::Destination`]; drivers carry the decisions out. What both
//! threads of a side share is a bitmap of atomic bits: on the source the pages that are *pending*
//! (dirty in precopy, not yet sent in postcopy: sending claims the bit, so no page is sent twice),
//! on the destination the pages *received* (set only after a page's contents are there).
//!
//! Demanded pages are copied into RAM one by one. Background pages come together in memory beside
//! RAM and are moved in a huge page at a time (`destination/staging.rs`), so that a guest that had
//! huge pages has them again.
//!
//! ```text
//! source:       Describing -> Precopy (passes) -> Pausing -> AwaitReady => AwaitRunning -> Pushing
//!                    \-> AwaitListening (at once) --^ |           |   the one-way door
//!                                                    v           v
//!                                      Failed, Cancelled: the guest runs on here
//!
//!               Pushing -> Completed; its link lost: LinkLost <-> Recovering
//!
//! destination:  Configuration -> Ram -> Precopy -> Listening -> Loading -> Loaded -> Running
//!                                          \-- every page here ---^          |
//!                                                                            v
//!                                               NeverRan: the source is told when it asks
//!
//!               Running -> Finishing -> Completed; its link lost: LinkLost <-> Recovering
//! ```
//!
//! The one-way door is a type: the source may resume the guest while it holds a
//! [`guest::PausedGuest`]; handing over consumes it, and what is left, [`guest::HandedOver`],
//! turns back into a `PausedGuest` only by the destination's word that it did not start the guest.
//! An end of stream is never success: a migration is complete when the destination has said that
//! every page is in place.

pub mod bitmap;
pub mod channel;
mod commands;
pub mod destination;
pub mod encoding;
pub mod error;
pub mod files;
pub mod guest;
mod handshake;
#[cfg(not(feature = "simulation"))]
mod host;
#[cfg(feature = "simulation")]
#[path = "../simulation/host.rs"]
pub mod host;
pub mod logging;
pub mod memory;
mod panics;
pub mod progress;
pub mod ram;
pub mod source;
pub mod stats;
pub mod stream;
#[cfg_attr(feature = "simulation", path = "../simulation/thread_priority.rs")]
mod thread_priority;
pub mod throttle;
pub mod uffd;
pub mod wire;

/// The code in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
