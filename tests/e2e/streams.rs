//! Guests that leave by a stream on which nobody answers, and arrive from one: commands, files,
//! descriptors.

use std::fs;
use std::io::{Seek, SeekFrom, Write};

use serde_json::json;

use crate::support::vm::whimbrel;
use crate::support::{Machine, Vm, host};

const WORKLOAD: &str = "ws=8M order=rand write=50";

fn machine() -> Machine {
    Machine::new("32M")
}

/// Waits for a guest from `uri`.
fn arrive(machine: &Machine, uri: &str) -> Vm {
    machine.start("destination", true, |_| vec!["--incoming".to_owned(), uri.to_owned()])
}

/// Leaves by one address and, later, arrives from the other.
fn goes(out: &str, back: &str, offline: bool) {
    let mut source = machine().boot_and_begin(WORKLOAD);
    if offline {
        source.qmp.run("stop", json!({}));
    }
    // A command that compresses, on a host that does much else, is slow: how slow is not what this
    // is about.
    source.set(json!({"downtime-limit": 10_000}));
    source.migrate(out);
    source.qmp.await_migration("completed");
    assert_eq!(source.qmp.status(), "postmigrate", "{out}");
    source.kill();
    let mut destination = arrive(&machine(), back);
    destination.await_arrived();
    if offline {
        assert_eq!(destination.qmp.status(), "paused", "{back}");
        destination.qmp.run("cont", json!({}));
    }
    destination.guest.assert_whole();
    assert_eq!(destination.end_guest(), 0);
}

