//! A network card (virtio 1.2, section 5.1), whose other end is a tap.
//!
//! | file | what is in it |
//! |---|---|
//! | `card` | [`Net`]: its three queues, its descriptors, its saved state |
//! | `inbox` | frames from the tap into the driver's buffers |
//! | `outbox` | frames from the driver to the tap |
//! | `control` | what the driver asks for on its third queue: pure, no I/O |
//! | `features` | what is offered, and what it means for the tap |
//!
//! Nothing is filtered: what the tap gives, the guest gets. On a bridge that is what is for the
//! guest, for all, or for whoever the bridge does not know.

mod card;
mod control;
mod features;
mod inbox;
mod outbox;

pub use card::Net;

#[cfg(test)]
mod tests;
