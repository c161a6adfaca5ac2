//! [`Vm`]: one Whimbrel process with its sockets, and [`Machine`], which starts sources and
//! destinations alike.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::chown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;

use super::LIMIT;
use super::guest::Guest;
use super::qmp::Qmp;
use super::terminal::Terminal;
use super::transcript::{Said, Transcript};

/// How often a wait for a connection looks whether the process still lives, in milliseconds.
const LOOK: u16 = 100;

/// The options that a source and its destination share.
#[derive(Clone)]
pub struct Machine {
    memory: String,
    cpus: u8,
    more: Vec<String>,
    launcher: Vec<String>,
    wrapper: Option<Wrapper>,
    restores: Option<String>,
    terminal: Option<Arc<OwnedFd>>,
}

/// A program that runs Whimbrel as another user.
#[derive(Clone)]
pub struct Wrapper {
    /// Its command line, to which the program's is added.
    pub words: Vec<String>,
    /// A copy of Whimbrel that this user can read.
    pub program: PathBuf,
    /// The user and group whose the process's directory is to be.
    pub owner: u32,
}

/// What carries a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Loopback, on a port that the system chooses.
    Tcp,
    /// A unix socket in the destination's directory.
    Unix,
}

impl Machine {
    /// One vCPU and so much RAM, as `--memory` has it.
    pub fn new(memory: &str) -> Self {
        Self {
            memory: memory.to_owned(),
            cpus: 1,
            more: Vec::new(),
            launcher: Vec::new(),
            wrapper: None,
            restores: None,
            terminal: None,
        }
    }

    /// Sets the number of vCPUs.
    pub fn cpus(mut self, cpus: u8) -> Self {
        self.cpus = cpus;
        self
    }

    /// Adds arguments.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.more.extend(arguments.iter().map(|&it| it.to_owned()));
        self
    }

    /// Runs the guest that was written to this file.
    pub fn restoring(mut self, file: &str) -> Self {
        self.restores = Some(file.to_owned());
        self
    }

    /// Runs on a terminal.
    pub fn on(mut self, terminal: &Terminal) -> Self {
        self.terminal = Some(Arc::new(terminal.line()));
        self
    }

    /// Standard input or output.
    fn stdio(&self) -> Stdio {
        self.terminal.as_ref().map_or_else(Stdio::null, |line| line.try_clone().unwrap().into())
    }

    /// Runs as another user, if there is somebody.
    pub fn wrapped(mut self, wrapper: Option<Wrapper>) -> Self {
        self.wrapper = wrapper;
        self
    }

    /// The program, with the directory given to who runs it.
    fn command(&self, dir: &Path) -> Command {
        let Some(wrapper) = &self.wrapper else {
            let mut words = self.launcher.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_whimbrel")]);
            let mut command = Command::new(words.next().unwrap());
            command.args(words);
            return command;
        };
        for path in [dir.to_owned(), dir.join("serial"), dir.join("qmp")] {
            chown(path, Some(wrapper.owner), Some(wrapper.owner)).unwrap();
        }
        let mut command = Command::new(&wrapper.words[0]);
        command.args(&wrapper.words[1..]).arg(&wrapper.program);
        command
    }

    /// Starts by way of a shell that first carries out `preparation`.
    pub fn after(mut self, preparation: &str) -> Self {
        self.launcher = ["sh", "-c", &format!("{preparation} && exec \"$0\" \"$@\"")].map(str::to_owned).to_vec();
        self
    }

    /// Boots the test guest.
    pub fn boot(&self, cmdline: &str) -> Vm {
        self.start("source", false, |_| ["--kernel", "builtin:test", "--cmdline", cmdline].map(str::to_owned).to_vec())
    }

    /// Boots the test guest and waits until it works.
    pub fn boot_and_begin(&self, cmdline: &str) -> Vm {
        let mut vm = self.boot(cmdline);
        vm.guest.await_begin();
        vm
    }

    /// Waits for a guest.
    pub fn receive(&self, transport: Transport) -> Vm {
        self.start("destination", true, |dir| match transport {
            Transport::Tcp => vec!["--incoming".to_owned(), "tcp:127.0.0.1:0".to_owned()],
            Transport::Unix => vec!["--incoming".to_owned(), format!("unix:{}", dir.join("in").display())],
        })
    }

    /// Starts with the shared options and `arguments`, which are told the process's directory.
    pub fn start(&self, name: &'static str, moves_in: bool, arguments: impl FnOnce(&Path) -> Vec<String>) -> Vm {
        let dir = tempfile::tempdir().unwrap();
        // The process connects, so that nobody has to guess when it listens.
        let listen = |name: &str| UnixListener::bind(dir.path().join(name)).unwrap();
        let (serial, qmp) = (listen("serial"), listen("qmp"));
        let place = |name: &str| format!("unix:{}", dir.path().join(name).display());
        let mut child = self
            .command(dir.path())
            .args(self.restores.as_ref().map_or(vec!["run"], |file| vec!["restore", file]))
            .args(["--memory", &self.memory, "--cpus", &self.cpus.to_string()])
            .args(["--serial", &place("serial"), "--qmp", &place("qmp")])
            .args(["--qmp", &(place("qmp-server") + ",server"), "--monitor", &(place("monitor") + ",server")])
            .args(&self.more)
            .args(arguments(dir.path()))
            // A system call that a list forgot ends the process, and the test with it.
            .env("WHIMBREL_SECCOMP", "kill")
            .stdin(self.stdio())
            .stdout(self.stdio())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Transcript::of(child.stderr.take().unwrap());
        let qmp = accept(&qmp, &log).map(Qmp::new);
        let serial = accept(&serial, &log).map(|stream| Guest::new(stream, moves_in));
        let (Some(mut qmp), Some(guest)) = (qmp, serial) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the {name} does not start:\n{}", log.text());
        };
        qmp.run("migrate-set-capabilities", json!({"capabilities": [{"capability": "events", "state": true}]}));
        Vm { name, child, log, dir, qmp, guest }
    }
}

