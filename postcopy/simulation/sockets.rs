//! Connected stream sockets and the network between them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollFlags;

use super::descriptors::{self, Descriptor, Object};
use super::{now, point, random};

/// So much of a line's time may wait in a socket.
const BACKLOG: Duration = Duration::from_millis(2);
/// The most bytes that a socket takes at once.
const MOST: usize = 256 * 1024;
/// What is sent into a link that is silently broken, before the socket is full.
const HOLE: usize = 64 * 1024;

/// What lies between two ends.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    pub latency: Duration,
    pub bytes_per_second: u64,
}

impl Line {
    fn time(self, bytes: usize) -> Duration {
        Duration::from_nanos(bytes as u64 * 1_000_000_000 / self.bytes_per_second)
    }

    fn room(self) -> usize {
        ((self.bytes_per_second as u128 * BACKLOG.as_nanos() / 1_000_000_000) as usize).clamp(4096, MOST)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Finished,
    Reset,
}

/// One direction.
struct Pipe {
    line: Line,
    free_at: Duration,
    flying: VecDeque<(Duration, Vec<u8>)>,
    arrived: VecDeque<u8>,
    /// Files, each with the number of the byte that it came with.
    files: VecDeque<(u64, Vec<OwnedFd>)>,
    sent: u64,
    taken: u64,
    end: Option<End>,
    /// Nobody will read it.
    deaf: bool,
    /// Nothing arrives any more, and both ends hear of it only then. With how much was sent since.
    silent: Option<(Duration, usize)>,
}

impl Pipe {
    fn new(line: Line) -> Self {
        Self {
            line,
            free_at: Duration::ZERO,
            flying: VecDeque::new(),
            arrived: VecDeque::new(),
            files: VecDeque::new(),
            sent: 0,
            taken: 0,
            end: None,
            deaf: false,
            silent: None,
        }
    }

    /// What has happened up to this moment.
    fn go_on(&mut self, now: Duration) {
        while self.flying.front().is_some_and(|(at, _)| *at <= now) {
            self.arrived.extend(self.flying.pop_front().unwrap().1);
        }
        if self.silent.is_some_and(|(until, _)| until <= now) {
            (self.silent, self.end) = (None, Some(End::Reset));
        }
    }

    fn is_full(&self, now: Duration) -> bool {
        match self.silent {
            Some((_, sent)) => sent >= HOLE,
            None => self.free_at > now + BACKLOG,
        }
    }

    fn takes(&self, now: Duration) -> nix::Result<usize> {
        match () {
            () if self.end == Some(End::Reset) => Err(Errno::ECONNRESET),
            () if self.deaf || self.end.is_some() => Err(Errno::EPIPE),
            () if self.is_full(now) => Err(Errno::EAGAIN),
            () => Ok(self.line.room()),
        }
    }

    fn send(&mut self, bytes: Vec<u8>, files: Vec<OwnedFd>, now: Duration) -> nix::Result<usize> {
        self.takes(now)?;
        let count = bytes.len();
        if !files.is_empty() {
            self.files.push_back((self.sent, files));
        }
        self.sent += count as u64;
        match &mut self.silent {
            Some((_, sent)) => *sent += count,
            None => {
                self.free_at = self.free_at.max(now) + self.line.time(count);
                self.flying.push_back((self.free_at + self.line.latency, bytes));
            }
        }
        Ok(count)
    }

    /// Whether the reader has come to the end.
    fn is_over(&self) -> bool {
        self.end.is_some() && self.flying.is_empty() && self.arrived.is_empty()
    }

    fn receive(&mut self, most: usize, peek: bool) -> nix::Result<(Vec<u8>, Vec<OwnedFd>)> {
        if self.arrived.is_empty() {
            return match self.end {
                Some(End::Reset) if self.flying.is_empty() => Err(Errno::ECONNRESET),
                Some(End::Finished) if self.flying.is_empty() => Ok((Vec::new(), Vec::new())),
                _ => Err(Errno::EAGAIN),
            };
        }
        let here = self.arrived.len().min(most);
        if peek {
            return Ok((self.arrived.iter().take(here).copied().collect(), Vec::new()));
        }
        let count = if random(4) == 0 { 1 + random(here as u64) as usize } else { here };
        let bytes = self.arrived.drain(..count).collect();
        self.taken += count as u64;
        let mut files = Vec::new();
        while self.files.front().is_some_and(|(at, _)| *at < self.taken) {
            files.extend(self.files.pop_front().unwrap().1);
        }
        Ok((bytes, files))
    }

