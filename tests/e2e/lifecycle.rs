//! Machines of all sizes boot, stop, go on, start over and end; what cannot run is refused in one
//! sentence.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::vm::whimbrel;
use crate::support::{Machine, Transport, host};

/// Boots, looks at every page, ends.
fn boots(machine: &Machine, cmdline: &str, expected: &str) {
    if !host::has_kvm() {
        return;
    }
    let mut vm = machine.boot(cmdline);
    let begin = vm.guest.await_begin();
    assert!(begin.contains(expected), "{begin}");
    vm.guest.await_visits(2);
    vm.guest.assert_whole();
    assert_eq!(vm.end_guest(), 0);
}

#[test]
fn the_smallest_memory() {
    boots(&Machine::new("16M"), "ws=4M", "cpus=1 pages=1024");
}

#[test]
fn all_of_512_mib() {
    // Nearly all of its 131072 pages.
    boots(&Machine::new("512M"), "", "cpus=1 pages=130");
}

#[test]
fn memory_above_4_gib() {
    boots(&Machine::new("5G"), "ws=32M", "cpus=1 pages=8192");
}

#[test]
fn shared_memory() {
    boots(&Machine::new("64M,shared=on"), "ws=32M", "cpus=1 pages=8192");
}

#[test]
fn sixteen_vcpus() {
    boots(&Machine::new("64M").cpus(16), "ws=32M", "cpus=16 pages=8192");
}

#[test]
fn an_initrd_is_seen() {
    if !host::has_kvm() {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![0x5a; 12_345]).unwrap();
    let machine = Machine::new("64M").with(&["--initrd", file.path().to_str().unwrap()]);
    let begin = machine.boot("ws=16M").guest.await_begin();
    assert!(begin.contains("modules=1 module_bytes=12345"), "{begin}");
}

#[test]
fn stop_and_cont() {
    if !host::has_kvm() {
        return;
    }
    let mut vm = Machine::new("64M").cpus(2).boot_and_begin("ws=16M");
    vm.qmp.query("stop");
    vm.qmp.await_event("STOP");
    assert_eq!(vm.qmp.status(), "paused");
    assert!(vm.guest.is_silent_for(Duration::from_millis(300)), "a stopped guest talks");
    // Once more does no harm.
    vm.qmp.query("stop");
    vm.qmp.query("cont");
    vm.qmp.await_event("RESUME");
    assert_eq!(vm.qmp.status(), "running");
    vm.guest.await_visits(2);
    vm.guest.assert_whole();
}

#[test]
fn started_paused() {
    if !host::has_kvm() {
        return;
    }
    let mut vm = Machine::new("64M").with(&["--paused"]).boot("ws=16M");
    assert_eq!(vm.qmp.status(), "prelaunch");
    assert!(vm.guest.is_silent_for(Duration::from_millis(300)), "a guest that was not started talks");
    vm.qmp.query("cont");
    vm.guest.await_begin();
    vm.guest.assert_whole();
}

#[test]
fn reset_starts_over() {
    if !host::has_kvm() {
        return;
    }
    let mut vm = Machine::new("64M").cpus(2).boot_and_begin("ws=16M");
    for _ in 0..3 {
        vm.guest.await_visits(2);
        vm.guest.restarts();
        vm.qmp.query("system_reset");
        assert_eq!(vm.qmp.await_event("RESET"), json!({"guest": false, "reason": "host-qmp-system-reset"}));
        assert_eq!(vm.qmp.status(), "running");
        let begin = vm.guest.await_begin();
        assert!(begin.contains("cpus=2 pages=4096"), "{begin}");
        vm.guest.assert_whole();
    }
    // Also one that has been stopped, which then waits.
    vm.qmp.query("stop");
    vm.guest.restarts();
    vm.qmp.query("system_reset");
    assert_eq!(vm.qmp.status(), "prelaunch");
    vm.qmp.query("cont");
    vm.guest.await_begin();
}

