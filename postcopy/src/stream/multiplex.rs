//! [`Multiplex`]: the channels of a migration on one byte stream that goes both ways, such as a
//! command's standard input and output.
//!
//! The stream then holds *frames*: a channel's number, how many bytes of it follow, and these. What
//! the demand channel has to say goes before whatever waits on the control channel, behind no more
//! than one frame and what the stream itself holds.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};

use crate::channel::{Channel, ChannelError};

/// What stands behind the hello where frames follow. No message begins so.
pub(super) const FRAMES: [u8; 8] = *b"WHIM2WAY";

/// A frame's header: the channel (u8), whether this is its end (u8), two bytes of zero, how many
/// bytes follow (u32).
const HEADER: usize = 8;
/// The most bytes in a frame: a demanded page waits for no more of the background.
const MOST: usize = 64 * 1024;
/// What is read of the stream at once.
const READ: usize = 256 * 1024;
/// Both channels are gone: for so long the stream may still take their last words, in milliseconds.
const LAST_WORDS: u16 = 1000;

/// The channels' places among the lines, and their numbers in frames.
const CONTROL: usize = 0;
const DEMAND: usize = 1;

/// One channel, as this end of the stream has it.
struct Line {
    channel: Channel,
    /// More may come from the channel.
    sends: bool,
    /// The channel takes what comes for it.
    takes: bool,
}

/// A frame that has come in part.
struct Arriving {
    line: usize,
    rest: usize,
}

/// Carries two channels over a stream, until both have ended in both directions.
pub(super) struct Multiplex<'a> {
    /// What comes: never blocks.
    from: BorrowedFd<'a>,
    /// Where to: never blocks.
    to: BorrowedFd<'a>,
    lines: [Line; 2],
    /// The frame that is on its way out, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    /// What was read, from `taken` on.
    read: Vec<u8>,
    taken: usize,
    arriving: Option<Arriving>,
}

impl<'a> Multiplex<'a> {
    /// On the stream that `from` and `to` are the halves of, both in non-blocking mode.
    pub fn new(from: &'a OwnedFd, to: BorrowedFd<'a>, control: Channel, demand: Channel) -> Self {
        let line = |channel| Line { channel, sends: true, takes: true };
        Self {
            from: from.as_fd(),
            to,
            lines: [line(control), line(demand)],
            out: Vec::with_capacity(HEADER + MOST),
            sent: 0,
            read: Vec::with_capacity(READ),
            taken: 0,
            arriving: None,
        }
    }

    /// With the next of what comes over the stream read already.
    pub fn with_read(mut self, bytes: &[u8]) -> Self {
        self.read.extend_from_slice(bytes);
        self
    }

    /// With the first of what this side's control channel has to say: read off it already.
    pub fn with_control(mut self, bytes: &[u8]) -> Self {
        for piece in bytes.chunks(MOST) {
            self.out.extend_from_slice(&[CONTROL as u8, 0, 0, 0]);
            self.out.extend_from_slice(&(piece.len() as u32).to_le_bytes());
            self.out.extend_from_slice(piece);
        }
        self
    }

    /// To the end of both channels. An error of the stream ends them, too.
    pub fn run(mut self) -> Result<(), ChannelError> {
        let ended = self.pump();
        for line in &self.lines {
            line.channel.shutdown();
        }
        ended
    }

