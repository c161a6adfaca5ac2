//! Limits hold: as many bytes as there are take at least so long.

use std::time::Instant;

use serde_json::json;

use crate::support::proxy::Proxy;
use crate::support::{LIMIT, Machine, Transport, host};

const MIB: u64 = 1 << 20;
/// Slow enough that starting and ending, which are not limited, do not count.
const RATE: u64 = 32 * MIB;

/// No more went over the link than the limit allows for the time since `begin`. How much less it is
/// depends on how busy the host is; that a limit is used up is for `rate_limit.rs` to test.
fn assert_held(link: &Proxy, begin: Instant, limit: u64) {
    let (bytes, time) = (link.forwarded(), begin.elapsed().as_secs_f64());
    assert!(bytes > 48 * MIB, "{bytes} bytes do not show a limit");
    let rate = bytes as f64 / time;
    println!("{:.1} MiB/s, {:.3} of the limit", rate / MIB as f64, rate / limit as f64);
    assert!(rate < limit as f64 * 1.1, "{:.1} MiB/s", rate / MIB as f64);
}

#[test]
fn max_bandwidth_limits_precopy() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("96M");
    let mut source = machine.boot_and_begin("ws=64M rate=200");
    let mut destination = machine.receive(Transport::Tcp);
    let link = Proxy::to(&destination.address());
    source.set(json!({"max-bandwidth": RATE}));

    let begin = Instant::now();
    source.migrate(&link.address());
    destination.qmp.await_migration("completed");
    assert_held(&link, begin, RATE);
    source.qmp.await_migration("completed");
    destination.guest.assert_whole();
}

#[test]
fn max_postcopy_bandwidth_limits_the_background() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("96M");
    let mut source = machine.boot_and_begin("ws=64M rate=200");
    let mut destination = machine.receive(Transport::Tcp);
    let link = Proxy::to(&destination.address());
    source.set(json!({"max-postcopy-bandwidth": RATE, "x-postcopy-after": 0}));

    let begin = Instant::now();
    source.migrate(&link.address());
    destination.qmp.await_migration("completed");
    assert_held(&link, begin, RATE);
    source.qmp.await_migration("completed");
    destination.guest.assert_whole();
}

#[test]
fn max_postcopy_bandwidth_limits_the_background_after_a_recovery_too() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("96M");
    let mut source = machine.boot_and_begin("ws=64M rate=200");
    let mut destination = machine.receive(Transport::Tcp);
    let link = Proxy::to(&destination.address());
    // Slow at first: most of it is to come after the recovery.
    source.set(json!({"max-postcopy-bandwidth": MIB, "x-postcopy-after": 0}));
    source.migrate(&link.address());
    destination.qmp.await_migration("postcopy-active");
    link.cut();
    source.qmp.await_migration("postcopy-paused");
    destination.qmp.await_migration("postcopy-paused");

    destination.qmp.run("migrate-recover", json!({"uri": "tcp:127.0.0.1:0"}));
    let link = Proxy::to(&destination.address());
    source.set(json!({"max-postcopy-bandwidth": RATE}));
    let begin = Instant::now();
    source.qmp.run("migrate", json!({"uri": link.address(), "resume": true}));
    source.qmp.await_migration("postcopy-active");
    destination.qmp.await_migration("completed");
    assert_held(&link, begin, RATE);
    source.qmp.await_migration("completed");
    destination.guest.assert_whole();
}

#[test]
fn max_postcopy_bandwidth_does_not_hold_up_demanded_pages() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("96M");
    let mut source = machine.boot_and_begin("ws=64M order=rand write=50");
    let mut destination = machine.receive(Transport::Tcp);
    // With this alone it would take a quarter of an hour.
    source.set(json!({"max-postcopy-bandwidth": MIB / 16, "x-postcopy-after": 0}));

    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("postcopy-active");
    let begin = Instant::now();
    while source.ram("remaining") > 32 * MIB {
        destination.guest.await_heartbeat();
        assert!(begin.elapsed() < LIMIT, "only {} pages came on demand", source.ram("postcopy-requests"));
    }
    let requests = source.ram("postcopy-requests");
    source.set(json!({"max-postcopy-bandwidth": 0}));
    source.qmp.await_migration("completed");

    assert!(requests > 4096, "only {requests} pages came on demand");
    destination.guest.assert_whole();
}

/// A guest that writes all of its memory in a pass: what a switchover would have left to send is
/// known, and so for how long it would stand still.
#[test]
fn downtime_limit_and_a_given_bandwidth_decide_when_a_precopy_switches() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("48M");
    let (mut source, mut destination) =
        (machine.boot_and_begin("ws=4M order=rand write=100"), machine.receive(Transport::Unix));
    let given = 4 * MIB;
    // By the bandwidth of the link it would not stand still for so long.
    source.set(json!({"max-bandwidth": 4 * given, "avail-switchover-bandwidth": given, "downtime-limit": 400}));
    let uri = destination.address();
    source.migrate(&uri);
    while source.qmp.await_event("MIGRATION_PASS")["pass"].as_u64().unwrap() < 5 {}
    let told = source.qmp.query("query-migrate");
    assert_eq!(told["status"], "active", "{told}");
    let ratio = told["expected-downtime"].as_f64().unwrap() / 1000.0;
    println!("expected downtime: {ratio:.3} of what the guest writes by the given bandwidth");
    // On a busy host it does not come to writing all.
    assert!((0.4..1.1).contains(&ratio), "{told}");
    source.set(json!({"downtime-limit": 1200}));
    source.qmp.await_migration("completed");
    destination.qmp.await_migration("completed");
    let downtime = source.qmp.query("query-migrate")["downtime"].as_u64().unwrap();
    assert!(downtime <= 1200, "{downtime} ms");
    destination.guest.assert_whole();
    assert_eq!(destination.end_guest(), 0);
}
