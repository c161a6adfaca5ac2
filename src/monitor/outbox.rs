//! [`Outbox`]: what a client has yet to take. Bounded, so that a client that does not read costs
//! nothing but itself.

use std::io::{self, ErrorKind, Write};

/// Above this many bytes the client's commands wait until it has read its answers.
const BUSY: usize = 64 << 10;
/// Above this many bytes the client is dropped: events go on while it does not read.
const FULL: usize = 1 << 20;

/// Bytes on their way to a client.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// How many of them are gone already.
    written: usize,
}

impl Outbox {
    /// Where to add bytes.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Whether the client should read before it asks more.
    pub fn is_busy(&self) -> bool {
        self.bytes.len() - self.written > BUSY
    }

    /// Whether the client has lost its right to be kept.
    pub fn is_full(&self) -> bool {
        self.bytes.len() - self.written > FULL
    }

    /// Writes as much as `to` takes without blocking.
    pub fn flush(&mut self, to: &mut impl Write) -> io::Result<()> {
        while !self.is_empty() {
            match to.write(&self.bytes[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.bytes.drain(..self.written);
                    self.written = 0;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.bytes.clear();
        self.written = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes, then would block.
    struct Narrow {
        taken: Vec<u8>,
        room: usize,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.room -= count;
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_did_not_fit_goes_later_and_in_order() {
        let mut outbox = Outbox::default();
        let mut client = Narrow { taken: Vec::new(), room: 3 };
        outbox.buffer().extend_from_slice(b"hello");
        outbox.flush(&mut client).unwrap();
        assert!(!outbox.is_empty());
        outbox.buffer().extend_from_slice(b" world");
        client.room = 100;
        outbox.flush(&mut client).unwrap();
        assert!(outbox.is_empty());
        assert_eq!(client.taken, b"hello world");
    }

    #[test]
    fn it_counts_only_what_is_left() {
        let mut outbox = Outbox::default();
        outbox.buffer().resize(FULL + 1, 0);
        assert!(outbox.is_busy() && outbox.is_full());
        let mut client = Narrow { taken: Vec::new(), room: FULL - BUSY };
        outbox.flush(&mut client).unwrap();
        assert!(outbox.is_busy() && !outbox.is_full());
        client.room = 1;
        outbox.flush(&mut client).unwrap();
        assert!(!outbox.is_busy());
    }
}
