//! [`FaultyLink`]: a link that knows what goes over it, and breaks exactly where it is told to.
//!
//! It reads along: which connection is which channel (its hello says so), and where a message
//! begins and ends. So a fault strikes at a chosen message of a chosen channel in a chosen
//! direction, the same place every time.
//!
//! Of a link with TLS it sees the records, and knows the channels by the order in which they are
//! opened.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::connect_unspec;
use whimbrel_postcopy::wire::{ChannelKind, Header, Hello};

use super::LIMIT;

/// What the first bytes of a channel count as, beside the messages' numbers: the hello forth, its
/// answer back.
pub const GREETING: u16 = 0;
const ANSWER: usize = 24;
const HEADER: usize = Header::LEN;
/// Of a record of TLS: its type, a version of two bytes, and the length of two bytes, the first the
/// higher.
const RECORD_HEADER: usize = 5;
/// The type of records that are encrypted.
const ENCRYPTED: u16 = 23;
/// Longer than the header and the fields that stand before page contents.
const CHUNK: usize = 64 << 10;

/// One of a migration's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Control,
    /// Counted from 0.
    Multifd(usize),
    Demand,
}

/// Whose words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The source's.
    Forth,
    /// The destination's.
    Back,
}

/// Where at a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Nothing of it has gone on.
    Begin,
    /// Half of it has.
    Inside,
    /// All of it has, and nothing else.
    End,
}

/// Where in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The `nth` message (from 1) with this number.
    Message { tag: u16, nth: u32, at: At },
    /// So many bytes have gone on.
    Offset(u64),
    /// The `nth` record (from 1) of TLS, those of the handshake counted.
    Record { nth: u32, at: At },
    /// The first encrypted record that begins from now on.
    Next(At),
}

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Both ends see the end of this connection.
    Cut,
    /// Both ends see it reset.
    Reset,
    /// This direction ends, and what comes of it is lost; the other goes on.
    HalfClose,
    /// Nothing goes on in this direction, and nobody hears of it.
    Stall,
    /// From here on every piece comes so much later.
    Delay(Duration),
    /// The message's number is one that no message has.
    CorruptNumber,
    /// Its flags are not zero.
    CorruptFlags,
    /// It claims to be far too long.
    CorruptLength,
    /// Its first field has an impossible value.
    CorruptFields,
    /// One byte in its middle is another.
    CorruptContents,
    /// The message is not there.
    Drop,
    /// Its first bytes are not there.
    DropBytes,
    /// It comes twice.
    Duplicate,
    /// Its first bytes come twice.
    DuplicateBytes,
}

/// One fault at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub channel: Channel,
    pub direction: Direction,
    pub place: Place,
    pub fault: Fault,
}

/// The link. Connections are forwarded to the target in the order in which they come.
pub struct FaultyLink {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Has a byte in it once the fault has struck.
    struck: UnixStream,
}

struct Shared {
    target: String,
    plan: OnceLock<Plan>,
    /// Of a link with TLS: how many multifd channels a migration has.
    encrypted: Option<usize>,
    /// Only the threads that copy keep a connection open: once both have ended it is closed, and
    /// who still sends hears of it.
    connections: Mutex<Vec<Weak<Connection>>>,
    hold: Mutex<Hold>,
    changed: Condvar,
    tell: UnixStream,
    has_struck: AtomicBool,
    has_ended: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// A direction that comes to its stall stands still there.
    Stands,
    /// Stalls are over: what was held goes on.
    Released,
}

struct Connection {
    near: TcpStream,
    far: TcpStream,
    channel: OnceLock<Channel>,
    stalled: AtomicBool,
}

impl Connection {
    fn ends(&self, direction: Direction) -> (&TcpStream, &TcpStream) {
        match direction {
            Direction::Forth => (&self.near, &self.far),
            Direction::Back => (&self.far, &self.near),
        }
    }

    /// One that is gone already needs no cutting.
    fn cut(&self) {
        let _ = self.near.shutdown(Shutdown::Both);
        let _ = self.far.shutdown(Shutdown::Both);
    }

    fn reset(&self) {
        let _ = connect_unspec(&self.near);
        let _ = connect_unspec(&self.far);
    }
}

impl FaultyLink {
    /// To `target`, an address `tcp:HOST:PORT`; without a plan nothing happens by itself.
    pub fn to(target: &str, plan: Option<Plan>) -> Self {
        Self::with(target, plan, None)
    }

