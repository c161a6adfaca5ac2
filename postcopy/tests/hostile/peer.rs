//! The lying peer's tools: sockets that the drivers take for their network, and messages written
//! and read by hand.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use whimbrel_postcopy::channel::{Acceptor, Channel, ChannelError, Connector, Wake};
use whimbrel_postcopy::ram::PAGE_SIZE;
use whimbrel_postcopy::wire::{
    Answer, BlockDescription, ChannelKind, Features, Forward, Header, Hello, Reply, Request, Token, tag,
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sockets that wait to be taken: a network for both directions of connecting.
#[derive(Default)]
struct Queue {
    channels: Mutex<VecDeque<UnixStream>>,
    more: Condvar,
    bell: Mutex<Option<Arc<Wake>>>,
}

/// Where the drivers' sockets come from. The peer holds one end, the drivers get the other.
#[derive(Clone, Default)]
pub struct Network(Arc<Queue>);

impl Network {
    /// A new connection; the returned end is the peer's.
    pub fn open(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        ours.set_write_timeout(Some(PATIENCE)).unwrap();
        self.0.channels.lock().unwrap().push_back(theirs);
        self.0.more.notify_all();
        if let Some(bell) = self.0.bell.lock().unwrap().as_ref() {
            bell.ring();
        }
        ours
    }
}

impl Connector for Network {
    fn connect(&self) -> io::Result<Channel> {
        let channels = self.0.channels.lock().unwrap();
        let (mut channels, late) =
            self.0.more.wait_timeout_while(channels, PATIENCE, |waiting| waiting.is_empty()).unwrap();
        if late.timed_out() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Channel::new(channels.pop_front().unwrap().into())
    }
}

impl Acceptor for Network {
    fn accept(&self, wake: &Wake) -> Result<Channel, ChannelError> {
        // A socket of this acceptor's own wakes it up: it is polled next to the driver's bell.
        let bell = Arc::new(Wake::new().map_err(ChannelError::Io)?);
        *self.0.bell.lock().unwrap() = Some(bell.clone());
        loop {
            if let Some(stream) = self.0.channels.lock().unwrap().pop_front() {
                return Channel::new(stream.into()).map_err(ChannelError::Io);
            }
            use std::os::fd::AsFd;
            let polled = |fd| nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN);
            let mut fds = [polled(bell.as_fd()), polled(wake.as_fd())];
            nix::poll::poll(&mut fds, nix::poll::PollTimeout::NONE).unwrap();
            bell.clear();
            if fds[1].any() == Some(true) {
                wake.clear();
                return Err(ChannelError::Interrupted);
            }
        }
    }
}

pub fn forward(message: &Forward) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

pub fn reply(message: &Reply) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

pub fn request(message: &Request) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

/// A header alone, true or not.
pub fn header(tag: u16, flags: u16, length: u32) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &flags.to_le_bytes(), &length.to_le_bytes()].concat()
}

pub fn hello(kind: ChannelKind) -> Hello {
    Hello { versions: (1, 1), kind, recover: false, token: Token([7; 16]), features: Features::POSTCOPY }
}

/// What an honest source says first, of RAM blocks of these sizes.
pub fn introduction(blocks: &[u64]) -> Vec<u8> {
    let blocks = blocks.iter().enumerate();
    let blocks =
        blocks.map(|(n, &pages)| BlockDescription { name: format!("ram{n}"), guest_address: 0, pages }).collect();
    let configuration = Forward::Configuration(vec![("vcpus".into(), "1".into())]);
    let ram = Forward::Ram { page_size: PAGE_SIZE as u32, blocks };
    [forward(&configuration), forward(&ram)].concat()
}

/// The answer to a hello.
pub fn answer(channel: &mut UnixStream) -> Answer {
    let mut fixed = [0; Answer::LEN];
    channel.read_exact(&mut fixed).unwrap();
    let mut text = vec![0; Answer::text_len(&fixed).unwrap()];
    channel.read_exact(&mut text).unwrap();
    Answer::decode(&fixed, &text).unwrap()
}

pub fn welcome() -> Vec<u8> {
    Answer::Welcome { version: 1, features: Features::POSTCOPY }.encode()
}

/// The next message's number and body.
pub fn read_message(channel: &mut UnixStream) -> io::Result<(u16, Vec<u8>)> {
    let mut head = [0; Header::LEN];
    channel.read_exact(&mut head)?;
    let header = Header::decode(head).map_err(io::Error::other)?;
    let mut body = vec![0; header.length as usize];
    channel.read_exact(&mut body)?;
    Ok((header.tag, body))
}

/// Reads on until a message of this number, answering marks; its body.
pub fn read_until(channel: &mut UnixStream, wanted: u16) -> Vec<u8> {
    loop {
        let (found, body) = read_message(channel).unwrap_or_else(|error| panic!("no {}: {error}", tag::name(wanted)));
        if found == wanted {
            return body;
        }
        if let (tag::BARRIER, Ok(number)) = (found, body.as_slice().try_into()) {
            // The source goes on only once it hears that everything before the mark was dealt with.
            say(channel, &reply(&Reply::BarrierAck(u32::from_le_bytes(number))));
        }
    }
}

/// Sends as far as the other side takes it.
pub fn say(channel: &mut UnixStream, bytes: &[u8]) {
    // Whoever has heard enough closes: the rest of a lie has nobody to hear it.
    let _ = channel.write_all(bytes);
}

pub fn hang_up(channel: &UnixStream) {
    let _ = channel.shutdown(Shutdown::Write);
}

/// Memory of this process that is in use, in bytes.
pub fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * PAGE_SIZE as u64
}
