//! `--net`.

use std::os::fd::RawFd;

use crate::config::{NetConfig, TapSource};
use crate::net::{MacAddr, MacError};

/// The kernel's `IFNAMSIZ`, without the terminator.
const MAX_NAME: usize = 15;
/// Standard input, output and error are no taps.
const FIRST_FD: RawFd = 3;
/// Slots for devices of all kinds that the machine has.
const MAX_CARDS: usize = 16;

/// A value of `--net` that cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetValueError {
    /// `KEY=VALUE` that does not exist.
    #[error("'{0}' is not an option of --net; write tap=NAME or fd=N, and ,mac=ADDRESS if you like")]
    Option(String),
    /// The same key again.
    #[error("'{0}' is given twice; leave one of them out")]
    Twice(String),
    /// No tap.
    #[error("a network card needs a tap; write tap=NAME or fd=N")]
    NoTap,
    /// Both.
    #[error("tap= and fd= are both given; a network card has one tap")]
    TwoTaps,
    /// Not an interface's name.
    #[error("'{0}' cannot be a network interface's name; use 1 to 15 letters, digits, '-', '_' or '.'")]
    Name(String),
    /// Not a descriptor's number.
    #[error("'{0}' is not the number of an inherited file; give one from 3 on, such as fd=3")]
    Fd(String),
    /// Not an address.
    #[error(transparent)]
    Mac(#[from] MacError),
}

/// Cards that get in each other's way.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetClash {
    /// One tap for two.
    #[error("two network cards have {0}; give each its own tap")]
    Tap(String),
    /// One address for two.
    #[error("two network cards have mac={0}; give each its own address")]
    Mac(MacAddr),
    /// More than there is room for.
    #[error("a machine has at most {MAX_CARDS} network cards; leave some --net out")]
    TooMany,
}

/// `--net tap=NAME|fd=N[,mac=ADDRESS]`.
pub fn net(text: &str) -> Result<NetConfig, NetValueError> {
    let (mut tap, mut fd, mut mac) = (None, None, None);
    for option in text.split(',') {
        let (key, value) = option.split_once('=').ok_or_else(|| NetValueError::Option(option.to_owned()))?;
        let before = match key {
            "tap" => tap.replace(name(value)?).is_some(),
            "fd" => fd.replace(number(value)?).is_some(),
            "mac" => mac.replace(value.parse()?).is_some(),
            _ => return Err(NetValueError::Option(option.to_owned())),
        };
        if before {
            return Err(NetValueError::Twice(key.to_owned()));
        }
    }
    let tap = match (tap, fd) {
        (Some(name), None) => TapSource::Named(name),
        (None, Some(fd)) => TapSource::Inherited(fd),
        (None, None) => return Err(NetValueError::NoTap),
        (Some(_), Some(_)) => return Err(NetValueError::TwoTaps),
    };
    Ok(NetConfig { tap, mac })
}

/// What the kernel takes as a name, and less: it would make a number out of `%d` and alias
/// addresses out of `:`.
fn name(text: &str) -> Result<String, NetValueError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    match text {
        "" | "." | ".." => Err(NetValueError::Name(text.to_owned())),
        _ if text.len() > MAX_NAME || !text.bytes().all(fits) => Err(NetValueError::Name(text.to_owned())),
        _ => Ok(text.to_owned()),
    }
}

fn number(text: &str) -> Result<RawFd, NetValueError> {
    let digits = text.bytes().all(|it| it.is_ascii_digit());
    let number = text.parse().ok().filter(|it| digits && *it >= FIRST_FD);
    number.ok_or_else(|| NetValueError::Fd(text.to_owned()))
}

/// Checks the cards against each other.
pub fn check(cards: &[NetConfig]) -> Result<(), NetClash> {
    if cards.len() > MAX_CARDS {
        return Err(NetClash::TooMany);
    }
    for (at, card) in cards.iter().enumerate() {
        for other in &cards[..at] {
            if card.tap == other.tap {
                return Err(NetClash::Tap(match &card.tap {
                    TapSource::Named(name) => format!("tap={name}"),
                    TapSource::Inherited(fd) => format!("fd={fd}"),
                }));
            }
            if let (Some(mac), true) = (card.mac, card.mac == other.mac) {
                return Err(NetClash::Mac(mac));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_by_name_or_by_number() {
        let mac = Some("52:54:00:12:34:56".parse().unwrap());
        assert_eq!(net("tap=tap0"), Ok(NetConfig { tap: TapSource::Named("tap0".to_owned()), mac: None }));
        assert_eq!(
            net("mac=52:54:00:12:34:56,tap=vm-1_a.b"),
            Ok(NetConfig { tap: TapSource::Named("vm-1_a.b".to_owned()), mac })
        );
        assert_eq!(net("fd=7,mac=52:54:00:12:34:56"), Ok(NetConfig { tap: TapSource::Inherited(7), mac }));
    }

    #[test]
    fn mistakes_are_named_with_what_would_be_right() {
        for (text, says) in [
            ("", "'' is not an option"),
            ("tap0", "'tap0' is not an option"),
            ("tap=a,vhost=on", "'vhost=on' is not an option"),
            ("mac=52:54:00:12:34:56", "needs a tap"),
            ("tap=a,fd=3", "both given"),
            ("tap=a,tap=b", "'tap' is given twice"),
            ("tap=", "'' cannot be"),
            ("tap=..", "'..' cannot be"),
            ("tap=tap%d", "'tap%d' cannot be"),
            ("tap=a/b", "'a/b' cannot be"),
            ("tap=0123456789abcdef", "1 to 15"),
            ("fd=2", "from 3 on"),
            ("fd=+3", "from 3 on"),
            ("fd=99999999999", "from 3 on"),
            ("tap=a,mac=52:54", "six pairs"),
            ("tap=a,mac=01:00:00:00:00:00", "not the address of one card"),
        ] {
            let error = net(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn cards_do_not_share_a_tap_or_an_address() {
        let cards = |texts: &[&str]| -> Vec<NetConfig> { texts.iter().map(|it| net(it).unwrap()).collect() };
        assert_eq!(check(&cards(&["tap=a", "tap=b", "fd=3", "fd=4"])), Ok(()));
        assert_eq!(check(&cards(&["tap=a", "tap=b", "tap=a"])), Err(NetClash::Tap("tap=a".to_owned())));
        assert_eq!(check(&cards(&["fd=3", "fd=3"])), Err(NetClash::Tap("fd=3".to_owned())));
        let mac = "52:54:00:12:34:56";
        let both = [format!("tap=a,mac={mac}"), format!("fd=3,mac={mac}")];
        assert_eq!(check(&cards(&[&both[0], &both[1]])), Err(NetClash::Mac(mac.parse().unwrap())));
        let many: Vec<String> = (0..17).map(|n| format!("tap=t{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!((check(&cards(&many[1..])), check(&cards(&many))), (Ok(()), Err(NetClash::TooMany)));
    }
}
