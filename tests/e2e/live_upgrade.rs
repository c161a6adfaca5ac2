//! A guest whose RAM is shared memory goes to another process of the same host, and its RAM stays
//! where it is.

use serde_json::json;

use crate::support::{Machine, Transport, Vm, host};

const GUEST: &str = "ws=64M order=rand write=50";

/// A guest at work and a process that waits for it.
fn pair(memory: &str, workload: &str) -> (Vm, Vm) {
    let machine = Machine::new(memory).cpus(2);
    let (mut source, destination) = (machine.boot_and_begin(workload), machine.receive(Transport::Unix));
    source.guest.await_visits(5);
    source.switch("x-ignore-shared", true);
    (source, destination)
}

/// Moves the guest on, to the end.
fn upgrade(source: &mut Vm, destination: &mut Vm) {
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("completed");
    destination.qmp.await_migration("completed");
    assert_eq!((source.qmp.status(), destination.qmp.status()), ("postmigrate".into(), "running".into()));
}

#[test]
fn a_guest_of_a_gigabyte_is_handed_over_and_no_page_is_sent() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, mut destination) = pair("1G,shared=on", "ws=700M order=rand write=50");
    upgrade(&mut source, &mut destination);
    let report = source.qmp.query("query-migrate");
    let ram = |field: &str| report["ram"][field].as_u64().unwrap();
    assert_eq!((ram("skipped"), ram("normal"), ram("duplicate"), ram("remaining")), (1 << 18, 0, 0, 0), "{report}");
    // Registers and devices.
    assert!(ram("transferred") < 1 << 20, "{report}");
    assert_eq!(ram("dirty-sync-count"), 0, "{report}");

    destination.guest.assert_whole();
    // The source's process keeps nothing of it, and cannot spoil it any more.
    let refusal = source.qmp.refused("cont", json!({}));
    assert!(refusal.contains("migrated away"), "{refusal}");
    source.qmp.run("system_reset", json!({}));
    assert!(source.footprint().rss_kib < 200 << 10, "{:?}", source.footprint());
    destination.guest.assert_whole();
    assert_eq!(source.quit(), 0);
    source.guest.assert_talk_went_on_in(&destination.guest);
    destination.guest.await_visits(5);
    destination.guest.assert_whole();
    assert_eq!(destination.end_guest(), 0, "the guest saw errors");
}

#[test]
fn from_process_to_process_to_process() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut first, mut second) = pair("96M,shared=on", GUEST);
    upgrade(&mut first, &mut second);
    assert_eq!(first.quit(), 0);
    let mut third = Machine::new("96M,shared=on").cpus(2).receive(Transport::Unix);
    second.switch("x-ignore-shared", true);
    upgrade(&mut second, &mut third);
    assert_eq!(second.quit(), 0);
    third.guest.assert_whole();
    // And by its pages to a machine of private memory.
    let mut fourth = Machine::new("96M").cpus(2).receive(Transport::Tcp);
    upgrade(&mut third, &mut fourth);
    fourth.guest.assert_whole();
    assert_eq!(fourth.end_guest(), 0, "the guest saw errors");
}

#[test]
fn a_destination_that_dies_before_it_has_the_guest_leaves_it_to_the_source() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, mut destination) = pair("96M,shared=on", GUEST);
    // RAM is mapped there, and the guest stands still.
    source.switch("pause-before-switchover", true);
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("pre-switchover");
    let refusal = source.qmp.refused("migrate-start-postcopy", json!({}));
    assert!(refusal.contains("x-ignore-shared"), "{refusal}");
    destination.kill();
    source.qmp.await_migration("failed");
    assert_eq!(source.qmp.status(), "running");
    source.guest.assert_whole();
    source.guest.await_visits(5);

    // The next one gets it.
    source.switch("pause-before-switchover", false);
    let mut destination = Machine::new("96M,shared=on").cpus(2).receive(Transport::Unix);
    upgrade(&mut source, &mut destination);
    destination.guest.assert_whole();
    assert_eq!(destination.end_guest(), 0, "the guest saw errors");
}

#[test]
fn one_that_cannot_load_the_guest_lets_go_of_its_ram() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, mut destination) = pair("96M,shared=on", GUEST);
    source.switch("pause-before-switchover", true);
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("pre-switchover");
    let mapped = |vm: &Vm| {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", vm.pid())).unwrap();
        maps.lines().filter(|line| line.contains("memfd:ram")).count()
    };
    assert!(mapped(&destination) > 0);
    source.qmp.query("migrate_cancel");
    source.qmp.await_migration("cancelled");
    destination.qmp.await_migration("failed");
    assert_eq!((mapped(&destination), source.qmp.status()), (0, "running".into()));
    source.guest.assert_whole();
    source.guest.await_visits(5);
    assert_eq!(source.end_guest(), 0, "the guest saw errors");
}

#[test]
fn what_cannot_be_handed_over_is_refused() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let mut private = Machine::new("96M").boot_and_begin("ws=32M");
    let shared = |on| json!({"capabilities": [{"capability": "x-ignore-shared", "state": on}]});
    let refusal = private.qmp.refused("migrate-set-capabilities", shared(true));
    assert!(refusal.contains("--memory SIZE,shared=on"), "{refusal}");

    let machine = Machine::new("96M,shared=on");
    let mut source = machine.boot_and_begin("ws=32M");
    source.switch("x-ignore-shared", true);
    for (uri, why) in [("tcp:127.0.0.1:1", "a tcp: address"), ("exec:cat >/dev/null", "a stream")] {
        let refusal = source.qmp.refused("migrate", json!({"uri": uri}));
        assert!(refusal.contains(why), "{refusal}");
    }
    let refusal = source.qmp.refused("migrate-set-parameters", json!({"x-postcopy-after": 1}));
    assert!(refusal.contains("postcopy-policy"), "{refusal}");
    // The destination has its own say: there RAM is private.
    let mut destination = Machine::new("96M").receive(Transport::Unix);
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("failed");
    let why = source.qmp.query("query-migrate")["error-desc"].as_str().unwrap().to_owned();
    assert!(why.contains("shared=on"), "{why}");
    source.guest.assert_whole();
    assert_eq!(source.end_guest(), 0, "the guest saw errors");
}