    /// The same for a migration with TLS and so many multifd channels: its messages are records.
    pub fn encrypted(target: &str, plan: Option<Plan>, multifd: usize) -> Self {
        Self::with(target, plan, Some(multifd))
    }

    fn with(target: &str, plan: Option<Plan>, encrypted: Option<usize>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (struck, tell) = UnixStream::pair().unwrap();
        let shared = Arc::new(Shared {
            target: target.strip_prefix("tcp:").unwrap().to_owned(),
            plan: plan.map_or_else(OnceLock::new, OnceLock::from),
            encrypted,
            connections: Mutex::default(),
            hold: Mutex::new(Hold::Stands),
            changed: Condvar::new(),
            tell,
            has_struck: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for (number, near) in listener.incoming().enumerate() {
                if accepting.has_ended.load(Ordering::Acquire) {
                    return;
                }
                accepting.forward(near.unwrap(), number);
            }
        });
        Self { address, shared, struck }
    }

    /// Gives a link without a plan one.
    pub fn arm(&self, plan: Plan) {
        self.shared.plan.set(plan).expect("the link has a plan");
    }

    /// Where to connect instead of the target.
    pub fn address(&self) -> String {
        format!("tcp:{}", self.address)
    }

    /// Whether the fault has happened.
    pub fn has_struck(&self) -> bool {
        self.shared.has_struck.load(Ordering::Acquire)
    }

    /// Waits for the fault.
    pub fn await_strike(&self) {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(LIMIT).unwrap();
        assert!(self.has_struck() || poll(&mut fds, limit).unwrap() > 0, "the migration never came to the place");
    }

    /// Becomes readable when the fault happens.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.struck.as_fd()
    }

    /// The fault has been seen: the descriptor rests.
    pub fn seen(&self) {
        self.struck.set_nonblocking(true).unwrap();
        let _ = (&self.struck).read(&mut [0; 16]);
    }

    /// What was held back by a stall goes on.
    pub fn release(&self) {
        for connection in self.shared.open() {
            connection.stalled.store(false, Ordering::Release);
        }
        *self.shared.hold.lock().unwrap() = Hold::Released;
        self.shared.changed.notify_all();
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.shared.open().iter().for_each(|connection| connection.cut());
        *self.shared.hold.lock().unwrap() = Hold::Released;
        self.shared.changed.notify_all();
    }

    /// Now and not at a place: a cut, a reset or a stall (of both directions) of one channel.
    pub fn strike(&self, channel: Channel, fault: Fault) {
        let connections = self.shared.open();
        let connection = connections.iter().find(|it| it.channel.get() == Some(&channel));
        let connection = connection.unwrap_or_else(|| panic!("the migration has no channel {channel:?}"));
        self.shared.note();
        match fault {
            Fault::Cut => connection.cut(),
            Fault::Reset => connection.reset(),
            Fault::Stall => connection.stalled.store(true, Ordering::Release),
            other => panic!("{other:?} needs a place"),
        }
    }
}

impl Drop for FaultyLink {
    fn drop(&mut self) {
        self.cut();
        self.shared.has_ended.store(true, Ordering::Release);
        // The accepting thread looks when somebody connects.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn forward(self: &Arc<Self>, near: TcpStream, number: usize) {
        let Ok(far) = TcpStream::connect(&self.target) else {
            // Nobody listens there any more: `near` is closed, as it would be without a link in
            // between.
            return;
        };
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        // Nobody can read who it is.
        let channel = self.encrypted.map(|multifd| match number {
            0 => Channel::Control,
            _ if number <= multifd => Channel::Multifd(number - 1),
            _ => Channel::Demand,
        });
        let channel = channel.map_or_else(OnceLock::new, OnceLock::from);
        let connection = Arc::new(Connection { near, far, channel, stalled: AtomicBool::new(false) });
        self.connections.lock().unwrap().push(Arc::downgrade(&connection));
        for direction in [Direction::Forth, Direction::Back] {
            let (shared, connection) = (self.clone(), connection.clone());
            thread::spawn(move || Course::new(&shared, &connection, direction).run());
        }
    }

    /// The connections that are still there.
    fn open(&self) -> Vec<Arc<Connection>> {
        self.connections.lock().unwrap().iter().filter_map(Weak::upgrade).collect()
    }

