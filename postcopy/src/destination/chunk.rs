//! [`Chunk`]: where a huge page's worth of guest pages is, see `staging.rs`.

use crate::host::atomic::{AtomicU8, Ordering};

/// Where a chunk's pages are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ChunkState {
    /// In RAM: the guest's.
    #[default]
    Home,
    /// In the shadow, but for pages that were placed alone.
    Away,
    /// As away; somebody is placing pages alone, or taking them back.
    Placing,
    /// About to be moved in, for good.
    Going,
}

/// A chunk's state. Several threads change it: one that finds it away takes it by
/// [`Chunk::leave_away`], and only that one sets the next.
#[derive(Debug, Default)]
pub(super) struct Chunk(AtomicU8);

impl Chunk {
    /// What it is now. Sees all that was done before it was entered.
    pub fn state(&self) -> ChunkState {
        of(self.0.load(Ordering::Acquire))
    }

    /// Sets it. Only by who took the chunk, or before anybody else can have it.
    pub fn enter(&self, state: ChunkState) {
        self.0.store(state as u8, Ordering::Release);
    }

    /// Takes a chunk that is away, if it is; else says what it is.
    pub fn leave_away(&self, to: ChunkState) -> Result<(), ChunkState> {
        let away = ChunkState::Away as u8;
        self.0.compare_exchange(away, to as u8, Ordering::AcqRel, Ordering::Acquire).map(drop).map_err(of)
    }
}

/// The state with this number; there are no others.
fn of(number: u8) -> ChunkState {
    match number {
        0 => ChunkState::Home,
        1 => ChunkState::Away,
        2 => ChunkState::Placing,
        _ => ChunkState::Going,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_taken_by_one_and_only_while_it_is_away() {
        for state in [ChunkState::Home, ChunkState::Away, ChunkState::Placing, ChunkState::Going] {
            let chunk = Chunk::default();
            assert_eq!(chunk.state(), ChunkState::Home);
            chunk.enter(state);
            assert_eq!(chunk.state(), state);
            let taken = chunk.leave_away(ChunkState::Going);
            match state {
                ChunkState::Away => assert_eq!((taken, chunk.state()), (Ok(()), ChunkState::Going)),
                _ => assert_eq!((taken, chunk.state()), (Err(state), state)),
            }
        }
    }
}
