//! [`Batch`]: many messages, their page contents taken straight from guest RAM, in few system
//! calls.

use std::fmt;

use super::raw::MAX_PIECES;
use super::vmsplice::{self, Lender};
use super::{Channel, ChannelError, Wake};
use crate::memory::{RamBlock, RawSlice};
use crate::ram::PageRun;
use crate::wire::Forward;

/// Messages that wait to be sent together.
#[derive(Default)]
pub struct Batch {
    heads: Vec<u8>,
    pieces: Vec<Piece>,
    bytes: usize,
    lender: Lending,
}

impl fmt::Debug for Batch {
    /// The messages may hold the guest's state, which no log shows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("pieces", &self.pieces).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Whether long runs of pages are lent to the peer.
#[derive(Debug, Default)]
enum Lending {
    /// Not known before the first of them.
    #[default]
    Unknown,
    Impossible,
    With(Lender),
}

impl Lending {
    fn with(&mut self, channel: &Channel) -> Option<&Lender> {
        if let Self::Unknown = self {
            *self = Lender::new(channel).map_or(Self::Impossible, Self::With);
        }
        match self {
            Self::With(lender) => Some(lender),
            _ => None,
        }
    }
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

    /// Adds a message and what follows it, which is copied.
    pub fn push_with(&mut self, message: &Forward, contents: &[u8]) {
        self.push_encoded(|heads| {
            message.encode(heads);
            heads.extend_from_slice(contents);
        });
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
        let sent = self.send_pieces(ram, channel, wake, interrupted).map(|()| self.bytes);
        self.heads.clear();
        self.pieces.clear();
        self.bytes = 0;
        sent
    }

    fn send_pieces(
        &mut self,
        ram: &[RamBlock],
        channel: &Channel,
        wake: &Wake,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<(), ChannelError> {
        let mut head = 0;
        let mut copied: Vec<RawSlice<'_>> = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            let pages = match *piece {
                Piece::HeadsUpTo(end) => {
                    copied.push(RawSlice::of(&self.heads[std::mem::replace(&mut head, end)..end]));
                    continue;
                }
                Piece::Pages(run) => ram[usize::from(run.block.0)].raw(run),
            };
            let lender = if pages.len() >= vmsplice::LEAST { self.lender.with(channel) } else { None };
            match lender {
                None => copied.push(pages),
                Some(lender) => {
                    channel.send_all(&copied, wake, interrupted)?;
                    copied.clear();
                    lender.send(pages, channel, wake, interrupted)?;
                }
            }
        }
        channel.send_all(&copied, wake, interrupted)
    }
}
