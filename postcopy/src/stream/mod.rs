//! Migration over a stream that goes one way: into a file, a pipe or a command, and out of it again, on this host or another, now or later.
//!
//! The two state machines do not know of it. What they say to each other goes through a [`Recording`] at the source, which answers as
//! a destination does that can do precopy and nothing more, and through a [`Playing`] at the destination, which takes that destination's
//! answers. What is written is what the source says on its control channel, byte by byte:
//!
//! ```text
//! source ==control==> Recording ==stream==> file, pipe, command ==stream==> Playing ==control==> destination
//!        <--replies--                                                               <--replies--
//! ```
//!
//! The guest leaves the source when the stream is whole and safe ([`Sink::commit`]), and runs at the destination when all of it was read:
//! a stream that was cut starts no guest.
//!
//! Out of a file the guest can also come by postcopy: [`Paging`] is a source that has the file instead of the guest.
//!
//! A guest that stays is saved as the same stream by [`save`], which needs neither of the state machines.

mod chunk;
mod contents;
mod index;
mod page;
mod play;
mod record;
mod save;
mod scan;
mod watch;
mod write;

pub use index::Outline;
pub use page::Paging;
pub use play::Playing;
pub use record::{Descriptor, Recording, Sink};
pub use save::{Saving, Way, save};

use std::io;
use std::os::fd::BorrowedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::channel::{Channel, ChannelError, Wake};

/// What is read at once, in bytes.
const BUFFER: usize = 1024 * 1024;

/// Fills the buffer with a channel's first bytes.
fn receive_all(channel: &Channel, buffer: &mut [u8], wake: &Wake) -> Result<(), ChannelError> {
    let mut have = 0;
    while have < buffer.len() {
        have += receive(channel, &mut buffer[have..], wake)?;
    }
    Ok(())
}

/// Waits until something was received: how many bytes. [`ChannelError::Closed`] at the end of the channel.
fn receive(channel: &Channel, buffer: &mut [u8], wake: &Wake) -> Result<usize, ChannelError> {
    loop {
        match channel.receive(buffer) {
            Ok(0) => return Err(ChannelError::Closed(None)),
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => drop(channel.wait(false, wake, None)?),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