#[test]
fn a_guest_that_left_can_be_started_afresh() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("64M");
    let (mut source, mut destination) = (machine.boot_and_begin("ws=16M"), machine.receive(Transport::Unix));
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("completed");
    assert!(source.qmp.refused("migrate", json!({"uri": uri})).contains("postmigrate"));
    source.guest.restarts();
    source.qmp.query("system_reset");
    source.qmp.query("cont");
    source.guest.await_begin();
    source.guest.assert_whole();
    destination.guest.assert_whole();
    // It came without its kernel.
    let refusal = destination.qmp.refused("system_reset", json!({}));
    assert!(refusal.contains("kernel"), "{refusal}");
    destination.guest.assert_whole();
}

/// The kernel that is given along with `--incoming` is there for a reset.
#[test]
fn a_guest_that_arrived_can_be_reset() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("64M");
    let mut source = machine.boot_and_begin("ws=16M");
    let boot = ["--kernel", "builtin:test", "--cmdline", "ws=8M"];
    let mut destination = machine.with(&boot).receive(Transport::Unix);
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("completed");
    destination.guest.assert_whole();
    destination.guest.restarts();
    destination.qmp.query("system_reset");
    let begin = destination.guest.await_begin();
    assert!(begin.contains("pages=2048"), "{begin}");
    destination.guest.assert_whole();
}

/// The checker can fail: one page is damaged on purpose, in its middle, where only a full
/// verification looks.
#[test]
fn a_damaged_page_is_noticed() {
    if !host::has_kvm() {
        return;
    }
    let mut vm = Machine::new("64M").boot_and_begin("ws=16M write=0 plant_word=77");
    assert_eq!(vm.guest.verify(), 1);
    assert!(vm.guest.damage[0].contains("page=77"), "{:?}", vm.guest.damage);
    assert_eq!(vm.end_guest(), 1);
}

/// The same at the front of the page and after a move: what migrates is what was there, damage
/// included.
#[test]
fn a_damaged_page_is_noticed_where_it_moved() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    for passes in [-1, 0, 1] {
        let machine = Machine::new("64M");
        let mut source = machine.boot_and_begin("ws=16M write=0 rate=1 plant_word=78");
        let mut destination = machine.receive(Transport::Unix);
        source.set(json!({"x-postcopy-after": passes}));
        let uri = destination.address();
        source.migrate(&uri);
        source.qmp.await_migration("completed");
        assert_eq!(destination.guest.verify(), 1);
        assert!(destination.guest.damage[0].contains("page=78"), "{:?}", destination.guest.damage);
        assert_eq!(destination.end_guest(), 1);
    }
}

#[test]
fn quit_and_signals_end_it() {
    if !host::has_kvm() {
        return;
    }
    let mut vm = Machine::new("64M").boot_and_begin("ws=16M");
    assert_eq!(vm.quit(), 0);
    assert!(!vm.path("monitor").exists() && !vm.path("qmp-server").exists(), "sockets are left behind");
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut vm = Machine::new("64M").boot_and_begin("ws=16M");
        kill(Pid::from_raw(vm.pid() as i32), signal).unwrap();
        assert_eq!(vm.qmp.await_event("SHUTDOWN"), json!({"guest": false, "reason": "host-signal"}));
        assert_eq!(vm.wait(), 0);
        let mut waiting = Machine::new("64M").receive(Transport::Unix);
        kill(Pid::from_raw(waiting.pid() as i32), signal).unwrap();
        assert_eq!(waiting.wait(), 0);
        assert!(!waiting.path("in").exists(), "the socket is left behind");
    }
}

#[test]
fn a_guest_that_gives_up_says_why() {
    if !host::has_kvm() {
        return;
    }
    // Let go when it is watched: it gives up before anybody could have asked for anything.
    let mut vm = Machine::new("64M").with(&["--paused"]).boot("ws=1T");
    vm.qmp.query("cont");
    assert_eq!(vm.qmp.await_event("SHUTDOWN")["guest"], true);
    assert_eq!(vm.wait(), 3);
}

/// Refused with `code`, in one line that names what is wrong.
fn refused(arguments: &[&str], code: i32, words: &[&str]) {
    let (status, log) = whimbrel(arguments);
    assert_eq!(status, code, "{arguments:?}: {log}");
    for word in words {
        assert!(log.contains(word), "'{word}' is not in the answer to {arguments:?}: {log}");
    }
    if code == 1 {
        let said: Vec<&str> = log.lines().filter(|line| line.starts_with("whimbrel: ")).collect();
        assert_eq!(said.len(), 1, "not one sentence: {log}");
    }
}

