//! A destination that refused a guest, or whose source gave up, waits for the next one, as new.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Machine, Transport, Vm, host};
use crate::tls::certificates::{Authority, Directory};

const MIB: u64 = 1 << 20;
const HOT: &str = "ws=32M order=rand write=50";

/// Waits at a port that the system chooses, again and again.
fn wait_on(machine: &Machine) -> Vm {
    machine.start("destination", true, |_| {
        ["--incoming", "tcp:127.0.0.1:0", "--exit-on-error", "off"].map(str::to_owned).to_vec()
    })
}

/// The attempt has failed, and the next is waited for.
fn failed_and_waits(destination: &mut Vm) {
    destination.qmp.await_migration("failed");
    assert_eq!(destination.qmp.status(), "inmigrate");
}

fn userfaultfds(vm: &Vm) -> usize {
    let fds = std::fs::read_dir(format!("/proc/{}/fd", vm.pid())).unwrap();
    let links = fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    links.filter(|link| link.to_string_lossy().contains("userfaultfd")).count()
}

/// Whether the thread runs that is begun last of all, for the next guest.
fn is_ready(vm: &Vm) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", vm.pid())).unwrap();
    let mut names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.any(|name| name.trim() == "faults")
}

/// Cancels a migration in the middle of its first pass.
fn cancel_in_a_pass(source: &mut Vm, uri: &str) {
    source.set(json!({"max-bandwidth": 16 * MIB}));
    source.migrate(uri);
    source.qmp.await_event("MIGRATION_PASS");
    while source.ram("transferred") < MIB {
        source.guest.await_heartbeat();
    }
    source.qmp.run("migrate_cancel", json!({}));
    source.qmp.await_migration("cancelled");
    source.qmp.forget_events();
    source.set(json!({"max-bandwidth": 0}));
}

fn refuse_and_cancel_and_take(machine: &Machine, other: &Machine) {
    let mut destination = wait_on(machine);
    let uri = destination.address();
    let mut stranger = other.boot_and_begin("ws=1M");
    let mut source = machine.boot_and_begin(HOT);
    let mut before = None;
    for attempt in 0..3 {
        stranger.migrate(&uri);
        stranger.qmp.await_migration("failed");
        failed_and_waits(&mut destination);
        cancel_in_a_pass(&mut source, &uri);
        failed_and_waits(&mut destination);
        assert_eq!(destination.address(), uri, "it listens where it did");
        let report = destination.qmp.query("query-migrate");
        assert!(report["error-desc"].as_str().is_some_and(|why| why.contains("cancelled")), "{report}");
        let arrived = destination.qmp.query("x-query-migrate-pages")["arrived"].clone();
        assert_eq!(arrived, 0, "attempt {attempt}");
        // What an attempt took of the host is given back with it.
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            assert!(Instant::now() < limit, "attempt {attempt}: not back to {before:?}");
            if !is_ready(&destination) {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            let now = (destination.footprint().threads, destination.footprint().files, userfaultfds(&destination));
            // A thread that makes memory ready may still be about it.
            let (threads, files, uffds) = *before.get_or_insert(now);
            if now.0 <= threads && now.1 <= files && now.2 <= uffds {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    // Each refusal is told once.
    let log = destination.log();
    assert_eq!(log.matches("the incoming migration failed").count(), 6, "{log}");
    source.set(json!({"postcopy-policy": "after-passes=1"}));
    source.migrate(&uri);
    source.qmp.await_migration("completed");
    destination.qmp.await_migration("completed");
    assert!(destination.qmp.query("query-migrate")["error-desc"].is_null());
    destination.guest.assert_whole();
    destination.guest.await_visits(5);
    assert_eq!(destination.end_guest(), 0);
}

#[test]
fn a_destination_that_failed_is_as_new_for_the_next_source() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(MIB).unwrap();
    let disk = format!("path={},format=raw", disk.path().display());
    refuse_and_cancel_and_take(&Machine::new("64M").with(&["--disk", &disk, "--rng"]), &Machine::new("48M"));
}

#[test]
fn so_it_is_with_tls_and_with_shared_memory() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let directory = Directory::complete(&Authority::new());
    let tls = ["--tls-dir", directory.path().to_str().unwrap()];
    let machine = |memory: &str| Machine::new(memory).with(&tls);
    refuse_and_cancel_and_take(&machine("64M,shared=on"), &machine("48M"));
}

#[test]
fn memory_that_was_handed_over_is_let_go_of_before_the_next_guest_comes() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("64M,shared=on");
    let mut destination = machine.start("destination", true, |dir| {
        ["--exit-on-error".into(), "off".into(), "--incoming".into(), format!("unix:{}", dir.join("in").display())]
            .into()
    });
    let uri = destination.address();
    let mut source = machine.boot_and_begin(HOT);
    source.switch("x-ignore-shared", true);
    source.switch("pause-before-switchover", true);
    for _ in 0..2 {
        source.migrate(&uri);
        source.qmp.await_migration("pre-switchover");
        source.qmp.run("migrate_cancel", json!({}));
        source.qmp.await_migration("cancelled");
        failed_and_waits(&mut destination);
        source.guest.assert_whole();
    }
    source.switch("pause-before-switchover", false);
    source.migrate(&uri);
    source.qmp.await_migration("completed");
    destination.qmp.await_migration("completed");
    destination.guest.assert_whole();
    assert_eq!(destination.end_guest(), 0);
}

#[test]
fn a_deferred_destination_waits_for_the_next_migrate_incoming_unless_it_is_to_exit() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("64M");
    let mut destination = machine.start("destination", true, |_| ["--incoming", "defer"].map(str::to_owned).to_vec());
    let mut source = machine.boot_and_begin(HOT);
    let dir = tempfile::tempdir().unwrap();
    let unix = format!("unix:{}", dir.path().join("in").display());
    for uri in ["tcp:127.0.0.1:0", &unix] {
        destination.qmp.run("migrate-incoming", json!({"uri": uri}));
        let at = destination.address();
        cancel_in_a_pass(&mut source, &at);
        failed_and_waits(&mut destination);
        let report = destination.qmp.query("query-migrate");
        assert_eq!(report["status"], "failed", "{report}");
    }
    // A stream that holds no guest is told at once or on the way, and changes nothing either.
    destination.qmp.run("migrate-incoming", json!({"uri": "exec:echo this is no guest, as everybody can see at once"}));
    failed_and_waits(&mut destination);
    destination.qmp.run("migrate-incoming", json!({"uri": "tcp:127.0.0.1:0", "exit-on-error": true}));
    let at = destination.address();
    cancel_in_a_pass(&mut source, &at);
    assert_eq!(destination.wait(), 1);
    let log = destination.log();
    assert_eq!(log.matches("the incoming migration failed").count(), 4, "{log}");
    // The same guest still moves.
    let mut last = machine.receive(Transport::Unix);
    source.migrate(&last.address());
    source.qmp.await_migration("completed");
    last.guest.assert_whole();
    assert_eq!(last.end_guest(), 0);
}
