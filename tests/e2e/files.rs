//! What users name: files, FIFOs, sockets, descriptors. Nothing of it stops a monitor, and nothing
//! that is somebody's is lost.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use serde_json::json;

use crate::support::vm::whimbrel;
use crate::support::{Machine, host};

const WORKLOAD: &str = "ws=8M order=rand write=50";

fn machine() -> Machine {
    Machine::new("32M")
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }
    fn fifo(&self, name: &str) -> String {
        nix::unistd::mkfifo(&self.at(name), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        self.text(name)
    }
}

/// Each refusal is an answer of the monitor, which so goes on.
#[test]
fn nothing_that_is_named_stops_the_monitor_or_is_overwritten() {
    if !host::has_kvm() {
        return;
    }
    let dir = Place::new();
    let fifo = dir.fifo("fifo");
    symlink(dir.at("fifo"), dir.at("link")).unwrap();
    let _living = UnixListener::bind(dir.at("socket")).unwrap();
    fs::write(dir.at("text"), "precious\n").unwrap();
    fs::write(dir.at("image"), b"QFI\xfb\0\0\0\x03").unwrap();
    let disk = vec![7; 1 << 20];
    fs::write(dir.at("disk"), &disk).unwrap();
    let with_disk = format!("path={},format=raw", dir.text("disk"));
    let mut vm = machine().with(&["--disk", &with_disk]).boot_and_begin(WORKLOAD);
    for (name, why) in [
        ("fifo", "a FIFO that nobody reads"),
        ("link", "a FIFO that nobody reads"),
        ("socket", "it is a socket"),
        ("", "it is a directory"),
        ("text", "would be lost"),
        ("image", "would be lost"),
        ("disk", "being written by another process"),
    ] {
        for mapped in [false, true] {
            vm.switch("mapped-ram", mapped);
            let refusal = vm.qmp.refused("migrate", json!({"uri": format!("file:{}", dir.text(name))}));
            assert!(refusal.contains(why), "{name}: {refusal}");
        }
    }
    vm.switch("mapped-ram", false);
    // Whatever this process has opened itself is nobody's to write to.
    let own = [dir.text("disk"), "/dev/kvm".into(), "anon_inode:kvm-vm".into(), "anon_inode:[eventpoll]".into()];
    let mut tried = 0;
    for entry in fs::read_dir(format!("/proc/{}/fd", vm.pid())).unwrap() {
        let entry = entry.unwrap().path();
        let number = entry.file_name().unwrap().to_str().unwrap();
        if number == "2" || fs::read_link(&entry).is_ok_and(|target| own.contains(&target.display().to_string())) {
            let refusal = vm.qmp.refused("migrate", json!({"uri": format!("fd:{number}")}));
            assert!(refusal.contains(&format!("'{number}'")), "{refusal}");
            tried += 1;
        }
    }
    assert!(tried > own.len(), "{tried}");
    fs::create_dir(dir.at("pki")).unwrap();
    for name in ["ca-cert.pem", "client-cert.pem", "client-key.pem"] {
        dir.fifo(&format!("pki/{name}"));
    }
    vm.set(json!({"tls-creds": dir.text("pki")}));
    let refusal = vm.qmp.refused("migrate", json!({"uri": "tcp:127.0.0.1:1"}));
    assert!(refusal.contains("it is a FIFO"), "{refusal}");
    assert_eq!(vm.qmp.status(), "running");
    vm.guest.assert_whole();
    vm.signal(Signal::SIGTERM);
    assert_eq!(vm.wait(), 0);
    assert_eq!(fs::read(dir.at("text")).unwrap(), b"precious\n");
    assert_eq!(fs::read(dir.at("image")).unwrap(), b"QFI\xfb\0\0\0\x03");
    assert_eq!(fs::read(dir.at("disk")).unwrap(), disk);

    let mut waiting = machine().start("destination", true, |_| ["--incoming", "defer"].map(str::to_owned).to_vec());
    for (uri, why) in [
        (format!("file:{fifo}"), "a FIFO that nobody writes to"),
        (format!("file:{fifo},lazy=on"), "a FIFO that nobody writes to"),
        ("file:/dev/zero".to_owned(), "it is a character device"),
        (format!("file:{}", dir.text("")), "it is a directory"),
        (format!("unix:{}", dir.text("text")), "is not a socket"),
        (format!("unix:{}", dir.text("socket")), "already listens"),
    ] {
        let refusal = waiting.qmp.refused("migrate-incoming", json!({"uri": uri}));
        assert!(refusal.contains(why), "{uri}: {refusal}");
    }
    waiting.signal(Signal::SIGTERM);
    assert_eq!(waiting.wait(), 0);
    assert!(dir.at("socket").exists() && dir.at("text").exists());
}

/// A machine that does not come to run: what it says.
fn refused(arguments: &[&str]) -> String {
    let (code, log) = whimbrel(&[&["run", "--memory", "32M"], arguments].concat());
    assert_eq!(code, 1, "{arguments:?}: {log}");
    log
}

