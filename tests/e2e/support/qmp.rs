//! [`Qmp`]: a client of a QMP socket. Events are awaited, never polled for.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};

use super::LIMIT;

/// A negotiated connection.
pub struct Qmp {
    reader: BufReader<UnixStream>,
    partial: Vec<u8>,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Takes the greeting and negotiates.
    pub fn new(stream: UnixStream) -> Self {
        let mut this = Self { reader: BufReader::new(stream), partial: Vec::new(), events: VecDeque::new() };
        let greeting = this.read(Instant::now() + LIMIT);
        assert!(greeting["QMP"]["version"].is_object(), "not a greeting: {greeting}");
        this.run("qmp_capabilities", json!({}));
        this
    }

    /// Executes a command: its result, or the error's description.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let answer = self.try_execute(command, arguments);
        answer.unwrap_or_else(|| panic!("the monitor closed the connection; events not taken: {:?}", self.events))
    }

    /// Executes a command; `None` if the process has ended, or ends before it answers.
    pub fn try_execute(&mut self, command: &str, arguments: Value) -> Option<Result<Value, String>> {
        let line = json!({"execute": command, "arguments": arguments}).to_string() + "\n";
        self.reader.get_mut().write_all(line.as_bytes()).ok()?;
        self.answer()
    }

    /// Hands a descriptor over under a name.
    pub fn hand(&mut self, name: &str, fd: BorrowedFd<'_>) {
        let line = json!({"execute": "getfd", "arguments": {"fdname": name}}).to_string() + "\n";
        let fds = [fd.as_raw_fd()];
        let handed = [ControlMessage::ScmRights(&fds)];
        let socket = self.reader.get_ref().as_raw_fd();
        let sent = sendmsg::<()>(socket, &[IoSlice::new(line.as_bytes())], &handed, MsgFlags::empty(), None);
        assert_eq!(sent, Ok(line.len()));
        self.answer().unwrap().unwrap();
    }

    fn answer(&mut self) -> Option<Result<Value, String>> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let mut value = self.try_read(deadline)?;
            if value["event"].is_string() {
                self.events.push_back(value);
            } else if value["error"].is_object() {
                return Some(Err(value["error"]["desc"].as_str().unwrap().to_owned()));
            } else {
                return Some(Ok(value["return"].take()));
            }
        }
    }

    /// Executes a command that works.
    pub fn run(&mut self, command: &str, arguments: Value) -> Value {
        self.execute(command, arguments.clone())
            .unwrap_or_else(|error| panic!("{command} {arguments} was refused: {error}"))
    }

    /// Executes a command that is refused; the description.
    pub fn refused(&mut self, command: &str, arguments: Value) -> String {
        match self.execute(command, arguments.clone()) {
            Ok(value) => panic!("{command} {arguments} was carried out: {value}"),
            Err(error) => error,
        }
    }

    /// Asks without arguments.
    pub fn query(&mut self, command: &str) -> Value {
        self.run(command, json!({}))
    }

    /// Takes the next event called `name`, also one that came earlier and was not taken; its data.
    pub fn await_event(&mut self, name: &str) -> Value {
        let deadline = Instant::now() + LIMIT;
        let mut seen = 0;
        loop {
            while let Some(event) = self.events.get(seen) {
                if event["event"] == name {
                    let mut event = self.events.remove(seen).unwrap();
                    return event["data"].take();
                }
                seen += 1;
            }
            let value = self.read(deadline);
            assert!(value["event"].is_string(), "not an event: {value}");
            self.events.push_back(value);
        }
    }

    /// Forgets the events so far; whether there were any. For whoever looks at how things stand
    /// instead.
    pub fn forget_events(&mut self) -> bool {
        let any = !self.events.is_empty() || !self.reader.buffer().is_empty();
        self.events.clear();
        any
    }

    /// Becomes readable when there is an event, or when the process ends.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.get_ref().as_fd()
    }

    /// Takes MIGRATION events until one says `wanted`. The migration must not end in another way.
    pub fn await_migration(&mut self, wanted: &str) {
        loop {
            let status = self.await_event("MIGRATION");
            let status = status["status"].as_str().unwrap();
            if status == wanted {
                return;
            }
            if ["completed", "failed", "cancelled", "postcopy-paused"].contains(&status) {
                panic!("the migration is {status}, not {wanted}: {}", self.query("query-migrate"));
            }
        }
    }

    /// Takes all events up to the MIGRATION event with this status, in their order: of those the
    /// status, of others the name.
    pub fn told_until(&mut self, last: &str) -> Vec<String> {
        let mut told = Vec::new();
        while told.last().is_none_or(|it| it != last) {
            let event = self.events.pop_front().unwrap_or_else(|| self.read(Instant::now() + LIMIT));
            let name = event["event"].as_str().unwrap_or_else(|| panic!("not an event: {event}"));
            told.push(event["data"]["status"].as_str().unwrap_or(name).to_owned());
        }
        told
    }

    /// Whether a MIGRATION event with this status has come already.
    pub fn has_heard(&self, status: &str) -> bool {
        self.events.iter().any(|event| event["data"]["status"] == status)
    }

    /// The run state's name.
    pub fn status(&mut self) -> String {
        let status = self.query("query-status");
        let name = status["status"].as_str().unwrap().to_owned();
        assert_eq!(status["running"], name == "running");
        name
    }

    /// The next value, whatever it is.
    fn read(&mut self, deadline: Instant) -> Value {
        self.try_read(deadline)
            .unwrap_or_else(|| panic!("the monitor closed the connection; events not taken: {:?}", self.events))
    }

    /// The next value; `None` at the end of the connection.
    fn try_read(&mut self, deadline: Instant) -> Option<Value> {
        let rest = deadline.saturating_duration_since(Instant::now());
        assert!(!rest.is_zero(), "the monitor is silent for {LIMIT:?}; events not taken: {:?}", self.events);
        self.reader.get_ref().set_read_timeout(Some(rest)).unwrap();
        match self.reader.read_until(b'\n', &mut self.partial) {
            Ok(_) if self.partial.ends_with(b"\n") => {
                let line = std::mem::take(&mut self.partial);
                Some(serde_json::from_slice(&line).unwrap())
            }
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("the monitor does not answer ({error}); events not taken: {:?}", self.events),
        }
    }
}
