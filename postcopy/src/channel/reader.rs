//! [`MessageReader`]: messages off a channel, with few system calls and no allocation that the peer
//! can inflate.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::{Channel, ChannelError, Handed, Wake};
use crate::memory::RamBlock;
use crate::ram::{PAGE_SIZE, PageRun};
use crate::wire::{DecodeError, Header, tag};

/// Page contents that are at least so long, in bytes, go straight from the socket into guest RAM;
/// shorter ones by way of the buffer, which takes many of them in one system call.
const DIRECT: usize = 64 * 1024;
/// While long contents come, the thread that waits for them is woken once so many bytes of them are
/// there, or their rest is.
const WAKE_AT: u32 = 256 * 1024;
/// What is read at once where long contents may follow, beyond what is awaited, in bytes: the next
/// header.
const HEAD: usize = 64;
/// A process of the same host is read from in pieces of at most so many bytes: where the kernel
/// does not preempt itself, a page that somebody waits for would wait for the end of a longer one.
const LOCAL_PIECE: usize = 128 * 1024;
/// After so many short contents in a row the next are read along with them.
const MANY: u32 = 8;
/// A body grows by at most so many bytes before they have arrived.
const GROWTH: usize = 64 * 1024;

/// Reads one channel. Wake-ups are noticed while it waits.
pub struct MessageReader {
    channel: Arc<Channel>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// The message whose end has not been reached.
    inside: Option<&'static str>,
    /// So many contents in a row were short. While they are few, long ones are to be expected, and
    /// whatever of them is read into the buffer would be copied once more.
    shorts: u32,
    /// How many bytes a wait is for.
    waits_for: u32,
    /// Files that come with bytes, while any may come.
    handed: Option<Handed>,
}

impl MessageReader {
    /// With a buffer of `capacity` bytes.
    pub fn new(channel: Arc<Channel>, capacity: usize) -> Self {
        let buffer = vec![0; capacity].into_boxed_slice();
        Self { channel, buffer, start: 0, end: 0, inside: None, shorts: MANY, waits_for: 1, handed: None }
    }

    /// From here on files may come, if the channel can bring any.
    pub fn take_files(&mut self) {
        self.handed = self.channel.takes_files().then(Handed::default);
    }

    /// No more files may come; those that came.
    pub fn end_files(&mut self) -> Handed {
        self.handed.take().unwrap_or_default()
    }

    /// Receives what is there into the buffer, from `self.end` up to `most`.
    fn receive_up_to(&mut self, most: usize) -> io::Result<usize> {
        let buffer = &mut self.buffer[self.end..most];
        match &mut self.handed {
            None => self.channel.receive(buffer),
            Some(handed) => handed.receive(self.channel.as_fd(), buffer),
        }
    }

    /// The channel read from.
    pub fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// Whether a read would find bytes without a system call.
    pub fn has_buffered(&self) -> bool {
        self.start < self.end
    }

    /// The next message's header. [`ChannelError::Interrupted`] only between messages.
    pub fn header(&mut self, wake: &Wake) -> Result<Header, ChannelError> {
        self.inside = None;
        self.fill(1, Some(wake))?;
        self.finish_header()
    }

    /// The next message's header if a message has begun to arrive; `None` if not.
    pub fn try_header(&mut self) -> Result<Option<Header>, ChannelError> {
        self.inside = None;
        if !self.has_buffered() && !self.receive()? {
            return Ok(None);
        }
        self.finish_header().map(Some)
    }

    fn finish_header(&mut self) -> Result<Header, ChannelError> {
        self.inside = Some("header");
        self.fill(Header::LEN, None)?;
        let mut bytes = [0; Header::LEN];
        bytes.copy_from_slice(&self.buffer[self.start..self.start + Header::LEN]);
        let header = Header::decode(bytes)?;
        self.start += Header::LEN;
        self.inside = Some(tag::name(header.tag));
        Ok(header)
    }

