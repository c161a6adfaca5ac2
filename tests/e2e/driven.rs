//! `whimbrel migrate` as a script uses it: exit codes, JSON, signals, and settings that do not
//! outlive the move.

use std::fs::OpenOptions;
use std::io::Read;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::transcript::{Said, Transcript};
use crate::support::{LIMIT, Machine, Transport, Vm, host};

fn machine() -> Machine {
    Machine::new("96M")
}

fn source() -> Vm {
    machine().boot_and_begin("ws=64M order=rand write=50")
}

/// A running `whimbrel migrate`.
struct Driven {
    child: Child,
    log: Transcript,
}

impl Driven {
    fn start(vm: &Vm, arguments: &[&str], output: Stdio) -> Self {
        let qmp = vm.path("qmp-server");
        let mut child = Command::new(env!("CARGO_BIN_EXE_whimbrel"))
            .args(["migrate", "--qmp", qmp.to_str().unwrap()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Transcript::of(child.stderr.take().unwrap());
        Self { child, log }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits until it has said `text`.
    fn says(&self, text: &str) {
        let has = |said: &Said| String::from_utf8_lossy(&said.bytes).contains(text).then_some(());
        assert!(self.log.wait_for(LIMIT, has).is_some(), "no {text}: {}", self.log.text());
    }

    /// Its exit code and what it printed.
    fn ends(mut self) -> (i32, String) {
        assert!(self.log.wait_for_end(LIMIT).is_some(), "it does not end: {}", self.log.text());
        let mut printed = String::new();
        if let Some(output) = &mut self.child.stdout {
            output.read_to_string(&mut printed).unwrap();
        }
        let code = self.child.wait().unwrap().code();
        (code.unwrap_or_else(|| panic!("it died: {}", self.log.text())), printed)
    }

    /// The same of one that tells its end as JSON.
    fn tells(self) -> Value {
        let (code, printed) = self.ends();
        let told: Value = serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
        assert_eq!(told["exit-code"], code, "{told}");
        told
    }
}

fn settings(vm: &mut Vm) -> (Value, Value) {
    (vm.qmp.query("query-migrate-parameters"), vm.qmp.query("query-migrate-capabilities"))
}

#[test]
fn each_end_has_its_code_and_its_settings_end_with_it() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let mut source = source();
    let before = settings(&mut source);
    let slow = ["--bandwidth", "2M", "--auto-converge", "on", "--compression", "zstd:3", "--json"];

    // Cancelled by each signal.
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        let mut there = machine().receive(Transport::Unix);
        let driven = Driven::start(&source, &[&["--to", &there.address()], &slow[..]].concat(), Stdio::piped());
        driven.says("active: ");
        assert_eq!(source.qmp.query("query-migrate-parameters")["max-bandwidth"], 2 << 20);
        driven.signal(signal);
        let told = driven.tells();
        assert_eq!(
            (&told["outcome"], &told["guest"], &told["exit-code"]),
            (&json!("cancelled"), &json!("source"), &json!(3))
        );
        assert_eq!(settings(&mut source), before);
        there.wait();
    }

    // Failed, and refused.
    let told = Driven::start(&source, &["--to", "unix:/nowhere/at/all", "--json"], Stdio::piped()).tells();
    assert_eq!((&told["outcome"], &told["exit-code"]), (&json!("failed"), &json!(1)), "{told}");
    assert!(told["reason"].as_str().unwrap().contains("cannot connect"), "{told}");
    let excluded = ["--to", "tcp:127.0.0.1:1", "--compression", "zlib", "--xbzrle", "on", "--json"];
    let told = Driven::start(&source, &excluded, Stdio::piped()).tells();
    assert_eq!((&told["outcome"], &told["exit-code"]), (&json!("refused"), &json!(6)), "{told}");
    assert_eq!(settings(&mut source), before);

    // Left to itself, joined by one that is told to go away, and by one whose answer finds no room.
    let mut there = machine().receive(Transport::Unix);
    let to = there.address();
    let told =
        Driven::start(&source, &["--to", &to, "--detach", "--bandwidth", "2M", "--json"], Stdio::piped()).tells();
    assert_eq!((&told["outcome"], &told["exit-code"]), (&json!("left-running"), &json!(5)), "{told}");
    assert_eq!(told["still-set"]["max-bandwidth"], json!({"now": 2 << 20, "before": 0}));
    let follower = Driven::start(&source, &["--follow"], Stdio::null());
    follower.says("active: ");
    follower.signal(Signal::SIGTERM);
    assert_eq!(follower.ends().0, 5);
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let follower = Driven::start(&source, &["--follow", "--json"], full.into());
    source.set(json!({"max-bandwidth": 0}));
    assert_eq!(follower.ends().0, 0, "the guest has arrived, told or not");
    let told = Driven::start(&source, &["--follow", "--json"], Stdio::piped()).tells();
    assert_eq!((&told["outcome"], &told["guest"]), (&json!("completed"), &json!("destination")), "{told}");
    there.guest.assert_whole();
}

#[test]
fn a_move_in_two_halves_has_a_code_of_its_own_and_one_command_joins_them() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    // Such a guest asks for no more than 2 MiB a second: it stays in two halves for long enough.
    let calm = "ws=64M order=rand write=50 rate=500";
    let (mut source, mut there) = (machine().boot_and_begin(calm), machine().receive(Transport::Tcp));
    let slow = ["--mode", "postcopy", "--postcopy-bandwidth", "1M", "--json"];
    let driven = Driven::start(&source, &[&["--to", &there.address()], &slow[..]].concat(), Stdio::piped());
    source.qmp.await_migration("postcopy-active");
    there.qmp.await_migration("postcopy-active");
    // Too late to cancel; it says so and looks on.
    driven.signal(Signal::SIGINT);
    driven.says("Too late to cancel");
    source.qmp.run("migrate-pause", json!({}));
    let told = driven.tells();
    assert_eq!((&told["outcome"], &told["guest"], &told["exit-code"]), (&json!("paused"), &json!("both"), &json!(4)));
    assert_eq!(told["still-set"]["max-postcopy-bandwidth"]["before"], 0, "{told}");

    source.set(json!({"max-postcopy-bandwidth": 0}));
    let uri = format!("unix:{}", there.path("again").display());
    let (unread, output) = std::io::pipe().unwrap();
    drop(unread);
    let qmp = there.path("qmp-server");
    let recover = ["--recover", "--to", &uri, "--destination-qmp", qmp.to_str().unwrap()];
    let driven = Driven::start(&source, &recover, output.into());
    let log = driven.log.clone();
    assert_eq!(driven.ends().0, 0, "{}", log.text());
    there.guest.assert_whole();
}
