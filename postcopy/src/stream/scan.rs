//! [`Scanner`]: where the messages of a byte stream begin and end, whatever pieces it comes in.

use crate::wire::{DecodeError, Header};

/// A message that was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passed {
    /// Its number.
    pub tag: u16,
    /// The first four bytes of its body, as a number; 0 if there are fewer.
    pub first: u32,
}

/// What the next bytes belong to.
enum Inside {
    Header { bytes: [u8; Header::LEN], have: usize },
    Body { tag: u16, rest: usize, first: [u8; 4], have: usize },
}

/// Follows a stream without keeping any of it.
pub(super) struct Scanner {
    inside: Inside,
}

const BETWEEN: Inside = Inside::Header { bytes: [0; Header::LEN], have: 0 };

impl Scanner {
    /// Before the first message.
    pub fn new() -> Self {
        Self { inside: BETWEEN }
    }

    /// Where the stream would have ended in the midst of a message: which; `None` between two.
    pub fn inside(&self) -> Option<&'static str> {
        match &self.inside {
            Inside::Header { have: 0, .. } => None,
            Inside::Header { .. } => Some("header"),
            Inside::Body { tag, .. } => Some(crate::wire::tag::name(*tag)),
        }
    }

    /// Passes bytes up to the end of the next message: how many, and which message if its end is
    /// among them. All of `bytes` are passed if it is not.
    pub fn next(&mut self, bytes: &[u8]) -> Result<(usize, Option<Passed>), DecodeError> {
        let mut at = 0;
        loop {
            let left = &bytes[at..];
            match &mut self.inside {
                Inside::Header { bytes: header, have } => {
                    let count = left.len().min(Header::LEN - *have);
                    header[*have..*have + count].copy_from_slice(&left[..count]);
                    *have += count;
                    at += count;
                    if *have < Header::LEN {
                        return Ok((at, None));
                    }
                    let Header { tag, length } = Header::decode(*header)?;
                    self.inside = Inside::Body { tag, rest: length as usize, first: [0; 4], have: 0 };
                }
                Inside::Body { tag, rest, first, have } => {
                    let count = left.len().min(*rest);
                    let kept = count.min(first.len() - *have);
                    first[*have..*have + kept].copy_from_slice(&left[..kept]);
                    *have += kept;
                    *rest -= count;
                    at += count;
                    if *rest > 0 {
                        return Ok((at, None));
                    }
                    let first = if *have == first.len() { u32::from_le_bytes(*first) } else { 0 };
                    let passed = Passed { tag: *tag, first };
                    self.inside = BETWEEN;
                    return Ok((at, Some(passed)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Forward, tag};

    fn stream() -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in [Forward::PassBegin(1), Forward::Barrier(0x0102_0304), Forward::Listen, Forward::Complete] {
            message.encode(&mut bytes);
        }
        bytes
    }

    #[test]
    fn messages_are_found_whatever_pieces_they_come_in() {
        let bytes = stream();
        let wanted = [
            Passed { tag: tag::PASS_BEGIN, first: 1 },
            Passed { tag: tag::BARRIER, first: 0x0102_0304 },
            Passed { tag: tag::LISTEN, first: 0 },
            Passed { tag: tag::COMPLETE, first: 0 },
        ];
        for size in 1..=bytes.len() {
            let (mut scanner, mut found) = (Scanner::new(), Vec::new());
            for mut piece in bytes.chunks(size) {
                while !piece.is_empty() {
                    let (count, passed) = scanner.next(piece).unwrap();
                    found.extend(passed);
                    piece = &piece[count..];
                }
            }
            assert_eq!(found, wanted, "pieces of {size}");
            assert_eq!(scanner.inside(), None);
        }
    }

    #[test]
    fn where_a_stream_was_cut_is_known() {
        let bytes = stream();
        for (length, inside) in [(0, None), (1, Some("header")), (8, Some("pass-begin")), (12, None)] {
            let (mut scanner, mut rest) = (Scanner::new(), &bytes[..length]);
            while !rest.is_empty() {
                rest = &rest[scanner.next(rest).unwrap().0..];
            }
            assert_eq!(scanner.inside(), inside, "{length} bytes");
        }
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let mut scanner = Scanner::new();
        assert!(matches!(scanner.next(&[0xff; 8]), Err(DecodeError::Unknown(0xffff))));
    }
}
