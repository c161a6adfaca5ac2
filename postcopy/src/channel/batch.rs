//! [`Batch`]: many messages, their page contents taken straight from guest RAM, in one system call.

use super::raw::MAX_PIECES;
use super::{Channel, ChannelError, Wake};
use crate::memory::{RamBlock, RawSlice};
use crate::ram::PageRun;
use crate::wire::Forward;

/// Messages that wait to be sent together.
#[derive(Debug, Default)]
pub struct Batch {
    heads: Vec<u8>,
    pieces: Vec<Piece>,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
enum Piece {
    /// Bytes of `heads` up to this index.
    HeadsUpTo(usize),
    /// Page contents.
    Pages(PageRun),
}

impl Batch {
    /// How many bytes wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether a further run would not fit in one system call.
    pub fn is_full(&self) -> bool {
        self.pieces.len() + 2 > MAX_PIECES
    }

    /// Adds a message; of [`Forward::Pages`] also the contents.
    pub fn push(&mut self, message: &Forward) {
        self.push_encoded(|heads| message.encode(heads));
        if let Forward::Pages(run) = message {
            self.pieces.push(Piece::Pages(*run));
            self.bytes += run.bytes();
        }
    }

    /// Adds whatever `encode` appends: a message of the other direction, or a hello.
    pub fn push_encoded(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let before = self.heads.len();
        encode(&mut self.heads);
        self.bytes += self.heads.len() - before;
        match self.pieces.last_mut() {
            Some(Piece::HeadsUpTo(end)) => *end = self.heads.len(),
            _ => self.pieces.push(Piece::HeadsUpTo(self.heads.len())),
        }
    }

    /// Sends everything and is empty afterwards, also after an error.
    pub fn send(
        &mut self,
        ram: &[RamBlock],
        channel: &Channel,
        wake: &Wake,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<usize, ChannelError> {
        let mut head = 0;
        let raw: Vec<RawSlice<'_>> = self
            .pieces
            .iter()
            .map(|piece| match *piece {
                Piece::HeadsUpTo(end) => RawSlice::of(&self.heads[std::mem::replace(&mut head, end)..end]),
                Piece::Pages(run) => ram[usize::from(run.block.0)].raw(run),
            })
            .collect();
        let sent = channel.send_all(&raw, wake, interrupted).map(|()| self.bytes);
        self.heads.clear();
        self.pieces.clear();
        self.bytes = 0;
        sent
    }
}
