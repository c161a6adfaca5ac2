//! What the driver asks for on its third queue (section 5.1.6.5).

use super::super::{Broken, Chain};
use super::features::{CTRL_GUEST_OFFLOADS, CTRL_MAC_ADDR, GUEST_ANNOUNCE, GUEST_OFFLOADS};
use crate::kvm::GuestMemory;
use crate::net::MacAddr;

/// The answer: done, or not.
pub const OK: u8 = 0;
/// See [`OK`].
pub const ERROR: u8 = 1;

/// Class and command.
const MAC_SET: (u8, u8) = (1, 1);
const ANNOUNCE_SEEN: (u8, u8) = (3, 0);
const OFFLOADS_SET: (u8, u8) = (5, 0);

/// The longest command that is known, with its class.
const LONGEST: usize = 2 + 8;

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The card's address is this from now on.
    SetMac(MacAddr),
    /// The driver has seen that it is to announce the guest.
    AnnounceSeen,
    /// The tap may leave this to the driver, and no more: bits of [`GUEST_OFFLOADS`].
    SetOffloads(u64),
}

impl Command {
    /// What a chain asks for, of a driver that took `features`; `None` if it asks for what was not
    /// offered or makes no sense.
    pub fn read(chain: &Chain, memory: &GuestMemory, features: u64) -> Result<Option<Self>, Broken> {
        if chain.readable_bytes() < 2 || chain.writable_bytes() < 1 {
            return Err(Broken("a command has no name, or no room for its answer".into()));
        }
        let mut bytes = [0; LONGEST + 1];
        let length = chain.read_at(memory, 0, &mut bytes)?;
        Ok(Self::parse(&bytes[..length], features))
    }

    fn parse(bytes: &[u8], features: u64) -> Option<Self> {
        let [class, command, data @ ..] = bytes else {
            return None;
        };
        let has = |bit| features & bit != 0;
        match (*class, *command) {
            MAC_SET if has(CTRL_MAC_ADDR) => MacAddr::new(data.try_into().ok()?).map(Self::SetMac),
            ANNOUNCE_SEEN if has(GUEST_ANNOUNCE) && data.is_empty() => Some(Self::AnnounceSeen),
            OFFLOADS_SET if has(CTRL_GUEST_OFFLOADS) => {
                let wanted = u64::from_le_bytes(data.try_into().ok()?);
                (wanted & !(features & GUEST_OFFLOADS) == 0).then_some(Self::SetOffloads(wanted))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::features::{GUEST_CSUM, GUEST_TSO4, OFFERED};
    use super::*;

    #[test]
    fn commands_are_told_apart() {
        let mac = "52:54:00:00:00:07".parse().unwrap();
        assert_eq!(Command::parse(&[1, 1, 0x52, 0x54, 0, 0, 0, 7], OFFERED), Some(Command::SetMac(mac)));
        assert_eq!(Command::parse(&[3, 0], OFFERED), Some(Command::AnnounceSeen));
        let offloads = [5, 0, 0x82, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Command::parse(&offloads, OFFERED), Some(Command::SetOffloads(GUEST_CSUM | GUEST_TSO4)));
    }

    #[test]
    fn what_was_not_taken_or_makes_no_sense_is_nothing() {
        for (bytes, features) in [
            // Receive modes, VLANs, several queues: not offered.
            (&[0, 0, 1][..], OFFERED),
            (&[2, 0, 1, 0], OFFERED),
            (&[4, 0, 1, 0], OFFERED),
            // Too short, too long, a group's address.
            (&[1, 1, 0x52, 0x54, 0, 0, 0], OFFERED),
            (&[1, 1, 0x52, 0x54, 0, 0, 0, 7, 0], OFFERED),
            (&[1, 1, 0x01, 0x54, 0, 0, 0, 7], OFFERED),
            (&[3, 0, 0], OFFERED),
            (&[5, 0, 2, 0], OFFERED),
            // Not what the driver took.
            (&[1, 1, 0x52, 0x54, 0, 0, 0, 7], OFFERED & !CTRL_MAC_ADDR),
            (&[3, 0], OFFERED & !GUEST_ANNOUNCE),
            (&[5, 0, 0x82, 0, 0, 0, 0, 0, 0, 0], OFFERED & !GUEST_TSO4),
            (&[5, 0, 0, 0x04, 0, 0, 0, 0, 0, 0], OFFERED),
            (&[], OFFERED),
        ] {
            assert_eq!(Command::parse(bytes, features), None, "{bytes:x?}");
        }
    }
}