#[test]
fn a_guest_goes_through_files_and_commands() {
    if !host::has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (plain, zipped, secret, kept, made) = (at("plain"), at("zipped"), at("secret"), at("kept"), at("made"));
    goes(&format!("exec:cat > {plain}"), &format!("exec:cat {plain}"), true);
    goes(&format!("exec:gzip -1 -c > {zipped}"), &format!("exec:gzip -dc {zipped}"), false);
    assert!(fs::read(&zipped).unwrap().starts_with(&[0x1f, 0x8b]));
    let cipher = "openssl enc -aes-256-ctr -pbkdf2 -pass pass:sesame";
    goes(&format!("exec:{cipher} | cat > {secret}"), &format!("exec:cat {secret} | {cipher} -d"), false);
    assert!(!fs::read(&secret).unwrap().starts_with(b"WHIMBREL"));
    // What stands before the offset is somebody else's; what stood after it goes.
    let mut file = fs::File::create(&kept).unwrap();
    file.write_all(b"a header").unwrap();
    file.seek(SeekFrom::Start(1 << 30)).unwrap();
    file.write_all(b"old").unwrap();
    goes(&format!("file:{kept},offset=4096"), &format!("file:{kept},offset=0x1000"), false);
    let bytes = fs::read(&kept).unwrap();
    assert!(bytes.starts_with(b"a header") && bytes[4096..].starts_with(b"WHIMBREL"));
    assert!(bytes.len() < 1 << 30);
    goes(&format!("file:{made}"), &format!("exec:cat {made}"), false);
    use std::os::unix::fs::PermissionsExt;
    // The guest's memory is nobody else's to read.
    assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_guest_goes_through_inherited_descriptors() {
    if !host::has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("stream").display().to_string();
    let mut source = machine().after(&format!("exec 7> '{file}'")).boot_and_begin(WORKLOAD);
    assert!(source.qmp.refused("migrate", json!({"uri": "fd:nobody"})).contains("'nobody'"));
    assert!(source.qmp.refused("migrate", json!({"uri": "fd:99"})).contains("'99'"));
    source.migrate("fd:7");
    source.qmp.await_migration("completed");
    let mut destination = arrive(&machine().after(&format!("exec 7< '{file}'")), "fd:7");
    destination.await_arrived();
    destination.guest.assert_whole();
    assert_eq!(destination.end_guest(), 0);
}

#[test]
fn where_the_guest_is_not_safe_it_stays_and_the_reason_is_told() {
    if !host::has_kvm() {
        return;
    }
    let mut vm = machine().boot_and_begin(WORKLOAD);
    for (uri, why) in [
        ("exec:cat > /dev/null; exit 3", "exit code 3"),
        ("exec:head -c 100000 > /dev/null", "could not be written: the command ended too early"),
        ("exec:kill -9 $$", "could not be written: the command ended with signal 9"),
        ("exec:exit 3", "could not be written: the command ended with exit code 3"),
        ("exec:no-such-command", "exit code 127: there is no such command"),
        ("exec:/etc/passwd", "exit code 126: it cannot be executed"),
        ("exec:exec 0<&-; sleep 60", "Broken pipe"),
        ("file:/dev/full", "No space left on device (os error 28); the file system is full"),
    ] {
        vm.migrate(uri);
        vm.qmp.await_migration("failed");
        let error = vm.qmp.query("query-migrate")["error-desc"].to_string();
        assert!(error.contains(why), "{uri}: {error}");
        assert!(!error.contains("peer") && !error.contains("link"), "a stream has neither: {error}");
        assert_eq!(vm.qmp.status(), "running", "{uri}");
    }
    for (uri, why) in [
        ("file:/no/such/directory/f", "f cannot be written: No such file or directory (os error 2); check the path"),
        ("file:/", "s a directory"),
    ] {
        let refusal = vm.qmp.refused("migrate", json!({"uri": uri}));
        assert!(refusal.contains(why), "{uri}: {refusal}");
    }
    let on = |capability: &str, state: bool| json!({"capabilities": [{"capability": capability, "state": state}]});
    // Postcopy is refused for what it lacks, and a command that takes nothing can be cancelled.
    vm.qmp.run("migrate-set-capabilities", on("postcopy-ram", true));
    vm.migrate("exec:sleep 60");
    vm.qmp.await_migration("active");
    assert!(vm.qmp.refused("migrate-start-postcopy", json!({})).contains("needs a way back"));
    vm.qmp.run("migrate_cancel", json!({}));
    vm.qmp.await_migration("cancelled");
    assert_eq!(vm.qmp.status(), "running");
    vm.guest.assert_whole();
    assert_eq!(vm.end_guest(), 0);
}

#[test]
fn without_a_launcher_no_command_runs_and_no_file_is_made() {
    if !host::has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stream");
    let mut vm = machine().with(&["--no-exec"]).boot_and_begin(WORKLOAD);
    let uri = format!("file:{}", path.display());
    for uri in [&uri, "exec:true"] {
        let refusal = vm.qmp.refused("migrate", json!({"uri": uri}));
        assert!(refusal.contains("--no-exec"), "{refusal}");
    }
    fs::write(&path, b"WHIMBREL, an old one").unwrap();
    vm.migrate(&uri);
    vm.qmp.await_migration("completed");
    let mut destination = arrive(&machine().with(&["--no-exec"]), &uri);
    destination.await_arrived();
    destination.guest.assert_whole();
    assert_eq!(destination.end_guest(), 0);
}

#[test]
fn a_guest_that_was_only_written_down_goes_on_and_is_written_again() {
    if !host::has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let mut vm = machine().boot_and_begin(WORKLOAD);
    let mapped = json!({"capabilities": [{"capability": "mapped-ram", "state": true}]});
    for (name, uri) in [("file", "file:"), ("command", "exec:cat > "), ("mapped", "file:")] {
        let file = path(name);
        if name == "mapped" {
            vm.qmp.run("migrate-set-capabilities", mapped.clone());
        } else {
            vm.qmp.run("stop", json!({}));
        }
        vm.migrate(&format!("{uri}{file}"));
        vm.qmp.await_migration("completed");
        assert_eq!(vm.qmp.status(), "postmigrate", "{name}");
        // It stands still: whoever wants it once more says so first.
        assert!(vm.qmp.refused("migrate", json!({"uri": "file:/nowhere"})).contains("postmigrate"));
        vm.qmp.run("cont", json!({}));
        assert_eq!(vm.qmp.status(), "running", "{name}");
        vm.guest.assert_whole();
    }
    for name in ["file", "mapped"] {
        let mut read = arrive(&machine(), &format!("file:{}", path(name)));
        read.qmp.await_migration("completed");
        if read.qmp.status() == "paused" {
            read.qmp.run("cont", json!({}));
        }
        read.guest.assert_whole();
        assert_eq!(read.end_guest(), 0);
    }
    assert_eq!(vm.end_guest(), 0);
}

#[test]
fn a_migration_that_came_to_nothing_has_moved_nothing() {
    if !host::has_kvm() {
        return;
    }
    let mut vm = machine().boot_and_begin(WORKLOAD);
    let arrived = |vm: &mut Vm| vm.qmp.query("x-query-migrate-pages")["arrived"].as_u64().unwrap_or(0);
    assert_eq!(arrived(&mut vm), 0);
    for (uri, end) in [("tcp:127.0.0.1:1", "failed"), ("exec:head -c 3000000 > /dev/null", "failed")] {
        vm.migrate(uri);
        vm.qmp.await_migration(end);
        assert_eq!(arrived(&mut vm), 0, "{uri}");
        let ram = vm.qmp.query("query-migrate")["ram"].clone();
        assert!(ram.is_null() || ram["remaining"] == ram["total"], "{uri}: {ram}");
    }
    vm.migrate("exec:sleep 60");
    vm.qmp.await_migration("active");
    vm.qmp.run("migrate_cancel", json!({}));
    vm.qmp.await_migration("cancelled");
    assert_eq!(arrived(&mut vm), 0);
    assert_eq!(vm.end_guest(), 0);
}

#[test]
fn a_stream_that_was_cut_starts_no_guest() {
    if !host::has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stream");
    let mut vm = machine().boot_and_begin(WORKLOAD);
    vm.migrate(&format!("file:{}", path.display()));
    vm.qmp.await_migration("completed");
    let length = fs::metadata(&path).unwrap().len();
    for (kept, why) in [(length - 1, "cut"), (length / 2, "it ends too early, in message"), (20, "ends too early")] {
        fs::File::options().write(true).open(&path).unwrap().set_len(kept).unwrap();
        let uri = format!("file:{}", path.display());
        let (code, log) = whimbrel(&["run", "--memory", "32M", "--serial", "null", "--incoming", &uri]);
        assert!(code == 1 && log.contains(why), "{kept} of {length} bytes:\n{log}");
    }
    for (command, why) in
        [("exit 3", "exit code 3"), ("kill -9 $$", "signal 9"), ("no-such-command", "no such command")]
    {
        let uri = format!("exec:{command}");
        let (code, log) = whimbrel(&["run", "--memory", "32M", "--serial", "null", "--incoming", &uri]);
        assert!(code == 1 && log.contains("the command ended with ") && log.contains(why), "{uri}:\n{log}");
    }
}

#[test]
fn a_guest_in_a_file_runs_before_its_memory_is_read() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stream");
    let uri = format!("file:{},offset=8192", path.display());
    let machine = Machine::new("160M").cpus(2);
    let mut source = machine.boot_and_begin("ws=64M order=rand write=50");
    assert!(source.qmp.refused("migrate", json!({"uri": format!("{uri},lazy=on")})).contains("lazy=on is for reading"));
    source.migrate(&uri);
    source.qmp.await_migration("completed");
    for _ in 0..2 {
        let mut destination = arrive(&machine, &format!("{uri},lazy=on"));
        destination.await_arrived();
        assert!(destination.ram("postcopy-requests") > 0);
        destination.guest.assert_whole();
        assert_eq!(destination.end_guest(), 0);
    }
    let length = fs::metadata(&path).unwrap().len();
    fs::File::options().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
    let mut waiting = machine.start("destination", true, |_| ["--incoming", "defer"].map(str::to_owned).to_vec());
    let refusal = waiting.qmp.refused("migrate-incoming", json!({"uri": format!("{uri},lazy=on")}));
    assert!(refusal.contains("no guest can be read"), "{refusal}");
    assert_eq!(waiting.qmp.status(), "inmigrate");
}

#[test]
fn restore_runs_a_guest_from_a_file() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stream").display().to_string();
    let mut source = machine().boot_and_begin(WORKLOAD);
    source.migrate(&format!("file:{path}"));
    source.qmp.await_migration("completed");
    for lazy in [None, Some("--lazy")] {
        let mut destination =
            machine().restoring(&path).start("destination", true, |_| lazy.map(str::to_owned).into_iter().collect());
        destination.await_arrived();
        destination.guest.assert_whole();
        assert_eq!(destination.end_guest(), 0);
    }
}
