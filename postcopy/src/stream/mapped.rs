//! Files with mapped RAM: each page has one place in the file, where it is written again when the
//! guest has written it.
//!
//! Such a file is no longer than guest RAM and a little, however often pages were sent; a page that
//! is zero is a hole; and any page can be read without reading what stands before it. For that it
//! has to be a file: neither a pipe nor a socket takes bytes out of order.
//!
//! ```text
//!  hello | mapped | front: configuration, ram, description | table | bitmaps |..
//!            |      |.. pages of block 0 |.. pages of block 1 |.. tail: state, hand-over, complete
//!            |                                                    ^
//!            +-- where the tail stands: written last, when ------+
//!                everything else is safe
//! ```
//!
//! `docs/protocol.md` has every byte. Whoever reads finds out from the file which of the two
//! layouts it has: the message behind the hello tells them apart.
//!
//! | file | what is in it |
//! |---|---|
//! | `layout` | the bytes of the front and the tail, and what they have to hold to be believed |
//! | `store` | a file on its way: pages to their places, the end |
//! | `record` | [`MappedRecording`]: the source's channels |
//! | `play` | [`MappedPlaying`]: the destination's channels, the file read in order |
//! | `staging` | memory that a disk reads and writes directly |

mod layout;
mod play;
mod record;
mod staging;
mod store;

pub use layout::MappedError;
pub(super) use layout::{Area, Layout};
pub use play::MappedPlaying;
pub use record::MappedRecording;

use std::fs::File;
use std::io;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// How pages get into a file, and out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// By way of the host's page cache.
    Cached,
    /// Past it (`O_DIRECT`): what else the host caches stays there.
    Direct,
}

impl Access {
    /// From here on. All that has the file open in common goes by it.
    fn set(self, file: &File) -> io::Result<()> {
        let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
        let wanted = match self {
            Self::Cached => flags - OFlag::O_DIRECT,
            Self::Direct => flags | OFlag::O_DIRECT,
        };
        if wanted != flags {
            fcntl(file, FcntlArg::F_SETFL(wanted))?;
        }
        Ok(())
    }

    /// Whether the file system lets it.
    fn check(self, file: &File) -> io::Result<()> {
        self.set(file)?;
        Self::Cached.set(file)
    }
}
