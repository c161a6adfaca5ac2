//! [`Connection`]: a small blocking QMP client.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::plan::QmpAddress;
use crate::host::connect_private;

/// The longest line taken, in bytes: more is no QMP server.
const MAX_LINE: u64 = 4 << 20;
/// How long a QMP server may take to answer anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// What goes wrong between a QMP client and its server.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// Nobody there.
    #[error("cannot connect to '{address}', where a VM with --qmp should listen")]
    Connect {
        /// The address.
        address: QmpAddress,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("lost the connection to the VM's monitor")]
    Lost(#[source] io::Error),
    /// The server ended the conversation.
    #[error("the VM's monitor closed the connection")]
    Closed,
    /// No answer.
    #[error("the VM's monitor does not answer within 10 s")]
    Silent,
    /// Not QMP.
    #[error("what listens there does not speak QMP; give a --qmp socket, not a --monitor one")]
    NotQmp,
    /// The server refused a command.
    #[error("{0}")]
    Refused(String),
}

trait Stream: Read + Write + Send {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()>;
}

impl Stream for UnixStream {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))
    }
}

impl Stream for TcpStream {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))
    }
}

/// A negotiated connection to a QMP server.
pub struct Connection {
    stream: BufReader<Box<dyn Stream>>,
    /// The part of a line that came before a timeout.
    partial: Vec<u8>,
    /// Events that came while an answer was awaited.
    events: VecDeque<Value>,
}

impl Connection {
    /// Connects and negotiates.
    pub fn open(address: &QmpAddress) -> Result<Self, QmpError> {
        let stream: io::Result<Box<dyn Stream>> = match address {
            QmpAddress::Unix(path) => connect_private(path, PATIENCE).map(|it| Box::new(it) as _),
            QmpAddress::Tcp(address) => TcpStream::connect(address).map(|it| Box::new(it) as _),
        };
        let stream = stream.map_err(|source| QmpError::Connect { address: address.clone(), source })?;
        let mut this = Self { stream: BufReader::new(stream), partial: Vec::new(), events: VecDeque::new() };
        let greeting = this.read(Instant::now() + PATIENCE)?.ok_or(QmpError::NotQmp)?;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::NotQmp);
        }
        this.execute("qmp_capabilities", Map::new())?;
        Ok(this)
    }

    /// Executes a command and waits for its answer.
    pub fn execute(&mut self, name: &str, arguments: Map<String, Value>) -> Result<Value, QmpError> {
        let line = format!("{}\n", json!({"execute": name, "arguments": arguments}));
        let stream = self.stream.get_mut();
        stream.write_all(line.as_bytes()).map_err(QmpError::Lost)?;
        let until = Instant::now() + PATIENCE;
        loop {
            let mut message = self.read(until)?.ok_or(QmpError::Silent)?;
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = message.get("error") {
                let text = error.get("desc").and_then(Value::as_str);
                return Err(QmpError::Refused(text.unwrap_or("refused").to_owned()));
            }
            self.events.push_back(message);
        }
    }

    /// The next event, waiting for it up to `timeout`.
    pub fn event(&mut self, timeout: Duration) -> Result<Option<Value>, QmpError> {
        match self.events.pop_front() {
            Some(event) => Ok(Some(event)),
            None => self.read(Instant::now() + timeout),
        }
    }

    /// Drops the events that came so far.
    #[cfg(feature = "top")]
    pub fn forget_events(&mut self) {
        self.events.clear();
    }

    /// The next message; `None` if there is none by `until`.
    fn read(&mut self, until: Instant) -> Result<Option<Value>, QmpError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // A timeout of zero would mean none at all.
            let left = left.max(Duration::from_millis(1));
            self.stream.get_ref().set_timeout(left).map_err(QmpError::Lost)?;
            let room = MAX_LINE.saturating_sub(self.partial.len() as u64);
            let read = (&mut self.stream).take(room).read_until(b'\n', &mut self.partial);
            match read {
                Ok(_) if self.partial.ends_with(b"\n") => {
                    let line = std::mem::take(&mut self.partial);
                    return serde_json::from_slice(&line).map(Some).map_err(|_| QmpError::NotQmp);
                }
                Ok(_) if self.partial.len() as u64 >= MAX_LINE => return Err(QmpError::NotQmp),
                Ok(_) => return Err(QmpError::Closed),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {
                        // An interrupted wait ends too: a signal is what the caller wants to look
                        // at.
                        if error.kind() == ErrorKind::Interrupted || Instant::now() >= until {
                            return Ok(None);
                        }
                    }
                    _ => return Err(QmpError::Lost(error)),
                },
            }
        }
    }
}