    /// The fields of the message whose header was read.
    pub fn fields(&mut self, header: Header) -> Result<Vec<u8>, ChannelError> {
        let mut fields = Vec::new();
        let mut rest = header.fields();
        while rest > 0 {
            let piece = rest.min(GROWTH).min(self.buffer.len());
            self.fill(piece, None)?;
            fields.extend_from_slice(&self.buffer[self.start..self.start + piece]);
            self.start += piece;
            rest -= piece;
        }
        Ok(fields)
    }

    /// The next whole message without page contents, if all of it is here; never waits. No such
    /// message is longer than the buffer: one that claims to be is no message of this channel.
    pub fn try_message(&mut self) -> Result<Option<(Header, &[u8])>, ChannelError> {
        self.inside = self.has_buffered().then_some("header");
        if !self.try_fill(Header::LEN)? {
            return Ok(None);
        }
        let mut bytes = [0; Header::LEN];
        bytes.copy_from_slice(&self.buffer[self.start..self.start + Header::LEN]);
        let header = Header::decode(bytes)?;
        let length = Header::LEN + header.fields();
        if length > self.buffer.len() {
            return Err(DecodeError::Unknown(header.tag).into());
        }
        self.inside = Some(tag::name(header.tag));
        if !self.try_fill(length)? {
            return Ok(None);
        }
        self.start += length;
        Ok(Some((header, &self.buffer[self.start - length + Header::LEN..self.start])))
    }

