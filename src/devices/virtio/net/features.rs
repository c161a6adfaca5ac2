//! What is offered to the driver (section 5.1.3), and what that means for the tap.

use crate::net::Offload;

/// The host completes checksums.
pub const CSUM: u64 = 1 << 0;
/// The driver takes frames whose checksum is not complete.
pub const GUEST_CSUM: u64 = 1 << 1;
/// The driver may change its mind about the bits of [`GUEST_OFFLOADS`].
pub const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
/// The configuration space has the card's address.
pub const MAC: u64 = 1 << 5;
/// The driver takes TCP segments over IPv4 larger than a frame.
pub const GUEST_TSO4: u64 = 1 << 7;
/// Over IPv6.
pub const GUEST_TSO6: u64 = 1 << 8;
/// Also such with the congestion bit.
pub const GUEST_ECN: u64 = 1 << 9;
/// The host cuts TCP segments over IPv4 into frames.
pub const HOST_TSO4: u64 = 1 << 11;
/// Over IPv6.
pub const HOST_TSO6: u64 = 1 << 12;
/// Also such with the congestion bit.
pub const HOST_ECN: u64 = 1 << 13;
/// A frame to the guest may lie in several chains.
pub const MRG_RXBUF: u64 = 1 << 15;
/// The configuration space has the status.
pub const STATUS: u64 = 1 << 16;
/// The third queue.
pub const CTRL_VQ: u64 = 1 << 17;
/// The driver announces the guest when the status says so.
pub const GUEST_ANNOUNCE: u64 = 1 << 21;
/// The driver may set the card's address by the third queue.
pub const CTRL_MAC_ADDR: u64 = 1 << 23;

/// What the tap may leave to the driver; the bits of the third queue's command are the features'
/// own.
pub const GUEST_OFFLOADS: u64 = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN;

/// All that is offered.
pub const OFFERED: u64 = CSUM
    | CTRL_GUEST_OFFLOADS
    | MAC
    | GUEST_OFFLOADS
    | HOST_TSO4
    | HOST_TSO6
    | HOST_ECN
    | MRG_RXBUF
    | STATUS
    | CTRL_VQ
    | GUEST_ANNOUNCE
    | CTRL_MAC_ADDR;

/// The same as a tap knows it.
pub fn offload(features: u64) -> Offload {
    let has = |bit| features & bit != 0;
    Offload { checksum: has(GUEST_CSUM), tso4: has(GUEST_TSO4), tso6: has(GUEST_TSO6), ecn: has(GUEST_ECN) }
}
