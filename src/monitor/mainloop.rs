//! [`MainLoop`]: the one thread that serves all monitors, hears the machine and the migration, and
//! decides the end.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use whimbrel_postcopy::stats::Status;

use super::client::Client;
use super::endpoint::{EndpointError, Listener, Wire};
use super::event::Event;
use super::event_rate_limit::EventRateLimit;
use super::hmp::HmpSession;
use super::notice::{EventSink, Notice};
use super::qmp::QmpSession;
use super::session::Session;
use super::vm::Vm;
use crate::config::{MonitorConfig, MonitorEndpoint, MonitorFace};
use crate::machine::{MachineEvent, ShutdownCause};
use crate::migration::capabilities::Capability;
use crate::migration::{MigrationEvent, Side};
use crate::signals::{ENDING, heard};

const WAKER: Token = Token(0);
const SIGNALS: Token = Token(1);
const FIRST_FREE: usize = 2;
/// Clients served at once. One more takes the place of that which has been silent for longest, or
/// is turned away if all have spoken.
const MAX_CLIENTS: usize = 64;
/// A host that has no descriptor left for a client is asked for one again so much later.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Why the monitor could not be set up or go on.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// A place from the command line cannot be opened.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The system refused something that always works.
    #[error("cannot run the monitor's event loop")]
    Loop(#[from] io::Error),
}

/// Why the main loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest ended it.
    Guest(ShutdownCause),
    /// A monitor said `quit`.
    Quit,
    /// SIGINT, SIGTERM or SIGHUP.
    Signal,
    /// The guest that was to arrive will not.
    IncomingFailed(String),
}

impl Ending {
    /// The process's exit code.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Guest(ShutdownCause::GuestExit(code)) => *code,
            Self::Guest(ShutdownCause::GuestPanic) | Self::IncomingFailed(_) => 1,
            Self::Guest(ShutdownCause::GuestShutdown | ShutdownCause::HostQuit) | Self::Quit | Self::Signal => 0,
        }
    }
}

/// The main loop.
pub struct MainLoop {
    poll: Poll,
    notices: Receiver<Notice>,
    /// Held here too: with the last of them its wake-ups go, also those not yet seen.
    _waker: Arc<Waker>,
    signals: UnixStream,
    listeners: BTreeMap<Token, (Listener, MonitorFace)>,
    clients: BTreeMap<Token, Client>,
    next_token: usize,
    /// A guest could fill every client's wire with this event.
    balloon: EventRateLimit,
    /// The guest is beyond help, but a client may want to look.
    panicked: bool,
    /// Where clients wait for whom the host had no descriptor, and when it is asked again.
    waiting: Option<(Token, Instant)>,
}