    /// Whether `count` bytes stand in the buffer, after taking what is there.
    fn try_fill(&mut self, count: usize) -> Result<bool, ChannelError> {
        while self.end - self.start < count {
            self.make_room(count);
            match self.receive_up_to(self.buffer.len()) {
                Ok(0) => return Err(ChannelError::Closed(self.inside)),
                Ok(got) => {
                    self.end += got;
                    self.inside = self.inside.or(Some("header"));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => self.wait_after(error, None)?,
            }
        }
        Ok(true)
    }

    /// The fields of a message that is short enough for the buffer, in place. A message of this
    /// channel always is.
    pub fn fields_in_place(&mut self, header: Header) -> Result<&[u8], ChannelError> {
        let length = header.fields();
        if length > self.buffer.len() {
            return Err(DecodeError::Unknown(header.tag).into());
        }
        self.fill(length, None)?;
        self.start += length;
        Ok(&self.buffer[self.start - length..self.start])
    }

    /// The next `count` bytes of page contents, in place. `count` is at most the buffer's capacity.
    pub fn contents(&mut self, count: usize) -> Result<&[u8], ChannelError> {
        self.shorts = MANY;
        self.fill(count, None)?;
        self.start += count;
        Ok(&self.buffer[self.start - count..self.start])
    }

    /// Reads past the next `count` bytes of page contents.
    pub fn skip(&mut self, count: usize) -> Result<(), ChannelError> {
        let mut rest = count;
        while rest > 0 {
            self.fill(1, None)?;
            let piece = rest.min(self.end - self.start);
            self.start += piece;
            rest -= piece;
        }
        Ok(())
    }

    /// Page contents, written into guest RAM.
    pub fn contents_into(&mut self, block: &RamBlock, run: PageRun) -> Result<(), ChannelError> {
        let mut done = 0;
        self.shorts = if run.bytes() >= DIRECT { 0 } else { self.shorts.saturating_add(1) };
        while done < run.bytes() {
            let rest = run.bytes() - done;
            if self.has_buffered() || rest < DIRECT {
                self.fill_to(1, rest, None)?;
                let count = rest.min(self.end - self.start);
                block.write(run.start, done, &self.buffer[self.start..self.start + count]);
                self.start += count;
                done += count;
            } else {
                done += self.receive_direct(block, run, done)?;
            }
        }
        Ok(())
    }

    /// The next bytes of page contents, or of what stands before all messages, into memory that is
    /// not guest RAM.
    pub fn contents_to(&mut self, target: &mut [u8]) -> Result<(), ChannelError> {
        let mut done = 0;
        while done < target.len() {
            let rest = target.len() - done;
            if self.has_buffered() || rest < DIRECT {
                self.fill_to(1, rest, None)?;
                let count = rest.min(self.end - self.start);
                target[done..done + count].copy_from_slice(&self.buffer[self.start..self.start + count]);
                self.start += count;
                done += count;
                continue;
            }
            match self.channel.receive(&mut target[done..]) {
                Ok(0) => return Err(ChannelError::Closed(self.inside)),
                Ok(count) => done += count,
                Err(error) => {
                    self.wait_for(WAKE_AT.min(rest as u32));
                    self.wait_after(error, None)?;
                }
            }
        }
        Ok(())
    }

    fn receive_direct(&mut self, block: &RamBlock, run: PageRun, done: usize) -> Result<usize, ChannelError> {
        loop {
            let most = if self.channel.is_local() { LOCAL_PIECE } else { usize::MAX };
            match self.channel.receive_raw(block.raw(run).skip(done).first(most)) {
                Ok(0) => return Err(ChannelError::Closed(self.inside)),
                Ok(count) => return Ok(count),
                Err(error) => {
                    self.wait_for(WAKE_AT.min((run.bytes() - done) as u32));
                    self.wait_after(error, None)?;
                }
            }
        }
    }

    fn wait_for(&mut self, bytes: u32) {
        if std::mem::replace(&mut self.waits_for, bytes) != bytes {
            self.channel.wake_at(bytes);
        }
    }

    /// Makes at least `count` bytes stand in the buffer from `start` on.
    fn fill(&mut self, count: usize, wake: Option<&Wake>) -> Result<(), ChannelError> {
        self.fill_to(count, count, wake)
    }

    /// The same; `wanted` bytes are of use before the next header.
    fn fill_to(&mut self, count: usize, wanted: usize, wake: Option<&Wake>) -> Result<(), ChannelError> {
        debug_assert!(count <= self.buffer.len());
        while self.end - self.start < count {
            self.make_room(count);
            let most = match self.shorts {
                ..MANY => (self.start + wanted + HEAD).min(self.buffer.len()),
                _ => self.buffer.len(),
            };
            match self.receive_up_to(most) {
                Ok(0) => return Err(ChannelError::Closed(self.inside)),
                Ok(got) => self.end += got,
                Err(error) => {
                    self.wait_for(1);
                    self.wait_after(error, wake)?;
                }
            }
        }
        Ok(())
    }

    /// Moves what is buffered to the front if `count` bytes would not fit behind it.
    fn make_room(&mut self, count: usize) {
        if self.start + count > self.buffer.len() || self.start == self.end {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Takes what is there, without waiting; whether something came.
    fn receive(&mut self) -> Result<bool, ChannelError> {
        self.start = 0;
        self.end = 0;
        match self.receive_up_to(self.buffer.len()) {
            Ok(0) => Err(ChannelError::Closed(self.inside)),
            Ok(got) => {
                self.end = got;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// After a receive that gave nothing: waits, or tells the error. Inside a message only the
    /// channel counts: whoever wants to end that wait shuts the channel down.
    fn wait_after(&self, error: io::Error, wake: Option<&Wake>) -> Result<(), ChannelError> {
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            io::ErrorKind::WouldBlock => match wake {
                Some(wake) => {
                    if self.channel.wait(false, wake, None)?.woken {
                        wake.clear();
                        return Err(ChannelError::Interrupted);
                    }
                    Ok(())
                }
                None => self.channel.wait_readable().map_err(ChannelError::from),
            },
            _ => Err(match ChannelError::from(error) {
                ChannelError::Closed(_) => ChannelError::Closed(self.inside),
                other => other,
            }),
        }
    }
}

const _: () = assert!(DIRECT.is_multiple_of(PAGE_SIZE));
