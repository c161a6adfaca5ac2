//! [`Tls`]: what stands between a channel and its socket if the channel is encrypted.
//!
//! It never waits: each call does what the socket allows at once, under a lock that is given back
//! before anybody polls. What was received and decrypted but not asked for yet is held here, where
//! no poll sees it: whoever polls must have read until nothing was there, or ask [`Tls::holds`]
//! first.

use std::fmt;
use std::io::{self, BufRead, IoSlice, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::socket::{MsgFlags, recv, sendmsg};
use rustls::Connection;

use super::raw;
use super::refusal::{Peer, TlsError};
use crate::memory::RawSlice;
use crate::wire::is_hello;

/// So much is read off the socket at once, and so much is encrypted before it goes there, in bytes.
const INCOMING: usize = 128 * 1024;
const OUTGOING: usize = 128 * 1024;
/// What is read at once of a peer that is not known yet.
const HANDSHAKE: usize = 4096;
/// A record that was received in part is no longer than this, in bytes: what is awaited beyond it
/// has not come.
pub const RECORD: u32 = 17 * 1024;
/// How many bytes tell a Whimbrel without TLS.
const FIRST: usize = 8;

/// What a handshake waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// Nothing: it is done.
    Done,
    /// The peer's next words.
    Reads,
    /// Room in the socket.
    Writes,
}

/// One channel's TLS.
pub struct Tls {
    session: Mutex<Session>,
    peer: Peer,
}

struct Session {
    connection: Connection,
    /// The first bytes of the peer.
    first: Vec<u8>,
    established: bool,
    /// Received and not looked at are the bytes from `start` to `end`. There is no buffer before
    /// the peer is known.
    incoming: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes that the library holds decrypted.
    clear: usize,
    /// Where bytes are gathered to be encrypted.
    flushed: Vec<u8>,
    ended: bool,
}

// Neither keys nor contents.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Tls {
    pub(super) fn new(mut connection: Connection, peer: Peer) -> Self {
        // What is encrypted at once is bounded here, and sent before the next.
        connection.set_buffer_limit(None);
        let session = Session {
            connection,
            first: Vec::with_capacity(FIRST),
            established: false,
            incoming: Vec::new(),
            start: 0,
            end: 0,
            clear: 0,
            flushed: Vec::new(),
            ended: false,
        };
        Self { session: Mutex::new(session), peer }
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        // Whoever panicked in here left a connection that fails by itself or goes on.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes as far as the socket allows.
    pub fn handshake(&self, socket: BorrowedFd<'_>) -> io::Result<Handshake> {
        let session = &mut *self.session();
        loop {
            match session.flush(socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Handshake::Writes),
                // A peer that is gone may have said why.
                Err(error) if !is_gone(&error) => return Err(error),
                _ => {}
            }
            if !session.connection.is_handshaking() {
                session.established = true;
                return Ok(Handshake::Done);
            }
            let mut bytes = [0; HANDSHAKE];
            match recv(socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).map_err(io::Error::from) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => session.learn(socket, &bytes[..count], self.peer)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Handshake::Reads),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Receives what is there, at most `most` bytes; `put` gets each piece and how many bytes came
    /// before it.
    pub fn receive(&self, socket: BorrowedFd<'_>, most: usize, put: &mut dyn FnMut(usize, &[u8])) -> io::Result<usize> {
        let session = &mut *self.session();
        session.must_be_established()?;
        let mut done = 0;
        while done < most {
            if session.clear > 0 {
                done += session.take(done, most - done, put)?;
            } else if session.has_more() {
                session.decrypt(socket, self.peer)?;
            } else if done > 0 || session.ended {
                break;
            } else {
                session.fetch(socket)?;
            }
        }
        Ok(done)
    }

    /// Encrypts and sends, as far as the socket takes it: `WouldBlock` when there is no room, to be
    /// called again with what is left. `sent` counts what was taken of the pieces. At its end
    /// everything is in the socket.
    pub fn send(&self, socket: BorrowedFd<'_>, pieces: &[RawSlice<'_>], sent: &mut usize) -> io::Result<()> {
        let session = &mut *self.session();
        session.must_be_established()?;
        loop {
            session.flush(socket)?;
            let count = session.flush_multifd(pieces, *sent);
            if count == 0 {
                return Ok(());
            }
            session.connection.writer().write_all(&session.flushed)?;
            *sent += count;
        }
    }

    /// Whether something was received that nobody has taken.
    pub fn holds(&self) -> bool {
        let session = self.session();
        session.clear > 0 || session.has_more()
    }

    /// Whether the peer has ended the stream and nothing is left to be read.
    pub fn is_ended(&self, socket: BorrowedFd<'_>) -> bool {
        let session = &mut *self.session();
        while session.clear == 0 && !session.ended {
            let look = if session.has_more() { session.decrypt(socket, self.peer) } else { session.fetch(socket) };
            match look {
                Ok(()) => {}
                Err(error) => return !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
            }
        }
        session.clear == 0
    }

    /// Says that nothing follows, if the socket has room for that.
    pub fn finish(&self, socket: BorrowedFd<'_>) {
        let session = &mut *self.session();
        session.connection.send_close_notify();
        // A stream that ends without this is as ended.
        let _ = session.flush(socket);
    }

    /// The certificate that the peer has shown, as it is signed; `None` before the handshake is
    /// done.
    pub fn peer_certificate(&self) -> Option<Vec<u8>> {
        Some(self.session().connection.peer_certificates()?.first()?.to_vec())
    }
}

