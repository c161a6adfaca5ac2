//! [`Client`]: a conversation on a wire.

use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::endpoint::Wire;
use super::event::Event;
use super::outbox::Outbox;
use super::session::{Flow, Session};
use super::vm::Vm;

/// Bytes read in one turn: every other client has its turn before the next.
const CHUNK: usize = 16 << 10;

/// How a client stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It may say more.
    Open,
    /// It gets what is left to say to it, and that is all.
    Closing,
    /// The wire is gone.
    Gone,
}

/// One connected client.
pub struct Client {
    wire: Wire,
    session: Box<dyn Session>,
    outbox: Outbox,
    /// Answers, until the events that belong before them are in the outbox.
    held: Vec<u8>,
    /// Readiness is reported once, when it begins: it is kept here until a read says otherwise.
    readable: bool,
    /// It has said something.
    spoke: bool,
    state: State,
    next_tick: Option<Instant>,
}

impl Client {
    /// Greets.
    pub fn new(wire: Wire, mut session: Box<dyn Session>) -> Self {
        let mut outbox = Outbox::default();
        session.greet(outbox.buffer());
        Self {
            wire,
            session,
            outbox,
            held: Vec::new(),
            readable: true,
            spoke: false,
            state: State::Open,
            next_tick: None,
        }
    }

    /// Asks for readiness of the wire under `token`.
    pub fn register(&self, registry: &Registry, token: Token) -> std::io::Result<()> {
        let input = self.wire.input.as_raw_fd();
        let Some(output) = &self.wire.output else {
            let both = Interest::READABLE | Interest::WRITABLE;
            return registry.register(&mut SourceFd(&input), token, both);
        };
        allow_files(registry.register(&mut SourceFd(&input), token, Interest::READABLE))?;
        let output = output.as_raw_fd();
        allow_files(registry.register(&mut SourceFd(&output), token, Interest::WRITABLE))
    }

    /// Takes the wire out of the poll.
    pub fn deregister(&self, registry: &Registry) {
        let output = self.wire.output.as_ref().map(AsRawFd::as_raw_fd);
        for fd in [Some(self.wire.input.as_raw_fd()), output].into_iter().flatten() {
            // Fails for files that were never in, and closing takes it out anyway.
            let _ = registry.deregister(&mut SourceFd(&fd));
        }
    }

    /// The poll saw something on the wire.
    pub fn wake(&mut self) {
        self.readable = true;
    }

    /// Whether [`Client::turn`] has something to read now.
    pub fn is_runnable(&self) -> bool {
        self.readable && self.state == State::Open && self.session.wants_input() && !self.outbox.is_busy()
    }

    /// How often its session wants to be called.
    fn tick_every(&self) -> Option<Duration> {
        self.session.tick_every().filter(|_| self.state == State::Open)
    }

    /// Whether it came by itself and has said nothing so far: another may have its place.
    pub fn is_silent(&self) -> bool {
        !self.spoke && self.wire.output.is_none()
    }

    /// Whether it waits for a migration.
    pub fn is_waiting(&self) -> bool {
        self.tick_every().is_some()
    }

    /// When [`Client::tick`] has something to do.
    pub fn next_tick(&self) -> Option<Instant> {
        self.next_tick
    }

    /// Whether the client can be forgotten.
    pub fn is_done(&self) -> bool {
        match self.state {
            State::Open => false,
            State::Closing => self.outbox.is_empty(),
            State::Gone => true,
        }
    }

    /// Reads at most one chunk and carries out what it says. [`Client::answer`] belongs behind it.
    pub fn turn(&mut self, vm: &dyn Vm) {
        if self.is_runnable() {
            self.read(vm);
        }
    }

    /// Says what was held back, and writes what the wire takes.
    pub fn answer(&mut self) {
        self.outbox.buffer().append(&mut self.held);
        self.flush();
    }

    fn read(&mut self, vm: &dyn Vm) {
        let mut chunk = [0; CHUNK];
        match self.wire.read(&mut chunk) {
            Ok((0, _)) => self.state = State::Closing,
            Ok((count, fds)) => {
                self.spoke = true;
                if !fds.is_empty() {
                    self.session.hand(fds);
                }
                let out = match self.session.answers_behind_events() {
                    true => &mut self.held,
                    false => self.outbox.buffer(),
                };
                let flow = self.session.receive(&chunk[..count], vm, out);
                self.follow(flow);
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => self.readable = false,
                ErrorKind::Interrupted => {}
                _ => self.state = State::Gone,
            },
        }
    }

    /// Tells of an event.
    pub fn notify(&mut self, event: &Event, vm: &dyn Vm) {
        if self.state == State::Open {
            let flow = self.session.notify(event, vm, self.outbox.buffer());
            self.follow(flow);
        }
    }

    /// It is `now`.
    pub fn tick(&mut self, now: Instant, vm: &dyn Vm) {
        // Who has not taken the last one is not sent another.
        if self.is_waiting() && self.next_tick.is_some_and(|at| at <= now) && self.outbox.is_empty() {
            let flow = self.session.tick(vm, self.outbox.buffer());
            self.follow(flow);
        }
        self.next_tick = self.tick_every().map(|every| self.next_tick.filter(|at| *at > now).unwrap_or(now + every));
    }

    fn follow(&mut self, flow: Flow) {
        if flow == Flow::Close {
            self.state = State::Closing;
        }
    }

    /// Writes what the wire takes without blocking.
    pub fn flush(&mut self) {
        let wire = self.wire.output.as_mut().unwrap_or(&mut self.wire.input);
        if self.outbox.flush(wire).is_err() {
            self.state = State::Gone;
        } else if self.outbox.is_full() {
            log::warn!("dropping a monitor client that does not read: over 1 MiB waits for it");
            self.state = State::Gone;
        }
    }
}

/// Regular files and /dev/null cannot be polled (EPERM), and need not: they are always ready.
fn allow_files(registered: std::io::Result<()>) -> std::io::Result<()> {
    match registered {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}