impl MainLoop {
    /// Opens all monitors.
    pub fn open(monitors: &[MonitorConfig]) -> Result<(Self, EventSink), MonitorError> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (sender, notices) = crossbeam_channel::unbounded();
        let mut this = Self {
            signals: signal_stream(&poll)?,
            poll,
            notices,
            _waker: Arc::clone(&waker),
            listeners: BTreeMap::new(),
            clients: BTreeMap::new(),
            next_token: FIRST_FREE,
            balloon: EventRateLimit::default(),
            panicked: false,
            waiting: None,
        };
        for monitor in monitors {
            this.open_monitor(monitor)?;
        }
        Ok((this, EventSink::new(sender, waker)))
    }

    fn open_monitor(&mut self, monitor: &MonitorConfig) -> Result<(), MonitorError> {
        let listener = match &monitor.endpoint {
            MonitorEndpoint::Stdio => return self.add_client(Wire::stdio()?, monitor.face),
            MonitorEndpoint::UnixClient(path) => {
                return self.add_client(Wire::connect(path)?, monitor.face);
            }
            MonitorEndpoint::UnixServer(path) => Listener::unix(path)?,
            MonitorEndpoint::TcpServer { host, port } => Listener::tcp(host, *port)?,
        };
        if listener.is_open_to_other_hosts() {
            log::warn!(
                "whoever reaches {} commands this machine, for a monitor has no password: use a unix socket or a loopback address",
                listener.address()
            );
        }
        let face = match monitor.face {
            MonitorFace::Hmp => "monitor",
            MonitorFace::Qmp => "QMP",
        };
        log::info!("{face} at {}", listener.address());
        let token = self.token();
        let fd = listener.as_fd().as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE)?;
        self.listeners.insert(token, (listener, monitor.face));
        Ok(())
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token - 1)
    }

    fn add_client(&mut self, wire: Wire, face: MonitorFace) -> Result<(), MonitorError> {
        let session: Box<dyn Session> = match face {
            MonitorFace::Hmp if wire.is_terminal() => Box::new(HmpSession::on_terminal()),
            MonitorFace::Hmp => Box::new(HmpSession::new()),
            MonitorFace::Qmp => Box::new(QmpSession::new()),
        };
        let client = Client::new(wire, session);
        let token = self.token();
        client.register(self.poll.registry(), token)?;
        self.clients.insert(token, client);
        Ok(())
    }

    /// Serves until the end. All clients have been told when this returns.
    pub fn run(&mut self, vm: &dyn Vm) -> Result<Ending, MonitorError> {
        let mut events = Events::with_capacity(128);
        loop {
            if let Some(ending) = self.hear(vm) {
                self.say_goodbye(&ending, vm);
                return Ok(ending);
            }
            if let Some(ending) = self.serve(vm) {
                self.say_goodbye(&ending, vm);
                return Ok(ending);
            }
            if self.panicked && self.clients.is_empty() {
                return Ok(Ending::Guest(ShutdownCause::GuestPanic));
            }
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            if let Some((token, _)) = self.waiting.take_if(|(_, at)| *at <= Instant::now()) {
                self.accept(token);
            }
            let mut signalled = false;
            for event in &events {
                match event.token() {
                    WAKER => {}
                    SIGNALS => signalled |= self.take_signals()?,
                    token if self.listeners.contains_key(&token) => self.accept(token),
                    token => {
                        if let Some(client) = self.clients.get_mut(&token) {
                            client.wake();
                        }
                    }
                }
            }
            if signalled {
                log::info!("ending because of a signal");
                self.say_goodbye(&Ending::Signal, vm);
                return Ok(Ending::Signal);
            }
        }
    }

    /// Hears all that the machine and the migration have to tell.
    fn hear(&mut self, vm: &dyn Vm) -> Option<Ending> {
        while let Ok(notice) = self.notices.try_recv() {
            match notice {
                Notice::Quit => return Some(Ending::Quit),
                Notice::Machine(MachineEvent::Shutdown(ShutdownCause::GuestPanic)) => {
                    log::error!("the guest crashed; its registers are above");
                    self.tell(&Event::shutdown(true, "guest-panic"), vm);
                    self.panicked = true;
                }
                Notice::Machine(MachineEvent::Shutdown(cause)) => {
                    match cause {
                        ShutdownCause::GuestExit(code) => {
                            log::info!("the guest ended the machine by the exit port, with code {code}")
                        }
                        ShutdownCause::GuestShutdown => log::info!("the guest powered off"),
                        ShutdownCause::GuestPanic | ShutdownCause::HostQuit => {}
                    }
                    return Some(Ending::Guest(cause));
                }
                Notice::Machine(MachineEvent::BalloonChange) => self.balloon.happened(),
                Notice::Machine(event) => self.tell(&Event::of_machine(event, vm), vm),
                Notice::Job(event) => {
                    // An internal one is of interest to who waits for it only.
                    let (event, all) = (Event::of_job(&event), !event.internal);
                    for client in self.clients.values_mut().filter(|client| all || client.is_waiting()) {
                        client.notify(&event, vm);
                    }
                }
                Notice::Migration(event) => {
                    self.tell_migration(&event, vm);
                    if let Some(error) = incoming_failure(&event, vm)
                        && !vm.waits_for_another()
                    {
                        return Some(Ending::IncomingFailed(error));
                    }
                }
            }
        }
        if self.balloon.is_due(Instant::now()) {
            self.tell(&Event::of_machine(MachineEvent::BalloonChange, vm), vm);
        }
        None
    }

    fn tell(&mut self, event: &Event, vm: &dyn Vm) {
        for client in self.clients.values_mut() {
            client.notify(event, vm);
        }
    }

    /// QMP's clients hear of migrations only when the capability `events` is on; HMP's are waiting
    /// for them.
    fn tell_migration(&mut self, event: &MigrationEvent, vm: &dyn Vm) {
        let qmp_too = vm.capabilities().get(Capability::Events);
        let event = Event::of_migration(event);
        for client in self.clients.values_mut() {
            if qmp_too || client.is_waiting() {
                client.notify(&event, vm);
            }
        }
    }

    /// One turn for every client.
    fn serve(&mut self, vm: &dyn Vm) -> Option<Ending> {
        let tokens: Vec<Token> = self.clients.keys().copied().collect();
        for token in tokens {
            if let Some(client) = self.clients.get_mut(&token) {
                client.turn(vm);
            }
            // What its commands led to at once is told before they are answered.
            let ending = self.hear(vm);
            if let Some(client) = self.clients.get_mut(&token) {
                client.answer();
                client.tick(Instant::now(), vm);
                client.flush();
            }
            if ending.is_some() {
                return ending;
            }
        }
        let registry = self.poll.registry();
        self.clients.retain(|_, client| {
            let done = client.is_done();
            if done {
                client.deregister(registry);
            }
            !done
        });
        None
    }

    fn timeout(&self) -> Option<Duration> {
        match self.clients.values().any(Client::is_runnable) {
            true => Some(Duration::ZERO),
            false => {
                let ticks = self.clients.values().filter_map(Client::next_tick);
                let again = self.waiting.map(|(_, at)| at);
                let next = ticks.chain(self.balloon.deadline()).chain(again).min();
                next.map(|at| at.saturating_duration_since(Instant::now()))
            }
        }
    }

    /// Takes all clients that wait at a listener: its readiness is reported only once.
    fn accept(&mut self, token: Token) {
        loop {
            let Some((listener, face)) = self.listeners.get(&token) else {
                return;
            };
            let face = *face;
            match listener.accept() {
                Ok(None) => return,
                Ok(Some(_)) if self.clients.len() >= MAX_CLIENTS && !self.drop_silent() => {
                    log::warn!("turning a monitor client away: {MAX_CLIENTS} are connected");
                }
                Ok(Some(wire)) => {
                    if let Err(error) = self.add_client(wire, face) {
                        log::warn!("cannot serve a new monitor client: {error}");
                    }
                }
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                // Who says nothing must not use up what the machine needs.
                Err(error) if lacks_descriptors(&error) && self.drop_silent() => {}
                Err(error) => {
                    log::warn!("cannot accept a monitor client: {error}");
                    if lacks_descriptors(&error) {
                        self.waiting = Some((token, Instant::now() + ACCEPT_AGAIN));
                    }
                    return;
                }
            }
        }
    }

    /// Ends the client that came first of those that have said nothing; `false` if there is none.
    fn drop_silent(&mut self) -> bool {
        // Tokens are given in the order in which clients come.
        let silent = self.clients.iter().find(|(_, client)| client.is_silent()).map(|(token, _)| *token);
        let Some(mut client) = silent.and_then(|token| self.clients.remove(&token)) else { return false };
        // It may have come a moment ago, and is greeted all the same.
        client.flush();
        log::warn!("a monitor client that has said nothing is let go of, for another has come");
        client.deregister(self.poll.registry());
        true
    }

    /// Empties the signal stream; whether there was a signal.
    fn take_signals(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 16];
        match self.signals.read(&mut bytes) {
            Ok(count) => Ok(count > 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The last event, and what the wires take of all that is left.
    fn say_goodbye(&mut self, ending: &Ending, vm: &dyn Vm) {
        let event = match ending {
            Ending::Guest(cause) => Event::of_machine(MachineEvent::Shutdown(*cause), vm),
            Ending::Quit => Event::shutdown(false, "host-qmp-quit"),
            Ending::Signal => Event::shutdown(false, "host-signal"),
            Ending::IncomingFailed(_) => Event::shutdown(false, "host-error"),
        };
        self.tell(&event, vm);
        for client in self.clients.values_mut() {
            client.flush();
        }
    }
}

/// The sentence to end with when the event says that no guest will arrive.
fn incoming_failure(event: &MigrationEvent, vm: &dyn Vm) -> Option<String> {
    if *event != MigrationEvent::Status(Status::Failed) {
        return None;
    }
    match vm.report() {
        Some((Side::Destination, report)) => {
            Some(report.error.unwrap_or_else(|| "the source gave no reason".to_owned()))
        }
        _ => None,
    }
}

fn lacks_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// A stream that becomes readable when a signal asks for the end.
fn signal_stream(poll: &Poll) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    for signal in heard(&ENDING) {
        signal_hook::low_level::pipe::register(signal, theirs.try_clone()?)?;
    }
    let fd = ours.as_raw_fd();
    poll.registry().register(&mut SourceFd(&fd), SIGNALS, Interest::READABLE)?;
    Ok(ours)
}

#[cfg(test)]
mod tests;
