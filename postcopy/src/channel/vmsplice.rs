//! [`Lender`]: pages on their way to a process of the same host are lent to it, not copied twice.
//!
//! A socket call copies pages into the kernel, and the peer's call copies them out again. On a unix
//! socket the first copy can be left out: the pages themselves are put into the socket, by way of a
//! pipe, and the peer copies from them. What it gets is what they hold at *that* moment, which is
//! later than the call. That is as good: a page that the guest writes after the log was cleared is
//! dirty, whether the write was seen or not, and a guest that stands still writes nothing.
//!
//! Over TCP this is slower than copying, also on loopback.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::{Channel, ChannelError, Wake, raw};
use crate::memory::RawSlice;

/// Fewer bytes than this are copied: lending takes two calls.
pub const LEAST: usize = 64 * 1024;
/// What the pipe holds, in bytes: as many pages as an unprivileged process may have in one.
const CAPACITY: usize = 1 << 20;

/// Lends pages to the peer of one local channel.
#[derive(Debug)]
pub struct Lender {
    read: OwnedFd,
    write: OwnedFd,
}

impl Lender {
    /// `None` if the channel is not local, or the host has no pipe to spare.
    pub fn new(channel: &Channel) -> Option<Self> {
        if !channel.is_local() || cfg!(feature = "simulation") {
            return None;
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // With the ordinary 64 KiB it takes more calls, and is no less right.
        let _ = fcntl_setpipe_size(&write, CAPACITY);
        Some(Self { read, write })
    }

    /// Sends the pages, waiting as needed. After an error the pipe may still hold some of them, and
    /// the stream has ended inside a message.
    pub fn send(
        &self,
        mut pages: RawSlice<'_>,
        channel: &Channel,
        wake: &Wake,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<(), ChannelError> {
        while pages.len() > 0 {
            let mut held = raw::lend(self.write.as_fd(), pages)?;
            pages = pages.skip(held);
            while held > 0 {
                match splice(&self.read, None, channel, None, held, SpliceFlags::NONBLOCK) {
                    Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                    Ok(went) => held -= went,
                    Err(error) => channel.wait_to_send(error.into(), wake, interrupted)?,
                }
            }
        }
        Ok(())
    }
}
