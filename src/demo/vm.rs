//! [`Vm`]: one `whimbrel run` as a child, its serial port and its monitor. It ends with its value.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::DemoError;
use super::trace::Side;
use crate::client::{Connection, QmpAddress};

/// How often a child that starts is looked at, in milliseconds.
const LOOK: u8 = 50;
/// How long a child may take until it has its serial port and its monitor.
const PATIENCE: Duration = Duration::from_secs(20);

impl Side {
    /// The word for it.
    pub const fn role(self) -> &'static str {
        match self {
            Side::Source => "source",
            Side::Destination => "destination",
        }
    }
}

/// A child that is ended when its owner forgets it, whatever the reason.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Both only fail when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running Whimbrel.
pub struct Vm {
    process: Process,
    side: Side,
    log: PathBuf,
    console: UnixStream,
    /// Its QMP connection.
    pub monitor: Connection,
}

impl Vm {
    /// Starts `whimbrel run` with `arguments` and connects to it. Sockets and the log go to
    /// `directory`.
    pub fn start(directory: &Path, name: &str, side: Side, arguments: &[String]) -> Result<Self, DemoError> {
        let role = side.role();
        let raise = |source| DemoError::Start { role, source };
        let path = |kind: &str| directory.join(format!("{name}-{role}.{kind}"));
        // The demo listens and the child connects: not a byte of the guest's is lost, and when it
        // has connected here, the monitor that it opened before listens too.
        let listener = UnixListener::bind(path("serial")).map_err(raise)?;
        let log = path("log");
        let mut command = Command::new(std::env::current_exe().map_err(raise)?);
        command
            .arg("run")
            .args(arguments)
            .arg("--serial")
            .arg(format!("unix:{}", path("serial").display()))
            .arg("--qmp")
            .arg(format!("unix:{},server", path("qmp").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).map_err(raise)?)
            // Ctrl-C reaches the demo only, which then ends its children.
            .process_group(0);
        let mut process = Process(command.spawn().map_err(raise)?);
        let console = accept(&listener, &mut process, role, &log)?;
        let monitor =
            Connection::open(&QmpAddress::Unix(path("qmp"))).map_err(|source| DemoError::Monitor { role, source })?;
        Ok(Self { process, side, log, console, monitor })
    }

    /// Says one byte to the guest.
    pub fn say(&mut self, byte: u8) -> Result<(), DemoError> {
        let role = self.side.role();
        self.console.write_all(&[byte]).map_err(|source| DemoError::Start { role, source })
    }

    /// Its serial port, once more.
    pub fn console(&self) -> Result<UnixStream, DemoError> {
        self.console.try_clone().map_err(|source| DemoError::Start { role: self.side.role(), source })
    }

    /// That it still runs.
    pub fn check(&mut self) -> Result<(), DemoError> {
        still_runs(&mut self.process, self.side.role(), &self.log)
    }
}

fn still_runs(process: &mut Process, role: &'static str, log: &Path) -> Result<(), DemoError> {
    match process.0.try_wait() {
        Ok(None) => Ok(()),
        Ok(Some(status)) => {
            Err(DemoError::Ended { role, words: last_words(log).unwrap_or_else(|| status.to_string()) })
        }
        Err(source) => Err(DemoError::Start { role, source }),
    }
}

/// The error that a Whimbrel ended with, from its log.
fn last_words(log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    text.lines().rev().find_map(|line| line.strip_prefix("whimbrel: ")).map(str::to_owned)
}

fn accept(
    listener: &UnixListener,
    process: &mut Process,
    role: &'static str,
    log: &Path,
) -> Result<UnixStream, DemoError> {
    let raise = |source| DemoError::Start { role, source };
    let until = Instant::now() + PATIENCE;
    loop {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        // A signal only ends this wait early.
        if let Ok(1..) = poll(&mut fds, PollTimeout::from(LOOK)) {
            return listener.accept().map(|(stream, _)| stream).map_err(raise);
        }
        still_runs(process, role, log)?;
        if Instant::now() >= until {
            return Err(raise(ErrorKind::TimedOut.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_ends_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let listener = UnixListener::bind(directory.path().join("serial")).unwrap();
        let end = |words: &str| {
            std::fs::write(&log, words).unwrap();
            let mut process = Process(Command::new("false").spawn().unwrap());
            accept(&listener, &mut process, "source", &log).unwrap_err().to_string()
        };
        assert!(end("[INFO] up\nwhimbrel: no room\n").ends_with("ended early: no room"));
        assert!(end("[INFO] up\n").contains("exit status: 1"), "a log line is no reason");
    }
}