/// The connection that the process makes; `None` if it ends before.
fn accept(listener: &UnixListener, log: &Transcript) -> Option<UnixStream> {
    let deadline = Instant::now() + LIMIT;
    while !log.has_ended() && Instant::now() < deadline {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(LOOK)).unwrap() > 0 {
            return Some(listener.accept().unwrap().0);
        }
    }
    None
}

/// A process. It is killed when this goes, and its log shown if the test failed.
pub struct Vm {
    name: &'static str,
    child: Child,
    log: Transcript,
    dir: TempDir,
    /// Its monitor.
    pub qmp: Qmp,
    /// The guest in it.
    pub guest: Guest,
}

/// What a process takes of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    pub rss_kib: u64,
    pub files: usize,
    pub threads: usize,
}

impl Vm {
    /// The address that it waits for a guest at.
    pub fn address(&mut self) -> String {
        let answer = self.qmp.query("query-migrate");
        let at = &answer["socket-address"][0];
        match at["type"].as_str() {
            Some("inet") => format!("tcp:{}:{}", at["host"].as_str().unwrap(), at["port"].as_str().unwrap()),
            Some("unix") => format!("unix:{}", at["path"].as_str().unwrap()),
            _ => panic!("it waits nowhere: {answer}"),
        }
    }

    /// A file of its directory: `qmp-server` and `monitor` are sockets that it listens on.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Sets migration parameters.
    pub fn set(&mut self, parameters: serde_json::Value) {
        self.qmp.run("migrate-set-parameters", parameters);
    }

    /// Switches a migration capability.
    pub fn switch(&mut self, capability: &str, on: bool) {
        self.qmp.run("migrate-set-capabilities", json!({"capabilities": [{"capability": capability, "state": on}]}));
    }

    /// Starts a migration and does not wait.
    pub fn migrate(&mut self, uri: &str) {
        self.qmp.run("migrate", json!({"uri": uri}));
    }

    /// Waits until its guest has come out of a file, which may be before anybody heard its events.
    pub fn await_arrived(&mut self) {
        if self.qmp.query("query-migrate")["status"] != "completed" {
            self.qmp.await_migration("completed");
        }
    }

    /// One number of `query-migrate`'s RAM statistics.
    pub fn ram(&mut self, field: &str) -> u64 {
        let answer = self.qmp.query("query-migrate");
        answer["ram"][field].as_u64().unwrap_or_else(|| panic!("no ram.{field}: {answer}"))
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Waits until it has written `text` to standard error; false if it does not.
    pub fn logs(&self, text: &str) -> bool {
        let has = |said: &Said| String::from_utf8_lossy(&said.bytes).contains(text).then_some(());
        self.log.wait_for(LIMIT, has).is_some()
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How much it has of what must not grow.
    pub fn footprint(&self) -> Footprint {
        let of = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", self.pid())).unwrap().count();
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
        Footprint { rss_kib: rss.unwrap(), files: of("fd"), threads: of("task") }
    }

    /// Sends it a signal, as a person at its host would.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).unwrap();
    }

    /// Waits for so long at most; whether it has ended.
    pub fn ends_within(&self, time: Duration) -> bool {
        self.log.wait_for_end(time).is_some()
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end; the exit code.
    pub fn wait(&mut self) -> i32 {
        self.log.wait_for_end(LIMIT).unwrap_or_else(|| panic!("the {} does not end", self.name));
        let status = self.child.wait().unwrap();
        status.code().unwrap_or_else(|| panic!("the {} died: {status}", self.name))
    }

    /// Says `quit` and waits for the end; the exit code.
    pub fn quit(&mut self) -> i32 {
        self.qmp.query("quit");
        self.wait()
    }

    /// Has the guest end the machine; the exit code.
    pub fn end_guest(&mut self) -> i32 {
        self.guest.tell('q');
        self.wait()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Both fail if it has ended, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log.text();
        if std::thread::panicking() || std::env::var_os("WHIMBREL_TEST_LOGS").is_some() {
            eprintln!("--- log of the {} (process {}):\n{log}---", self.name, self.child.id());
        } else {
            assert!(!log.contains("panicked at"), "a thread of the {} panicked:\n{log}", self.name);
        }
    }
}

/// A `whimbrel` that is not a machine, or not for long: its exit code and all that it said on
/// standard error.
pub fn whimbrel(arguments: &[&str]) -> (i32, String) {
    let (code, _, log) = whimbrel_says(arguments);
    (code, log)
}

/// The same, with what it said on standard output between the two.
pub fn whimbrel_says(arguments: &[&str]) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_whimbrel"))
        .args(arguments)
        .env("WHIMBREL_SECCOMP", "kill")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = Transcript::of(child.stderr.take().unwrap());
    if log.wait_for_end(LIMIT).is_none() {
        let _ = child.kill();
        let _ = child.wait();
        panic!("whimbrel {arguments:?} does not end:\n{}", log.text());
    }
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    (child.wait().unwrap().code().unwrap(), output, log.text())
}
