//! The frame by which switches learn where the guest is now.

use super::MacAddr;

/// Its length in bytes: the least that Ethernet carries, without the checksum that hardware adds.
pub const RARP_FRAME: usize = 60;

/// Ethernet's number for the reverse address resolution protocol.
const ETHERTYPE_RARP: u16 = 0x8035;
/// RFC 903: Ethernet addresses are being resolved to IPv4's.
const HARDWARE_ETHERNET: u16 = 1;
const PROTOCOL_IPV4: u16 = 0x0800;
const IPV4_LEN: usize = 4;
const REQUEST_REVERSE: u16 = 3;

/// A broadcast from `mac`. As RARP it asks for the address of `mac` itself, which nobody answers;
/// every switch on its way notes at which port `mac` now is, and nothing needs to be known of the
/// guest's IP addresses.
pub fn rarp_frame(mac: MacAddr) -> [u8; RARP_FRAME] {
    let mac = mac.bytes();
    let fields: [&[u8]; 11] = [
        &[0xff; MacAddr::LEN],
        &mac,
        &ETHERTYPE_RARP.to_be_bytes(),
        &HARDWARE_ETHERNET.to_be_bytes(),
        &PROTOCOL_IPV4.to_be_bytes(),
        &[MacAddr::LEN as u8, IPV4_LEN as u8],
        &REQUEST_REVERSE.to_be_bytes(),
        // Sender, then target, each with an IPv4 address that is not known.
        &mac,
        &[0; IPV4_LEN],
        &mac,
        &[0; IPV4_LEN],
    ];
    let mut frame = [0; RARP_FRAME];
    let mut rest = frame.iter_mut();
    for byte in fields.into_iter().flatten() {
        if let Some(place) = rest.next() {
            *place = *byte;
        }
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_for_byte() {
        let frame = rarp_frame("52:54:00:12:34:56".parse().unwrap());
        let mut expected = vec![0xff; 6];
        expected.extend([0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0x80, 0x35]);
        expected.extend([0x00, 0x01, 0x08, 0x00, 6, 4, 0x00, 0x03]);
        expected.extend([0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0, 0, 0, 0]);
        expected.extend([0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0, 0, 0, 0]);
        expected.extend([0; 18]);
        assert_eq!(frame.as_slice(), expected);
    }
}