#[test]
fn wrong_command_lines_are_refused() {
    refused(&["run"], 2, &["nothing to run", "--kernel"]);
    refused(&["run", "--kernel", "builtin:test", "--cpus", "17"], 2, &["17", "--cpus"]);
    refused(&["run", "--kernel", "builtin:test", "--cpus", "0"], 2, &["--cpus"]);
    refused(&["run", "--kernel", "builtin:test", "--memory", "7X"], 2, &["7X", "--memory"]);
    refused(&["run", "--kernel", "builtin:test", "--memory", "64M,shared=perhaps"], 2, &["shared"]);
    refused(&["run", "--kernel", "builtin:other"], 2, &["builtin:other"]);
    refused(&["run", "--kernel", "builtin:test", "--serial", "morse"], 2, &["morse"]);
    refused(&["run", "--incoming", "ftp:somewhere"], 2, &["ftp:somewhere"]);
    refused(&["run", "--incoming", "tcp:127.0.0.1"], 2, &["tcp:127.0.0.1"]);
    refused(&["run", "--kernel", "builtin:test", "--monitor", "stdio", "--qmp", "stdio"], 2, &["--monitor", "--qmp"]);
    refused(&["run", "--kernel", "builtin:test", "--postcopy-after", "-1"], 2, &["--postcopy-after"]);
    refused(&["migrate", "--to", "tcp:a:1"], 2, &["--qmp"]);
    refused(&["migrate", "--qmp", "/nowhere", "--to", "tcp:127.0.0.1:1"], 6, &["/nowhere"]);
    refused(&["fly"], 2, &["fly"]);
}

#[test]
fn kernels_that_are_none_are_refused() {
    if !host::has_kvm() {
        return;
    }
    let run = |file: &str, words: &[&str]| {
        refused(&["run", "--kernel", file, "--serial", "null", "--memory", "64M"], 1, words);
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    run("/nowhere/vmlinux", &["/nowhere/vmlinux", "No such file"]);
    run(path, &[path, "an empty file"]);
    std::fs::write(path, "I am no kernel\n").unwrap();
    run(path, &[path, "neither an ELF"]);
    std::fs::write(path, b"\x1f\x8b\x08 a vmlinux.gz").unwrap();
    run(path, &[path, "gunzip"]);
    // An ELF of this machine, but a program.
    run(env!("CARGO_BIN_EXE_whimbrel"), &[env!("CARGO_BIN_EXE_whimbrel")]);
    let mut elf = std::fs::read(env!("CARGO_BIN_EXE_whimbrel")).unwrap();
    elf.truncate(100);
    std::fs::write(path, elf).unwrap();
    run(path, &[path]);
}

#[test]
fn what_does_not_fit_is_refused() {
    if !host::has_kvm() {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(64 << 20).unwrap();
    let path = file.path().to_str().unwrap();
    let run = ["run", "--kernel", "builtin:test", "--serial", "null", "--memory", "32M"];
    refused(&[&run[..], &["--initrd", path]].concat(), 1, &[path, "--memory"]);
    refused(&[&run[..], &["--initrd", "/nowhere/initrd"]].concat(), 1, &["/nowhere/initrd"]);
    let long = "x".repeat(100_000);
    refused(&[&run[..], &["--cmdline", &long]].concat(), 1, &["command line", "100000"]);
}

#[test]
fn places_that_cannot_be_had_are_refused() {
    if !host::has_kvm() {
        return;
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap();
    let uri = format!("tcp:{port}");
    refused(&["run", "--serial", "null", "--incoming", &uri], 1, &[&uri]);
    refused(&["run", "--serial", "null", "--incoming", "unix:/nowhere/at/all"], 1, &["/nowhere/at/all"]);
    let kernel = ["run", "--kernel", "builtin:test"];
    refused(&[&kernel[..], &["--serial", "unix:/nowhere/at/all"]].concat(), 1, &["/nowhere/at/all"]);
    refused(&[&kernel[..], &["--qmp", "unix:/nowhere/at/all,server"]].concat(), 1, &["/nowhere/at/all"]);
}