    /// The network breaks after some byte of what flies. `silent`: nobody is told before then.
    fn cut(&mut self, silent: Option<Duration>) {
        let flying: Vec<u8> = self.flying.drain(..).flat_map(|(_, piece)| piece).collect();
        let keep = random(flying.len() as u64 + 1) as usize;
        self.arrived.extend(&flying[..keep]);
        match silent {
            _ if self.end.is_some() => {}
            Some(until) => self.silent = Some((until, 0)),
            None => self.end = Some(if random(2) == 0 { End::Finished } else { End::Reset }),
        }
    }

    fn next_event(&self, now: Duration) -> Option<Duration> {
        let arrival = self.flying.front().map(|(at, _)| *at);
        let room = self.free_at.checked_sub(BACKLOG);
        let silent = self.silent.map(|(until, _)| until);
        [arrival, room, silent].into_iter().flatten().filter(|at| *at > now).min()
    }
}

type Direction = Rc<RefCell<Pipe>>;

/// One end of a connection.
pub(super) struct Socket {
    incoming: Direction,
    outgoing: Direction,
    /// A unix socket.
    local: bool,
    /// It reads no more.
    shut: bool,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.incoming.borrow_mut().deaf = true;
        self.outgoing.borrow_mut().end.get_or_insert(End::Finished);
    }
}

impl Socket {
    pub fn ready(&self) -> PollFlags {
        let now = now();
        let (mut incoming, mut outgoing) = (self.incoming.borrow_mut(), self.outgoing.borrow_mut());
        incoming.go_on(now);
        outgoing.go_on(now);
        let mut ready = PollFlags::empty();
        let over = incoming.is_over();
        ready.set(PollFlags::POLLIN, self.shut || over || !incoming.arrived.is_empty());
        ready.set(PollFlags::POLLOUT, outgoing.takes(now) != Err(Errno::EAGAIN));
        ready.set(PollFlags::POLLHUP, over && outgoing.end.is_some());
        ready
    }

    fn receive(&self, most: usize, peek: bool) -> nix::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut incoming = self.incoming.borrow_mut();
        incoming.go_on(now());
        match incoming.receive(most, peek) {
            Err(Errno::EAGAIN) if self.shut => Ok((Vec::new(), Vec::new())),
            received => received,
        }
    }
}

/// A socket that is listened on.
pub(super) struct Listening(Rc<RefCell<VecDeque<Descriptor>>>);

impl Listening {
    pub fn ready(&self) -> PollFlags {
        if self.0.borrow().is_empty() { PollFlags::empty() } else { PollFlags::POLLIN }
    }
}

/// When something changes on any line by itself.
pub(super) fn next_event(now: Duration) -> Option<Duration> {
    let mut next = None;
    descriptors::each(|object| {
        if let Object::Socket(socket) = object {
            let events = [&socket.incoming, &socket.outgoing].map(|pipe| pipe.borrow().next_event(now));
            next = events.into_iter().flatten().chain(next).min();
        }
    });
    next
}

fn socket<T>(number: RawFd, look: impl FnOnce(&mut Socket) -> nix::Result<T>) -> nix::Result<T> {
    descriptors::with(number, |object| match object {
        Object::Socket(socket) => look(socket),
        _ => Err(Errno::ENOTSOCK),
    })?
}

/// How a link breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All connections.
    All,
    /// One of them.
    One(u64),
    /// All of them, and nobody hears of it before so much time has passed.
    Silent(Duration),
}

struct Wires {
    lines: Vec<Line>,
    local: bool,
    listening: Option<Rc<RefCell<VecDeque<Descriptor>>>>,
    connections: Vec<(Direction, Direction)>,
    refusals: u64,
}

