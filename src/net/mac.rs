//! [`MacAddr`]: Ethernet addresses, and the one a card has when none was given.

use std::fmt;
use std::fs;
use std::os::linux::fs::MetadataExt;
use std::str::FromStr;

/// An Ethernet address of one station: neither a group's nor all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddr([u8; 6]);

/// Not a station's Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not six pairs of digits.
    #[error("'{0}' is not an Ethernet address; write six pairs of hexadecimal digits, such as 52:54:00:12:34:56")]
    Syntax(String),
    /// Not one station's.
    #[error("{0} is not the address of one card; use one whose first pair is even, such as 52:54:00:12:34:56")]
    NotAStation(String),
}

impl MacAddr {
    /// How many bytes it has.
    pub const LEN: usize = 6;

    /// The address with these bytes; `None` for a group's, and for all zero, which no card can
    /// have.
    pub const fn new(bytes: [u8; Self::LEN]) -> Option<Self> {
        match bytes {
            [0, 0, 0, 0, 0, 0] => None,
            [first, ..] if first & 1 != 0 => None,
            _ => Some(Self(bytes)),
        }
    }

    /// As it stands in a frame.
    pub const fn bytes(self) -> [u8; Self::LEN] {
        self.0
    }

    /// The address of a card for which none was given: the same each time for the same machine name
    /// on the same tap of the same host, another for any other of the three.
    ///
    /// `machine` is `--name`, or empty.
    pub fn for_tap(tap: &str, machine: &str) -> Self {
        Self::derived(&[host().as_str(), tap, machine])
    }

    /// Behind QEMU's prefix, which says "administered locally", 24 bits that all the parts together
    /// decide.
    fn derived(parts: &[&str]) -> Self {
        let hash = parts.iter().flat_map(|part| part.bytes().chain([0])).fold(FNV_OFFSET, |hash, byte| {
            // FNV-1a: the standard library's hash may change from one release to the next, an
            // address must not.
            (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME)
        });
        // The low bits of a product know little of the high ones: fold all 64 into the 24.
        let folded = hash ^ (hash >> 24) ^ (hash >> 48);
        let [_, _, _, _, _, a, b, c] = folded.to_be_bytes();
        Self([0x52, 0x54, 0x00, a, b, c])
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// What tells this host, and this network namespace of it, from others. Containers often share
/// their host's machine identifier and all call their tap the same, hence the namespace.
fn host() -> String {
    let read = |path: &str| fs::read_to_string(path).ok().filter(|text| !text.trim().is_empty());
    // Without a machine identifier the address lasts as long as the host is up, which is better
    // than one that two hosts share.
    let host = read("/etc/machine-id").or_else(|| read("/proc/sys/kernel/random/boot_id")).unwrap_or_default();
    let namespace = fs::metadata("/proc/thread-self/ns/net").map_or(0, |file| file.st_ino());
    format!("{} {namespace}", host.trim())
}

impl FromStr for MacAddr {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let syntax = || MacError::Syntax(text.to_owned());
        let mut bytes = [0; Self::LEN];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next().filter(|it| it.len() == 2 && it.bytes().all(|digit| digit.is_ascii_hexdigit()));
            *byte = pair.and_then(|it| u8::from_str_radix(it, 16).ok()).ok_or_else(syntax)?;
        }
        match pairs.next() {
            Some(_) => Err(syntax()),
            None => Self::new(bytes).ok_or_else(|| MacError::NotAStation(text.to_owned())),
        }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn text_and_back() {
        let mac: MacAddr = "52:54:00:Ab:0c:9F".parse().unwrap();
        assert_eq!(mac.bytes(), [0x52, 0x54, 0, 0xab, 0x0c, 0x9f]);
        assert_eq!(mac.to_string(), "52:54:00:ab:0c:9f");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in
            ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "5254:00:12:34:56", "+2:54:00:12:34:56", "52-54-00-12-34-56"]
        {
            assert_eq!(text.parse::<MacAddr>(), Err(MacError::Syntax(text.to_owned())));
        }
        for text in ["00:00:00:00:00:00", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff"] {
            assert_eq!(text.parse::<MacAddr>(), Err(MacError::NotAStation(text.to_owned())));
        }
    }

    #[test]
    fn a_derived_address_stays_and_differs_from_others() {
        assert_eq!(MacAddr::for_tap("tap0", "vm"), MacAddr::for_tap("tap0", "vm"));
        // A change of the derivation would change guests' addresses.
        assert_eq!(MacAddr::derived(&["host", "tap0", "vm"]).to_string(), "52:54:00:df:b7:6f");
        let mut seen = HashSet::new();
        for parts in [["a", "tap0", ""], ["b", "tap0", ""], ["a", "tap1", ""], ["a", "tap0", "x"], ["a", "tap", "0"]] {
            assert!(seen.insert(MacAddr::derived(&parts)), "{parts:?}");
        }
        // Chance alone makes about 3 of 10000 collide.
        let many: HashSet<_> = (0..10_000).map(|n| MacAddr::derived(&["host", &format!("tap{n}"), ""])).collect();
        assert!(many.len() > 9_985, "{}", many.len());
    }
}