#[test]
fn a_socket_takes_no_other_things_place_and_goes_with_its_own_machine() {
    if !host::has_kvm() {
        return;
    }
    let dir = Place::new();
    fs::write(dir.at("f"), "precious\n").unwrap();
    let (file, place) = (dir.text("f"), dir.text("s"));
    let of = |kind: &str, path: &str| match kind {
        "--incoming" => format!("unix:{path}"),
        _ => format!("unix:{path},server"),
    };
    const KINDS: [&str; 5] = ["--incoming", "--qmp", "--monitor", "--serial", "--console"];
    let first =
        machine().start("destination", true, |_| ["--incoming", &of("--incoming", &place)].map(str::to_owned).to_vec());
    assert!(first.logs("waiting for a guest"));
    for kind in KINDS {
        let waits: &[&str] = if kind == "--incoming" { &[] } else { &["--incoming", "defer"] };
        let serial: &[&str] = if kind == "--serial" { &[] } else { &["--serial", "null"] };
        let more = |path: &str| refused(&[&[kind, &of(kind, path)], waits, serial].concat());
        let log = more(&file);
        assert!(log.contains("is not a socket") && log.contains(&file), "{kind}: {log}");
        let log = more(&place);
        assert!(log.contains("already listens") && log.contains(&place), "{kind}: {log}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious\n");
    // The place that another machine has by then stays that machine's.
    fs::remove_file(&place).unwrap();
    let second =
        machine().start("destination", true, |_| ["--incoming", &of("--incoming", &place)].map(str::to_owned).to_vec());
    assert!(second.logs("waiting for a guest"));
    let mut first = first;
    assert_eq!(first.quit(), 0);
    UnixStream::connect(&place).unwrap();
    let mut second = second;
    second.kill();
    assert!(dir.at("s").exists());
    // A dead machine's is taken over, and this one's goes with it.
    let mut third =
        machine().start("destination", true, |_| ["--incoming", &of("--incoming", &place)].map(str::to_owned).to_vec());
    assert!(third.logs("waiting for a guest"));
    assert_eq!(third.quit(), 0);
    assert!(!dir.at("s").exists());
}

#[test]
fn a_file_that_is_written_is_nobody_elses_meanwhile() {
    if !host::has_kvm() {
        return;
    }
    let dir = Place::new();
    let path = dir.text("guest");
    let uri = format!("file:{path}");
    let (mut vm, mut other) = (machine().boot_and_begin(WORKLOAD), machine().boot_and_begin(WORKLOAD));
    vm.set(json!({"max-bandwidth": 1 << 20}));
    vm.migrate(&uri);
    vm.qmp.await_migration("active");
    let refusal = other.qmp.refused("migrate", json!({"uri": uri}));
    assert!(refusal.contains("being written by another process") && refusal.contains(&path), "{refusal}");
    for way in [&["--lazy"][..], &[]] {
        let (code, log) = whimbrel(&[&["restore", &path, "--memory", "32M", "--serial", "null"], way].concat());
        assert!(code == 1 && log.contains("being written by another process"), "{log}");
    }
    let (code, log) = whimbrel(&["analyze", &path]);
    assert!(code != 0 && log.contains("being written by another process"), "{log}");
    vm.qmp.run("migrate_cancel", json!({}));
    vm.qmp.await_migration("cancelled");
    // What is left of it is no loss, and whoever has it open next is the one.
    other.migrate(&uri);
    other.qmp.await_migration("completed");
    let mut restored = machine().restoring(&path).start("destination", true, |_| Vec::new());
    restored.await_arrived();
    restored.guest.assert_whole();
    assert_eq!(restored.end_guest(), 0);
    assert_eq!(vm.end_guest(), 0);
}

#[test]
fn a_descriptor_is_used_up_and_its_end_is_seen() {
    if !host::has_kvm() {
        return;
    }
    let dir = Place::new();
    let fifo = dir.fifo("fifo");
    let reader = {
        let fifo = fifo.clone();
        std::thread::spawn(move || fs::read(fifo).unwrap())
    };
    let mut source = machine().after(&format!("exec 7> '{fifo}'")).boot_and_begin(WORKLOAD);
    for number in ["8", "2"] {
        let refusal = source.qmp.refused("migrate", json!({"uri": format!("fd:{number}")}));
        assert!(refusal.contains(&format!("'{number}'")), "{refusal}");
    }
    source.migrate("fd:7");
    source.qmp.await_migration("completed");
    // While the source lives.
    let stream = reader.join().unwrap();
    fs::write(dir.at("stream"), &stream).unwrap();
    // Standard input is read by nothing else here.
    let line = ["--incoming", "fd:0"].map(str::to_owned).to_vec();
    let mut destination =
        machine().after(&format!("exec < '{}'", dir.text("stream"))).start("destination", true, |_| line);
    destination.await_arrived();
    destination.guest.assert_whole();
    assert_eq!(destination.end_guest(), 0);
    // Here it is the serial port's.
    let (code, log) = whimbrel(&["run", "--memory", "32M", "--serial", "stdio", "--incoming", "fd:0"]);
    assert!(code == 2 && log.contains("standard input"), "{code}: {log}");
}
