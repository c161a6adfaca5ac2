//! A modelled network: byte queues with latency and bandwidth that may end after any byte.

use std::collections::VecDeque;
use std::time::Duration;

use crate::plan::Random;

/// Bytes fly in pieces of at most this size.
const PIECE: usize = 8192;
/// A sender waits once so much time's worth of bytes stands before its own.
const BACKLOG: Duration = Duration::from_millis(2);

/// What a line is like.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    pub latency: Duration,
    pub bytes_per_second: u64,
}

/// The stream has ended.
#[derive(Debug)]
pub struct Ended;

/// One direction of one channel.
#[derive(Default)]
pub struct Pipe {
    flying: VecDeque<(Duration, Vec<u8>)>,
    arrived: VecDeque<u8>,
    free_at: Duration,
    ended: bool,
}

impl Pipe {
    pub fn send(&mut self, bytes: &[u8], line: Line, now: Duration) -> Result<(), Ended> {
        if self.ended {
            return Err(Ended);
        }
        for piece in bytes.chunks(PIECE) {
            let took = Duration::from_nanos(piece.len() as u64 * 1_000_000_000 / line.bytes_per_second);
            self.free_at = self.free_at.max(now) + took;
            self.flying.push_back((self.free_at + line.latency, piece.to_vec()));
        }
        Ok(())
    }

    /// Whether a sender would wait.
    pub fn is_full(&self, now: Duration) -> bool {
        !self.ended && self.free_at > now + BACKLOG
    }

    fn deliver(&mut self, now: Duration) {
        while self.flying.front().is_some_and(|(at, _)| *at <= now) {
            self.arrived.extend(self.flying.pop_front().unwrap().1);
        }
    }

    /// The sender says no more: what flies still arrives.
    pub fn finish(&mut self) {
        self.ended = true;
    }

    /// The network says no more: some of what flies arrives, up to any byte.
    fn cut(&mut self, random: &mut Random) {
        self.ended = true;
        let flying: Vec<u8> = self.flying.drain(..).flat_map(|(_, piece)| piece).collect();
        let keep = random.below(flying.len() as u64 + 1) as usize;
        self.arrived.extend(&flying[..keep]);
    }

    /// The reader is gone: nothing of it will be read.
    pub fn end_at_once(&mut self) {
        self.ended = true;
        self.flying.clear();
        self.arrived.clear();
    }

    /// How many bytes can be read.
    pub fn len(&self) -> usize {
        self.arrived.len()
    }

    /// Whether nothing more will come than what can be read.
    pub fn has_ended(&self) -> bool {
        self.ended && self.flying.is_empty()
    }

    /// A copy of the first `count` bytes, if there are so many.
    pub fn peek(&self, count: usize) -> Option<Vec<u8>> {
        (self.arrived.len() >= count).then(|| self.arrived.iter().take(count).copied().collect())
    }

    pub fn take(&mut self, count: usize) -> Vec<u8> {
        self.arrived.drain(..count).collect()
    }

    fn next_event(&self, now: Duration) -> Option<Duration> {
        let arrival = self.flying.front().map(|(at, _)| *at);
        let room = self.is_full(now).then(|| self.free_at - BACKLOG);
        arrival.into_iter().chain(room).min()
    }
}

/// Two channels, two directions each, and multifd channels of one.
#[derive(Default)]
pub struct Link {
    pub control: Pipe,
    pub replies: Pipe,
    pub pages: Pipe,
    pub requests: Pipe,
    pub multifd: Vec<Pipe>,
}

impl Link {
    /// With so many multifd channels.
    pub fn new(multifd: usize) -> Self {
        Self { multifd: (0..multifd).map(|_| Pipe::default()).collect(), ..Self::default() }
    }

    fn pipes(&mut self) -> impl Iterator<Item = &mut Pipe> {
        let four = [&mut self.control, &mut self.replies, &mut self.pages, &mut self.requests];
        four.into_iter().chain(&mut self.multifd)
    }

    pub fn deliver(&mut self, now: Duration) {
        self.pipes().for_each(|pipe| pipe.deliver(now));
    }

    /// The network breaks: each direction ends after some byte of its own. Now and then only one
    /// channel breaks.
    pub fn cut(&mut self, random: &mut Random) {
        let (first, count) = random.pick(&[(0, usize::MAX), (0, usize::MAX), (0, 2), (2, 2), (4, 1)]);
        self.pipes().skip(first).take(count).for_each(|pipe| pipe.cut(random));
    }

    /// One end goes away: its sending ends in order, and what was sent to it meets nobody.
    pub fn finish_source(&mut self) {
        self.control.finish();
        self.pages.finish();
        self.multifd.iter_mut().for_each(Pipe::finish);
    }

    pub fn finish_destination(&mut self) {
        self.replies.finish();
        self.requests.finish();
    }

    /// When something changes by itself.
    pub fn next_event(&mut self, now: Duration) -> Option<Duration> {
        self.pipes().filter_map(|pipe| pipe.next_event(now)).min()
    }
}
