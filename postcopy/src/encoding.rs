//! How pages' contents go on the wire: whole, compressed, or as what has changed of them since they
//! went last.
//!
//! Bytes in, bytes out: who sends which page how is the source's business (`source/outgoing.rs`),
//! and where it is put the destination's (`destination/intake.rs`). A page that somebody waits for
//! always goes whole.

mod cache;
mod compression;
mod xbzrle;

pub(crate) use cache::PageCache;
pub use compression::{Compressor, Decompressor};
pub use xbzrle::{XbzrleDecoder, encode_xbzrle};

use crate::ram::PAGE_SIZE;

/// The longest run of compressed pages in one message, and the longest of pages of which only the
/// changes go.
pub const MAX_COMPRESSED_PAGES: u32 = 64;

/// One page's contents.
pub type Page = [u8; PAGE_SIZE];

/// How the pages of a migration go, those apart that somebody waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Who looks for zero pages.
    pub zero_pages: ZeroPages,
    /// How all others go.
    pub contents: PageEncoding,
}

/// Who looks whether a page is zero, which takes a few bytes on the wire instead of a page's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroPages {
    /// Nobody: they go like all others.
    Unseen,
    /// The migration's thread, also for pages that go on multifd channels.
    ByMigration,
    /// The thread that sends them.
    #[default]
    BySender,
}

/// How a page goes that is not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PageEncoding {
    /// As it is, straight from guest RAM.
    #[default]
    Whole,
    /// In compressed runs, where that is shorter.
    Compressed(Compression),
    /// Precopy: as what has changed of it since it went last, where that is shorter and still
    /// known. So that it is known, what is sent is kept in so many bytes. Otherwise whole.
    Xbzrle {
        /// Room for pages as they were sent.
        cache: u64,
    },
}

/// What compresses, and how hard it tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Level 0 (not at all) to 9.
    Zlib(u8),
    /// Level 0 (its own choice), or 1 to 20.
    Zstd(u8),
}

impl Compression {
    /// The name of what undoes it.
    pub const fn codec(self) -> Codec {
        match self {
            Self::Zlib(_) => Codec::Zlib,
            Self::Zstd(_) => Codec::Zstd,
        }
    }
}

/// What pages are compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// A zlib stream (RFC 1950).
    Zlib,
    /// A zstd frame (RFC 8878).
    Zstd,
}

impl Codec {
    /// Its number on the wire.
    pub const fn number(self) -> u32 {
        match self {
            Self::Zlib => 1,
            Self::Zstd => 2,
        }
    }

    /// The codec of this number.
    pub const fn of(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Zlib),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Contents that a destination cannot make pages of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodingError {
    /// More than the run holds. Nothing behind that was unpacked.
    #[error("they unpack to more than their {0} bytes")]
    TooMuch(usize),
    /// Less than the run holds.
    #[error("they unpack to {got} bytes, not to their {wanted}")]
    TooLittle {
        /// What came out.
        got: usize,
        /// What the run holds.
        wanted: usize,
    },
    /// What was compressed is damaged.
    #[error("they do not unpack")]
    Broken,
    /// Something stands behind the end of what was compressed.
    #[error("{0} bytes stand behind them")]
    Rest(usize),
    /// The list of what has changed ends inside itself.
    #[error("what has changed of them ends in the middle")]
    Short,
    /// A number that is none, or leads out of the page.
    #[error("what has changed of them lies outside the page")]
    Outside,
    /// There is nothing that could have changed.
    #[error("they are said to have changed, and never came")]
    Missing,
}