    fn note(&self) {
        self.has_struck.store(true, Ordering::Release);
        let _ = (&self.tell).write_all(&[1]);
    }

    fn stand_still(&self) {
        let hold = self.hold.lock().unwrap();
        drop(self.changed.wait_while(hold, |hold| *hold == Hold::Stands).unwrap());
    }
}

/// Where the reader is.
enum Stage {
    /// Before a greeting or a header.
    Head,
    /// So much of a message is still to go on.
    Passing(usize),
    /// The message of so many bytes that the fault strikes at.
    Chosen(usize, At),
    /// Nobody reads along any more.
    Blind,
}

/// Whether a direction goes on.
type Goes = std::ops::ControlFlow<()>;
const ON: Goes = Goes::Continue(());
const OVER: Goes = Goes::Break(());

/// One direction of one connection.
struct Course<'a> {
    shared: &'a Shared,
    connection: &'a Connection,
    direction: Direction,
    stage: Stage,
    greeted: bool,
    held: Vec<u8>,
    counts: [u32; 256],
    records: u32,
    written: u64,
    delay: Duration,
}

impl<'a> Course<'a> {
    fn new(shared: &'a Shared, connection: &'a Connection, direction: Direction) -> Self {
        let (stage, held, delay) = (Stage::Head, Vec::new(), Duration::ZERO);
        let counts = [0; 256];
        Self { shared, connection, direction, stage, greeted: false, held, counts, records: 0, written: 0, delay }
    }

