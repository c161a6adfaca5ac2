//! Streams on which nobody answers: nothing is waited for, and nothing stays behind.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::qmp::Qmp;
use crate::support::{Machine, Vm, host};

/// Nothing here takes so long, and a source that waits for an answer does.
const SOON: u64 = 2500;

fn total_time(vm: &mut Vm) -> u64 {
    vm.qmp.query("query-migrate")["total-time"].as_u64().unwrap()
}

/// Waits until the process has no more threads and files than these.
fn back_to(vm: &Vm, threads: usize, files: usize, case: &str) {
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        let now = vm.footprint();
        if now.threads <= threads && now.files <= files {
            return;
        }
        assert!(Instant::now() < limit, "{case}: {} of {threads} threads, {} of {files} files", now.threads, now.files);
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_there(pid: &Path) -> bool {
    let pid = fs::read_to_string(pid).unwrap();
    Path::new("/proc").join(pid.trim()).exists()
}

#[test]
fn where_nobody_can_answer_nobody_is_waited_for_and_nothing_stays() {
    if !host::has_kvm() {
        return;
    }
    let mut vm = Machine::new("32M").boot_and_begin("ws=8M order=rand write=50");
    vm.qmp.run("stop", json!({}));
    vm.switch("postcopy-ram", true);
    let mut before = vm.footprint();
    // The bell of the last migration, which is told of until the next.
    before.files += 1;
    // The shell of each holds its output open, on which a destination might yet answer.
    for command in ["exec:cat > /dev/null", "exec:(cat > /dev/null); true", "exec:cat > /dev/null; echo done"] {
        vm.migrate(command);
        vm.qmp.await_migration("completed");
        let time = total_time(&mut vm);
        assert!(time < SOON, "{command}: {time} ms");
        back_to(&vm, before.threads, before.files, command);
        vm.qmp.run("cont", json!({}));
        vm.qmp.run("stop", json!({}));
    }
    // A socket whose reader says nothing, and which its giver keeps open, too.
    let (ours, theirs) = UnixStream::pair().unwrap();
    vm.qmp.hand("out", theirs.as_fd());
    let reading = std::thread::spawn(move || {
        let (mut ours, mut bytes) = (ours, Vec::new());
        ours.read_to_end(&mut bytes).unwrap();
        bytes
    });
    vm.migrate("fd:out");
    vm.qmp.await_migration("completed");
    let time = total_time(&mut vm);
    assert!(time < SOON, "{time} ms");
    let bytes = reading.join().unwrap();
    assert!(bytes.starts_with(b"WHIMBREL"));
    drop(theirs);
    back_to(&vm, before.threads, before.files, "a silent reader");
    // One that takes nothing, and is cancelled.
    vm.qmp.run("cont", json!({}));
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    vm.qmp.hand("out", theirs.as_fd());
    vm.migrate("fd:out");
    vm.qmp.await_migration("active");
    vm.qmp.run("migrate_cancel", json!({}));
    vm.qmp.await_migration("cancelled");
    back_to(&vm, before.threads, before.files, "a deaf reader");
    drop(theirs);
    let mut rest = Vec::new();
    ours.read_to_end(&mut rest).unwrap();
    vm.guest.assert_whole();
    assert_eq!(vm.end_guest(), 0);
}

#[test]
fn no_command_outlives_its_machine() {
    if !host::has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pid = |name: &str| dir.path().join(name);
    let slow = |name: &str| format!("exec:echo $$ > {}; exec sleep 1000", pid(name).display());
    let mut vm = Machine::new("32M").boot_and_begin("ws=8M");
    vm.migrate(&slow("out"));
    let mut waiting = Machine::new("32M").start("destination", true, |_| vec!["--incoming".into(), slow("in")]);
    for name in ["out", "in"] {
        let limit = Instant::now() + Duration::from_secs(20);
        while fs::read_to_string(pid(name)).unwrap_or_default().trim().is_empty() {
            assert!(Instant::now() < limit, "{name} has not begun");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(is_there(&pid(name)));
    }
    vm.kill();
    waiting.kill();
    for name in ["out", "in"] {
        let limit = Instant::now() + Duration::from_secs(20);
        while is_there(&pid(name)) {
            assert!(Instant::now() < limit, "{name} is left behind");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_guest_comes_by_standard_input_and_no_serial_port_reads_it() {
    if !host::has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guest");
    let mut vm = Machine::new("32M").boot_and_begin("ws=8M");
    vm.migrate(&format!("file:{}", file.display()));
    vm.qmp.await_migration("completed");
    let program = env!("CARGO_BIN_EXE_whimbrel");
    let qmp = dir.path().join("qmp");
    for input in [format!("cat '{}' |", file.display()), format!("< '{}'", file.display())] {
        let (before, after) = if input.ends_with('|') { (input.as_str(), "") } else { ("", input.as_str()) };
        let line = format!(
            "{before} '{program}' run --memory 32M --incoming fd:0 --qmp 'unix:{},server' {after}",
            qmp.display()
        );
        let mut child = std::process::Command::new("/bin/sh").args(["-c", &line]).spawn().unwrap();
        let limit = Instant::now() + Duration::from_secs(60);
        let mut client = loop {
            if let Ok(stream) = UnixStream::connect(&qmp) {
                break Qmp::new(stream);
            }
            assert!(Instant::now() < limit && child.try_wait().unwrap().is_none(), "{line}");
            std::thread::sleep(Duration::from_millis(10));
        };
        while client.status() == "inmigrate" {
            assert!(Instant::now() < limit, "{line}");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(client.status(), "running", "{line}");
        client.run("quit", json!({}));
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}
