//! Migration over a stream that goes one way: into a file, a pipe or a command, and out of it
//! again, on this host or another, now or later.
//!
//! The two state machines do not know of it. What they say to each other goes through a
//! [`Recording`] at the source, which answers as a destination does that can do precopy and nothing
//! more, and through a [`Playing`] at the destination, which takes that destination's answers. What
//! is written is what the source says on its control channel, byte by byte:
//!
//! ```text
//! source ==control==> Recording ==stream==> file, pipe, command ==stream==> Playing ==control==> destination
//!        <--replies--                                                               <--replies--
//! ```
//!
//! The guest leaves the source when the stream is whole and safe ([`Sink::commit`]), and runs at
//! the destination when all of it was read: a stream that was cut starts no guest.
//!
//! Where the stream goes both ways (a command's input and output, a socket) and the other end
//! answers the hello, nobody stands in for anybody: both channels go over it as they are
//! (`multiplex.rs`).
//!
//! Out of a file the guest can also come by postcopy: [`Paging`] is a source that has the file
//! instead of the guest.
//!
//! In a file each page can have a place of its own instead: see [`mapped`]. A guest that stays is
//! saved as the same stream by [`save`], which needs neither of the state machines.

mod chunk;
mod error;
mod fault_text;
mod index;
pub mod mapped;
mod multiplex;
mod page;
mod page_table;
mod play;
mod record;
mod return_path;
mod save;
mod scan;
mod sink;
mod write;
mod write_protect;

pub use error::StreamFileError;
pub(crate) use fault_text::reading_fault;
pub use fault_text::stream_fault;
pub use index::Outline;
pub use mapped::MappedError;
pub use page::Paging;
pub use play::Playing;
pub use record::{Listening, Recording};
pub use save::{SaveMode, Saving, save};
pub use sink::{Descriptor, Sink};

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::channel::{Channel, ChannelError, MessageReader, Wake};
use crate::wire::{Answer, Features, Forward, Reply, decode_reply};

/// What is read at once, in bytes.
const BUFFER: usize = 1024 * 1024;
/// Holds the longest reply.
const REPLY_BUFFER: usize = 128 * 1024;

/// Fills the buffer with a channel's first bytes.
fn receive_all(channel: &Channel, buffer: &mut [u8], wake: &Wake) -> Result<(), ChannelError> {
    let mut have = 0;
    while have < buffer.len() {
        have += receive(channel, &mut buffer[have..], wake)?;
    }
    Ok(())
}

/// Waits until something was received: how many bytes. [`ChannelError::Closed`] at the end of the
/// channel.
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

/// The destination's answer to the hello: what it can do.
fn welcomed(channel: &Channel, wake: &Wake) -> Result<Features, ChannelError> {
    let mut fixed = [0; Answer::LEN];
    receive_all(channel, &mut fixed, wake)?;
    let mut text = vec![0; Answer::text_len(&fixed)?];
    receive_all(channel, &mut text, wake)?;
    match Answer::decode(&fixed, &text)? {
        Answer::Welcome { features, .. } => Ok(features),
        Answer::Refused(why) => Err(ChannelError::Refused(why)),
    }
}

/// Takes the destination's last words, as the source would that is not there, until it closes the
/// channel.
fn answer_for_source(channel: &Arc<Channel>, wake: &Wake) -> Result<(), ChannelError> {
    let mut replies = MessageReader::new(channel.clone(), REPLY_BUFFER);
    loop {
        let header = replies.header(wake)?;
        let fields = replies.fields(header)?;
        let last = match decode_reply(header, &fields)? {
            Reply::AllReceived => Forward::Goodbye,
            Reply::NotStarted(why) => Forward::Cancel(why),
            _ => continue,
        };
        let mut bytes = Vec::new();
        last.encode(&mut bytes);
        channel.send(&bytes, wake, &|| false)?;
    }
}

/// The destination reads what it was sent, and closes.
fn await_end(channel: &Channel, wake: &Wake) {
    channel.finish();
    while receive(channel, &mut [0; 64], wake).is_ok() {}
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