    fn run(mut self) {
        let mut buffer = vec![0; CHUNK];
        let (mut from, to) = self.connection.ends(self.direction);
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            self.held.extend_from_slice(&buffer[..count]);
            if self.advance().is_break() {
                return;
            }
        }
        let rest = std::mem::take(&mut self.held);
        if self.write(&rest).is_continue() {
            let _ = to.shutdown(Shutdown::Write);
        }
    }

    /// Lets everything go on that can be judged.
    fn advance(&mut self) -> Goes {
        while !self.held.is_empty() {
            match self.stage {
                Stage::Head => match self.head() {
                    Some((tag, length)) => self.stage = self.choose(tag, length),
                    None => return ON,
                },
                Stage::Passing(left) => {
                    let count = left.min(self.held.len());
                    let piece: Vec<u8> = self.held.drain(..count).collect();
                    self.write(&piece)?;
                    self.stage = if left == count { Stage::Head } else { Stage::Passing(left - count) };
                }
                Stage::Chosen(length, _) if self.held.len() < length => return ON,
                Stage::Chosen(length, at) => {
                    let message: Vec<u8> = self.held.drain(..length).collect();
                    self.stage = Stage::Blind;
                    let fault = self.shared.plan.get().unwrap().fault;
                    self.strike(fault, at, message)?;
                }
                Stage::Blind => {
                    let piece = std::mem::take(&mut self.held);
                    self.write(&piece)?;
                }
            }
        }
        ON
    }

    /// The number and whole length of what begins here, once that can be seen.
    fn head(&mut self) -> Option<(u16, usize)> {
        let held = &self.held;
        if self.shared.encrypted.is_some() {
            let header: [u8; RECORD_HEADER] = held.first_chunk().copied()?;
            let length = u16::from_be_bytes([header[3], header[4]]);
            return Some((u16::from(header[0]), RECORD_HEADER + usize::from(length)));
        }
        if self.greeted {
            let header: [u8; HEADER] = held.first_chunk().copied()?;
            let tag = u16::from_le_bytes([header[0], header[1]]);
            let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
            return Some((tag, HEADER + length as usize));
        }
        let length = match self.direction {
            Direction::Forth => {
                let hello = Hello::decode(held.first_chunk()?).unwrap();
                let channel = match hello.kind {
                    ChannelKind::Control => Channel::Control,
                    ChannelKind::Demand => Channel::Demand,
                    ChannelKind::Multifd => {
                        let is_one = |it: &&Arc<Connection>| matches!(it.channel.get(), Some(Channel::Multifd(_)));
                        Channel::Multifd(self.shared.open().iter().filter(is_one).count())
                    }
                };
                self.connection.channel.set(channel).unwrap();
                Hello::LEN
            }
            Direction::Back => {
                let fixed: [u8; ANSWER] = held.first_chunk().copied()?;
                ANSWER + usize::from(u16::from_le_bytes([fixed[10], fixed[11]]))
            }
        };
        self.greeted = true;
        Some((GREETING, length))
    }

    fn choose(&mut self, tag: u16, length: usize) -> Stage {
        self.counts[usize::from(tag) % 256] += 1;
        self.records += 1;
        let count = self.counts[usize::from(tag) % 256];
        match self.plan().map(|plan| plan.place) {
            Some(Place::Message { tag: wanted, nth, at }) if (wanted, nth) == (tag, count) => Stage::Chosen(length, at),
            Some(Place::Record { nth, at }) if nth == self.records => Stage::Chosen(length, at),
            Some(Place::Next(at)) if tag == ENCRYPTED => Stage::Chosen(length, at),
            _ => Stage::Passing(length),
        }
    }

    /// The plan, if it is about this direction of this channel and not carried out yet.
    fn plan(&self) -> Option<Plan> {
        let channel = self.connection.channel.get()?;
        self.shared.plan.get().copied().filter(|plan| {
            let done = self.shared.has_struck.load(Ordering::Acquire);
            plan.channel == *channel && plan.direction == self.direction && !done
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Goes {
        if let Some(Plan { place: Place::Offset(offset), fault, .. }) = self.plan()
            && self.written + bytes.len() as u64 > offset
        {
            let (before, after) = bytes.split_at((offset - self.written) as usize);
            self.send(before)?;
            return self.strike(fault, At::Begin, after.to_vec());
        }
        self.send(bytes)
    }

    fn send(&mut self, bytes: &[u8]) -> Goes {
        if self.connection.stalled.load(Ordering::Acquire) {
            self.shared.stand_still();
        }
        if !self.delay.is_zero() {
            thread::sleep(self.delay);
        }
        self.written += bytes.len() as u64;
        let (from, mut to) = self.connection.ends(self.direction);
        if to.write_all(bytes).is_err() {
            let _ = from.shutdown(Shutdown::Read);
            return OVER;
        }
        ON
    }

    fn strike(&mut self, fault: Fault, at: At, mut message: Vec<u8>) -> Goes {
        let before = match at {
            At::Begin => 0,
            At::Inside => message.len() / 2,
            At::End => message.len(),
        };
        match fault {
            Fault::Cut | Fault::Reset | Fault::HalfClose | Fault::Stall => {
                self.send(&message[..before])?;
                return self.end(fault, &message[before..]);
            }
            Fault::Delay(delay) => self.delay = delay,
            Fault::CorruptContents => {
                let middle = message.len() / 2;
                message[middle] ^= 0x10;
            }
            // Of a record its type, the higher byte of its version (nothing looks at the other),
            // and its length.
            Fault::CorruptNumber if self.shared.encrypted.is_some() => message[0] ^= 0x40,
            Fault::CorruptFlags if self.shared.encrypted.is_some() => message[1] ^= 0x40,
            Fault::CorruptLength if self.shared.encrypted.is_some() => message[3] ^= 0x80,
            Fault::CorruptNumber => message[1] ^= 0x40,
            Fault::CorruptFlags => message[2] ^= 0x01,
            Fault::CorruptLength => message[7] ^= 0x40,
            // In a greeting a version; in a body a count or number too high by 65536, or, of a
            // single byte, a wrong one.
            Fault::CorruptFields if self.written == 0 => message[9] ^= 0x01,
            Fault::CorruptFields if message.len() < HEADER + 4 => message[HEADER] ^= 0x02,
            Fault::CorruptFields => message[HEADER + 2] ^= 0x01,
            Fault::Drop => message.clear(),
            Fault::DropBytes => drop(message.drain(..3)),
            Fault::Duplicate => message.extend_from_within(..),
            Fault::DuplicateBytes => {
                let twice = message[..3].to_vec();
                message.splice(..0, twice);
            }
        }
        self.shared.note();
        self.send(&message)
    }

    fn end(&mut self, fault: Fault, rest: &[u8]) -> Goes {
        let (mut from, to) = self.connection.ends(self.direction);
        self.shared.note();
        match fault {
            Fault::Cut => self.connection.cut(),
            Fault::Reset => self.connection.reset(),
            Fault::HalfClose => {
                let _ = to.shutdown(Shutdown::Write);
                let mut lost = vec![0; CHUNK];
                while let Ok(1..) = from.read(&mut lost) {}
            }
            _ => {
                self.shared.stand_still();
                return self.send(rest);
            }
        }
        OVER
    }
}