    fn pump(&mut self) -> Result<(), ChannelError> {
        while !self.is_done() {
            let moved = self.put_out()? | self.take_in()?;
            if !moved && !self.wait()? {
                return Err(ChannelError::Closed(None));
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.sent == self.out.len() && self.lines.iter().all(|line| !line.sends && !line.takes)
    }

    /// Whether anything went out.
    fn put_out(&mut self) -> Result<bool, ChannelError> {
        if self.sent == self.out.len() && !self.next_frame()? {
            return Ok(false);
        }
        match nix::unistd::write(self.to, &self.out[self.sent..]) {
            Ok(count) => {
                self.sent += count;
                Ok(true)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Makes a frame of what a channel has to say, the demand channel first; `false` if none has
    /// anything.
    ///
    /// Ends are told last: what the source said on the control channel before it left, a cancel
    /// most often, must not come behind the end of the demand channel, which the other side takes
    /// for a broken link.
    fn next_frame(&mut self) -> io::Result<bool> {
        let mut ended = None;
        for number in [DEMAND, CONTROL] {
            let line = &mut self.lines[number];
            if !line.sends {
                continue;
            }
            self.out.resize(HEADER + MOST, 0);
            match recv(line.channel.as_fd().as_raw_fd(), &mut self.out[HEADER..], MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                // A channel that is gone has ended, too.
                Ok(0) | Err(_) => ended = ended.or(Some(number)),
                Ok(count) => {
                    self.frame(number, count);
                    return Ok(true);
                }
            }
        }
        match ended {
            Some(number) => {
                self.lines[number].sends = false;
                self.frame(number, 0);
            }
            None => {
                self.out.clear();
                self.sent = 0;
            }
        }
        Ok(ended.is_some())
    }

    /// Puts the header before `count` bytes of a channel, which stand behind its place; with none
    /// this is the channel's end.
    fn frame(&mut self, number: usize, count: usize) {
        self.out.truncate(HEADER + count);
        self.out[..4].copy_from_slice(&[number as u8, u8::from(count == 0), 0, 0]);
        self.out[4..HEADER].copy_from_slice(&(count as u32).to_le_bytes());
        self.sent = 0;
    }

    /// Whether anything came in.
    fn take_in(&mut self) -> Result<bool, ChannelError> {
        let mut moved = false;
        if self.taken == self.read.len() {
            self.read.resize(READ, 0);
            self.taken = 0;
            let count = match nix::unistd::read(self.from, &mut self.read) {
                Ok(0) => return Err(ChannelError::Closed(None)),
                Ok(count) => count,
                Err(Errno::EAGAIN | Errno::EINTR) => 0,
                Err(error) => return Err(io::Error::from(error).into()),
            };
            self.read.truncate(count);
            moved = count > 0;
        }
        while self.taken < self.read.len() {
            let before = self.taken;
            match &mut self.arriving {
                None => self.begin_frame()?,
                Some(frame) => {
                    let bytes = &self.read[self.taken..];
                    let bytes = &bytes[..bytes.len().min(frame.rest)];
                    let count = self.lines[frame.line].give(bytes)?;
                    self.taken += count;
                    frame.rest -= count;
                    if frame.rest == 0 {
                        self.arriving = None;
                    }
                }
            }
            if self.taken == before {
                break;
            }
            moved = true;
        }
        Ok(moved)
    }

    /// Takes a frame's header, once it is whole.
    fn begin_frame(&mut self) -> Result<(), ChannelError> {
        if self.read.len() - self.taken < HEADER {
            self.read.drain(..self.taken);
            self.taken = 0;
            let have = self.read.len();
            self.read.resize(HEADER, 0);
            let read = nix::unistd::read(self.from, &mut self.read[have..]);
            self.read.truncate(have + read.unwrap_or(0));
            match read {
                Ok(0) => return Err(ChannelError::Closed(Some("frame"))),
                Ok(_) if self.read.len() == HEADER => {}
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        let Some(&[line, end, _, _, ref length @ ..]) = self.read[self.taken..].first_chunk::<HEADER>() else {
            return Ok(());
        };
        let (line, rest) = (usize::from(line), u32::from_le_bytes(*length) as usize);
        if line >= self.lines.len() || end > 1 || rest > MOST {
            let why = "the stream holds something that is no frame: another program writes to it, too";
            return Err(ChannelError::Io(io::Error::new(ErrorKind::InvalidData, why)));
        }
        self.taken += HEADER;
        if end == 1 {
            self.lines[line].end();
        }
        self.arriving = Some(Arriving { line, rest }).filter(|frame| frame.rest > 0);
        Ok(())
    }

    /// Until something can move; `false` if nobody is left to move it for.
    fn wait(&self) -> io::Result<bool> {
        let waits_for_room = self.arriving.as_ref().filter(|_| self.taken < self.read.len()).map(|frame| frame.line);
        let full = self.sent < self.out.len();
        let alive = self.lines.iter().any(|line| !line.is_gone());
        if !alive && !full && self.lines.iter().all(|line| !line.sends) {
            return Ok(false);
        }
        // Nothing is polled that is not waited for: what has hung up would end every wait.
        let mut fds = Vec::with_capacity(4);
        if waits_for_room.is_none() {
            fds.push(PollFd::new(self.from, PollFlags::POLLIN));
        }
        if full {
            fds.push(PollFd::new(self.to, PollFlags::POLLOUT));
        }
        for (number, line) in self.lines.iter().enumerate() {
            let mut wanted = PollFlags::empty();
            wanted.set(PollFlags::POLLIN, line.sends && !full);
            wanted.set(PollFlags::POLLOUT, waits_for_room == Some(number));
            if !wanted.is_empty() {
                fds.push(PollFd::new(line.channel.as_fd(), wanted));
            }
        }
        let timeout = if alive { PollTimeout::NONE } else { PollTimeout::from(LAST_WORDS) };
        match poll(&mut fds, timeout) {
            Ok(0) => Ok(false),
            Ok(_) | Err(Errno::EINTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

impl Line {
    /// Gives the channel bytes: how many it took now. One that is gone takes all.
    fn give(&mut self, bytes: &[u8]) -> Result<usize, ChannelError> {
        if !self.takes {
            return Ok(bytes.len());
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.channel.as_fd().as_raw_fd(), bytes, flags) {
            Ok(count) => Ok(count),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(_) => {
                self.takes = false;
                Ok(bytes.len())
            }
        }
    }

    /// Nothing more comes for the channel.
    fn end(&mut self) {
        self.takes = false;
        let _ = shutdown(self.channel.as_fd().as_raw_fd(), Shutdown::Write);
    }

    /// Whether nobody has the channel's other end any more.
    fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(self.channel.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|_| fds[0].any().unwrap_or(false))
    }
}