/// The network between a source and a destination.
#[derive(Clone)]
pub struct Network(Rc<RefCell<Wires>>);

// SAFETY: the fibers of a schedule, who alone have it, are all on one thread of the system.
unsafe impl Send for Network {}
// SAFETY: as above.
unsafe impl Sync for Network {}

/// A network whose connections have these lines, or which is one host.
pub fn network(lines: Vec<Line>, local: bool) -> Network {
    let wires = Wires { lines, local, listening: None, connections: Vec::new(), refusals: 0 };
    Network(Rc::new(RefCell::new(wires)))
}

impl Network {
    /// Listens, in the place of whoever did before.
    pub fn listen(&self) -> Descriptor {
        let queue = Rc::new(RefCell::new(VecDeque::new()));
        self.0.borrow_mut().listening = Some(queue.clone());
        descriptors::open(Object::Listening(Listening(queue)))
    }

    /// Connects to who listens.
    pub fn dial(&self) -> io::Result<Descriptor> {
        point();
        let mut wires = self.0.borrow_mut();
        // Whoever listened may be gone: then this is the only one that knows of its place.
        let listening = wires.listening.clone().filter(|it| Rc::strong_count(it) > 2);
        let Some(listening) = listening.filter(|_| wires.refusals == 0) else {
            wires.refusals = wires.refusals.saturating_sub(1);
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let line = wires.lines[random(wires.lines.len() as u64) as usize];
        let (there, back) = (Rc::new(RefCell::new(Pipe::new(line))), Rc::new(RefCell::new(Pipe::new(line))));
        wires.connections.push((there.clone(), back.clone()));
        let local = wires.local;
        let end = |incoming: &Direction, outgoing: &Direction| {
            let (incoming, outgoing) = (incoming.clone(), outgoing.clone());
            descriptors::open(Object::Socket(Socket { incoming, outgoing, local, shut: false }))
        };
        listening.borrow_mut().push_back(end(&there, &back));
        Ok(end(&back, &there))
    }

    /// The next who waits to be let in.
    pub fn accept(listening: &Descriptor) -> io::Result<Descriptor> {
        point();
        let next = descriptors::with(listening.as_raw_fd(), |object| match object {
            Object::Listening(queue) => queue.0.borrow_mut().pop_front(),
            _ => None,
        })?;
        next.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    /// So many of the next connects are refused.
    pub fn refuse(&self, connects: u64) {
        self.0.borrow_mut().refusals = connects;
    }

    /// The network breaks; what is connected later is not affected.
    pub fn cut(&self, cut: Cut) {
        let mut wires = self.0.borrow_mut();
        let silent = if let Cut::Silent(time) = cut { Some(now() + time) } else { None };
        let connections = match cut {
            Cut::One(_) if wires.connections.is_empty() => return,
            Cut::One(number) => {
                let at = number as usize % wires.connections.len();
                vec![wires.connections.remove(at)]
            }
            _ => std::mem::take(&mut wires.connections),
        };
        for (there, back) in connections {
            there.borrow_mut().cut(silent);
            back.borrow_mut().cut(silent);
        }
    }
}

/// As the calls of libc.
pub mod calls {
    use libc::{c_int, c_void, msghdr, size_t, socklen_t, ssize_t};

    use super::*;
    use crate::host::touches;

    fn fail(error: Errno) -> ssize_t {
        error.set();
        -1
    }

    /// # Safety
    /// As the call.
    pub unsafe fn sendmsg(number: RawFd, message: *const msghdr, _flags: c_int) -> ssize_t {
        point();
        let takes = |socket: &mut Socket| {
            let mut outgoing = socket.outgoing.borrow_mut();
            outgoing.go_on(now());
            outgoing.takes(now())
        };
        let room = match socket(number, takes) {
            Ok(room) if random(4) == 0 => 1 + random(room as u64) as usize,
            Ok(room) => room,
            Err(error) => return fail(error),
        };
        let mut bytes = Vec::new();
        // SAFETY: the caller's: so many pieces stand there, each of memory that can be read.
        let pieces = unsafe { std::slice::from_raw_parts((*message).msg_iov, (*message).msg_iovlen) };
        for piece in pieces {
            let count = piece.iov_len.min(room - bytes.len());
            if count == 0 {
                break;
            }
            touches(piece.iov_base as usize, count);
            // SAFETY: as above. Nobody else runs between here and the end of the copy.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(piece.iov_base.cast::<u8>(), count) });
        }
        match socket(number, |socket| socket.outgoing.borrow_mut().send(bytes, Vec::new(), now())) {
            Ok(count) => count as ssize_t,
            Err(error) => fail(error),
        }
    }

    /// # Safety
    /// As the call.
    pub unsafe fn recv(number: RawFd, to: *mut c_void, most: size_t, _flags: c_int) -> ssize_t {
        point();
        let (bytes, _) = match socket(number, |socket| socket.receive(most, false)) {
            Ok(received) => received,
            Err(error) => return fail(error),
        };
        touches(to as usize, bytes.len());
        // SAFETY: the caller's: `most` bytes can be written, and no more came.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast::<u8>(), bytes.len()) };
        bytes.len() as ssize_t
    }

    /// Nothing is known of the network.
    ///
    /// # Safety
    /// None is needed.
    pub unsafe fn getsockopt(_: RawFd, _: c_int, _: c_int, _: *mut c_void, _: *mut socklen_t) -> c_int {
        fail(Errno::EOPNOTSUPP) as c_int
    }

    /// # Safety
    /// None is needed.
    pub unsafe fn setsockopt(_: RawFd, _: c_int, _: c_int, _: *const c_void, _: socklen_t) -> c_int {
        0
    }
}

/// As nix's.
pub mod safe {
    use std::os::fd::{AsFd, BorrowedFd};

    use nix::fcntl::FcntlArg;
    use nix::sys::socket::{MsgFlags, SetSockOpt, Shutdown};

    use super::*;

    pub fn fcntl<F: AsFd>(_fd: F, _arg: FcntlArg<'_>) -> nix::Result<i32> {
        Ok(0)
    }

    pub fn recv(number: RawFd, buffer: &mut [u8], flags: MsgFlags) -> nix::Result<usize> {
        point();
        let (bytes, _) = socket(number, |socket| socket.receive(buffer.len(), flags.contains(MsgFlags::MSG_PEEK)))?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    pub fn shutdown(number: RawFd, how: Shutdown) -> nix::Result<()> {
        point();
        socket(number, |socket| {
            if how != Shutdown::Write {
                socket.shut = true;
                socket.incoming.borrow_mut().deaf |= socket.local;
            }
            if how != Shutdown::Read {
                socket.outgoing.borrow_mut().end.get_or_insert(End::Finished);
            }
            Ok(())
        })
    }

    /// Only TCP's sockets have TCP's options.
    pub fn setsockopt<F: AsFd, O: SetSockOpt>(fd: &F, _option: O, _value: &O::Val) -> nix::Result<()> {
        let of_tcp = std::any::type_name::<O>().contains("Tcp");
        socket(fd.as_fd().as_raw_fd(), |socket| if socket.local && of_tcp { Err(Errno::EOPNOTSUPP) } else { Ok(()) })
    }

    /// Two ends connected to each other: schedules have a [`Network`] instead.
    pub fn pair() -> io::Result<(Descriptor, Descriptor)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// So many files can go with one message.
    pub const MOST_FILES: usize = 16;

    /// Bytes and the files that came with them; whether there were more files.
    pub fn receive_files(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>, bool)> {
        point();
        let (bytes, files) = socket(fd.as_raw_fd(), |socket| socket.receive(buffer.len(), false))?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok((bytes.len(), files, false))
    }

    /// Sends what it takes of the bytes now, and with the first of them the files.
    pub fn send_files(fd: BorrowedFd<'_>, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
        point();
        let files = files.iter().map(|file| file.try_clone_to_owned()).collect::<io::Result<Vec<_>>>()?;
        Ok(socket(fd.as_raw_fd(), |socket| {
            let mut outgoing = socket.outgoing.borrow_mut();
            outgoing.go_on(now());
            let count = outgoing.takes(now())?.min(bytes.len());
            outgoing.send(bytes[..count].to_vec(), files, now())
        })?)
    }
}
