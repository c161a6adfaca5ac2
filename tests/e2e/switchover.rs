//! When the guest is switched over, and who says so.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::proxy::Proxy;
use crate::support::{Machine, Transport, Vm, host};

const WORKLOAD: &str = "ws=64M order=rand write=50";

fn machine() -> Machine {
    Machine::new("96M")
}

/// A migration that is held: the guest stands still on the source.
fn held(passes: i32) -> (Vm, Vm, Proxy) {
    let (mut source, mut destination) = (machine().boot_and_begin(WORKLOAD), machine().receive(Transport::Tcp));
    source.switch("pause-before-switchover", true);
    // What converges is not what this is about.
    source.set(json!({"x-postcopy-after": passes, "downtime-limit": 60_000}));
    let refusal = source.qmp.refused("migrate-continue", json!({"state": "pre-switchover"}));
    assert!(refusal.contains("the migration is 'none', not 'pre-switchover'"), "{refusal}");
    let link = Proxy::to(&destination.address());
    source.migrate(&link.address());
    source.qmp.await_migration("pre-switchover");
    assert_eq!(source.qmp.query("query-migrate")["status"], "pre-switchover");
    assert_eq!(source.qmp.status(), "finish-migrate");
    assert!(source.guest.is_silent_for(Duration::from_millis(200)), "a paused guest talks");
    let refusal = source.qmp.refused("migrate-continue", json!({"state": "device"}));
    assert!(refusal.contains("'device'"), "{refusal}");
    assert_eq!(destination.qmp.status(), "inmigrate");
    (source, destination, link)
}

fn goes_on(passes: i32, ways: &[&str]) {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, mut destination, _link) = held(passes);
    source.qmp.run("migrate-continue", json!({"state": "pre-switchover"}));
    ways.iter().for_each(|status| source.qmp.await_migration(status));
    source.qmp.await_migration("completed");
    let refusal = source.qmp.refused("migrate-continue", json!({"state": "pre-switchover"}));
    assert!(refusal.contains("'completed'"), "{refusal}");
    destination.qmp.await_migration("completed");
    destination.guest.assert_whole();
    assert_eq!(destination.end_guest(), 0);
}

#[test]
fn a_held_precopy_goes_on_when_told_to() {
    goes_on(-1, &["device"]);
}

#[test]
fn a_held_hybrid_goes_on_when_told_to() {
    goes_on(1, &["device", "postcopy-active"]);
}

#[test]
fn a_held_postcopy_goes_on_when_told_to() {
    goes_on(0, &["device", "postcopy-active"]);
}

#[test]
fn a_held_precopy_becomes_a_postcopy_by_a_word() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, mut destination, _link) = held(-1);
    source.qmp.query("migrate-start-postcopy");
    source.qmp.run("migrate-continue", json!({"state": "pre-switchover"}));
    source.qmp.await_migration("postcopy-active");
    source.qmp.await_migration("completed");
    destination.guest.assert_whole();
}

/// On a slow link the guest writes faster than it can be sent: only a postcopy ends.
fn turns_by_itself(policy: &str) -> (Vm, Vm) {
    let (mut source, mut destination) = (machine().boot_and_begin(WORKLOAD), machine().receive(Transport::Tcp));
    source.set(json!({"postcopy-policy": policy, "max-bandwidth": 64 << 20, "downtime-limit": 0}));
    // What goes on several channels is counted apart, whenever it goes.
    source.switch("multifd", false);
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("postcopy-active");
    source.qmp.await_migration("completed");
    destination.guest.assert_whole();
    (source, destination)
}

#[test]
fn a_guest_that_never_converges_turns_to_postcopy_where_passes_stall() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, _destination) = turns_by_itself("stalled");
    let report = source.qmp.query("query-migrate");
    // The first pass sends memory that was never written as zeros: it gains. The next one that
    // gains nothing is the last.
    assert!((2..6).contains(&report["ram"]["dirty-sync-count"].as_u64().unwrap()), "{report}");
    assert!(report["ram"]["precopy-bytes"].as_u64().unwrap() > 64 << 20, "{report}");
}

#[test]
fn a_guest_turns_to_postcopy_when_its_time_has_come() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let begun = Instant::now();
    let (mut source, _destination) = turns_by_itself("time=2");
    assert!(begun.elapsed() >= Duration::from_secs(2));
    let report = source.qmp.query("query-migrate");
    let (total, sent) = (report["total-time"].as_u64().unwrap(), report["ram"]["precopy-bytes"].as_u64().unwrap());
    assert!(total >= 2000, "{report}");
    // Of 64 MiB a second; however little where the host is busy with other things.
    assert!((1..total * (80 << 20) / 1000).contains(&sent), "{report}");
}

#[test]
fn a_policy_needs_postcopy_on_both_sides() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let off = json!({"capabilities": [{"capability": "postcopy-ram", "state": false}]});
    let (mut source, mut destination) = (machine().boot_and_begin(WORKLOAD), machine().receive(Transport::Tcp));
    let uri = destination.address();
    source.set(json!({"postcopy-policy": "stalled"}));
    let refusal = source.qmp.refused("migrate-set-capabilities", off.clone());
    assert!(refusal.contains("postcopy-policy needs postcopy-ram"), "{refusal}");
    source.set(json!({"postcopy-policy": "manual", "max-bandwidth": 8 << 20}));
    source.qmp.run("migrate-set-capabilities", off.clone());
    // Nor on the way.
    source.migrate(&uri);
    source.qmp.await_migration("active");
    let refusal = source.qmp.refused("migrate-set-parameters", json!({"postcopy-policy": "time=1"}));
    assert!(refusal.contains("migrate_set_capability postcopy-ram on"), "{refusal}");
    source.qmp.query("migrate_cancel");
    source.qmp.await_migration("cancelled");
    assert_eq!(destination.wait(), 1);

    let mut there = machine().start("destination", true, |_| vec!["--incoming".to_owned(), "defer".to_owned()]);
    there.qmp.run("migrate-set-capabilities", off);
    there.qmp.run("migrate-incoming", json!({"uri": "tcp:127.0.0.1:0"}));
    source.switch("postcopy-ram", true);
    let uri = there.address();
    source.migrate(&uri);
    source.qmp.await_migration("active");
    let refusal = source.qmp.refused("migrate-set-parameters", json!({"postcopy-policy": "after-passes=3"}));
    assert!(refusal.contains("the destination cannot do postcopy"), "{refusal}");
    source.set(json!({"max-bandwidth": 0}));
    source.qmp.await_migration("completed");
    there.guest.assert_whole();
}

/// Held, then taken back by `end`, which leads to `status`: the guest runs on, and can leave later.
fn stays(end: impl FnOnce(&mut Vm, &Proxy), status: &str) {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, mut destination, link) = held(1);
    end(&mut source, &link);
    source.qmp.await_migration(status);
    assert_eq!(destination.wait(), 1);
    assert_eq!(source.qmp.status(), "running");
    source.guest.assert_whole();
    source.guest.await_visits(5);
    let mut destination = machine().receive(Transport::Unix);
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("pre-switchover");
    source.qmp.run("human-monitor-command", json!({"command-line": "migrate_continue pre-switchover"}));
    source.qmp.await_migration("completed");
    destination.guest.assert_whole();
}

#[test]
fn a_held_guest_is_taken_back_by_a_cancel() {
    stays(|source, _| _ = source.qmp.query("migrate_cancel"), "cancelled");
}

#[test]
fn a_held_guest_is_taken_back_when_the_link_breaks() {
    stays(|_, link| link.cut(), "failed");
}