impl Session {
    fn must_be_established(&self) -> io::Result<()> {
        if self.established { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) }
    }

    /// Whether there is something that was received and not looked at.
    fn has_more(&self) -> bool {
        self.start < self.end
    }

    /// Sends what is encrypted.
    fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Outward(socket)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes words of a handshake in.
    fn learn(&mut self, socket: BorrowedFd<'_>, mut bytes: &[u8], peer: Peer) -> io::Result<()> {
        let wanted = FIRST - self.first.len();
        self.first.extend_from_slice(&bytes[..bytes.len().min(wanted)]);
        if is_hello(&self.first) {
            // No TLS begins so. The peer is not told of it in TLS, either: that it could not read.
            return if self.first.len() < FIRST { Ok(()) } else { Err(TlsError::Plain(peer).into()) };
        }
        while !bytes.is_empty() {
            self.connection.read_tls(&mut bytes)?;
            let Err(error) = self.process(socket) else { continue };
            return Err(match error {
                rustls::Error::InvalidMessage(_) => TlsError::NotTls { peer, first: self.first.clone() },
                error => TlsError::of(error, peer),
            }
            .into());
        }
        Ok(())
    }

    /// What the library makes of what it was given.
    fn process(&mut self, socket: BorrowedFd<'_>) -> Result<(), rustls::Error> {
        match self.connection.process_new_packets() {
            Ok(state) => {
                self.clear = state.plaintext_bytes_to_read();
                self.ended |= state.peer_has_closed();
                Ok(())
            }
            Err(error) => {
                // The peer is told what is wrong, if it still listens.
                let _ = self.flush(socket);
                Err(error)
            }
        }
    }

    /// Looks at the next of what was received.
    fn decrypt(&mut self, socket: BorrowedFd<'_>, peer: Peer) -> io::Result<()> {
        let mut bytes = &self.incoming[self.start..self.end];
        let count = self.connection.read_tls(&mut bytes)?;
        // Nothing is taken behind the peer's last word.
        self.start = if count == 0 { self.end } else { self.start + count };
        self.process(socket).map_err(|error| TlsError::of(error, peer).into())
    }

    fn fetch(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.incoming.resize(INCOMING, 0);
        let count = recv(socket.as_raw_fd(), &mut self.incoming, MsgFlags::MSG_DONTWAIT)?;
        (self.start, self.end) = (0, count);
        self.ended |= count == 0;
        Ok(())
    }

    /// Gives out what is decrypted.
    fn take(&mut self, done: usize, most: usize, put: &mut dyn FnMut(usize, &[u8])) -> io::Result<usize> {
        let mut reader = self.connection.reader();
        let chunk = reader.fill_buf()?;
        let count = chunk.len().min(most);
        put(done, &chunk[..count]);
        reader.consume(count);
        self.clear -= count.min(self.clear);
        if count == 0 {
            self.clear = 0;
        }
        Ok(count)
    }

    /// Puts the next of the pieces together, from `sent` bytes on; how many bytes they are.
    fn flush_multifd(&mut self, pieces: &[RawSlice<'_>], sent: usize) -> usize {
        let (mut before, mut room) = (sent, OUTGOING);
        self.flushed.clear();
        for piece in pieces {
            let part = piece.skip(before).first(room);
            before = before.saturating_sub(piece.len());
            raw::append(part, &mut self.flushed);
            room -= part.len();
            if room == 0 {
                break;
            }
        }
        OUTGOING - room
    }
}

/// Writes to the socket what it takes now.
struct Outward<'a>(BorrowedFd<'a>);

impl Write for Outward<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        Ok(sendmsg::<()>(self.0.as_raw_fd(), pieces, &[], flags, None)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests;
