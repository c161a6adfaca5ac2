//! Limits hold, measured on the link itself.

use std::time::Instant;

use serde_json::json;

use crate::support::proxy::Proxy;
use crate::support::{Machine, Transport, host};

const MIB: u64 = 1 << 20;
/// Slow enough that starting and ending, which are not limited, do not count.
const LIMIT: u64 = 32 * MIB;

/// Bytes per second, between two readings of the link.
struct Rate {
    begin: Instant,
    bytes: u64,
}

impl Rate {
    fn begin(link: &Proxy) -> Self {
        Self { begin: Instant::now(), bytes: link.forwarded() }
    }

    fn end(self, link: &Proxy) -> f64 {
        (link.forwarded() - self.bytes) as f64 / self.begin.elapsed().as_secs_f64()
    }
}

fn assert_close(rate: f64, limit: u64) {
    let ratio = rate / limit as f64;
    println!("{:.1} MiB/s, {ratio:.3} of the limit", rate / MIB as f64);
    assert!((0.9..1.1).contains(&ratio), "{:.1} MiB/s is {ratio:.2} of the limit", rate / MIB as f64);
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
    source.set(json!({"max-bandwidth": LIMIT}));

    source.migrate(&link.address());
    source.qmp.await_migration("active");
    let rate = Rate::begin(&link);
    destination.qmp.await_migration("completed");
    let rate = rate.end(&link);
    source.qmp.await_migration("completed");

    assert_close(rate, LIMIT);
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
    source.set(json!({"max-postcopy-bandwidth": LIMIT, "x-postcopy-after": 0}));

    source.migrate(&link.address());
    source.qmp.await_migration("postcopy-active");
    let rate = Rate::begin(&link);
    destination.qmp.await_migration("completed");
    let rate = rate.end(&link);
    source.qmp.await_migration("completed");

    assert_close(rate, LIMIT);
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
    source.set(json!({"max-postcopy-bandwidth": LIMIT, "x-postcopy-after": 0}));
    source.migrate(&link.address());
    destination.qmp.await_migration("postcopy-active");
    link.cut();
    source.qmp.await_migration("postcopy-paused");
    destination.qmp.await_migration("postcopy-paused");

    destination.qmp.run("migrate-recover", json!({"uri": "tcp:127.0.0.1:0"}));
    let link = Proxy::to(&destination.address());
    source.qmp.run("migrate", json!({"uri": link.address(), "resume": true}));
    source.qmp.await_migration("postcopy-active");
    let rate = Rate::begin(&link);
    destination.qmp.await_migration("completed");
    let rate = rate.end(&link);
    source.qmp.await_migration("completed");

    assert_close(rate, LIMIT);
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
    // With this alone it would take a minute and more.
    source.set(json!({"max-postcopy-bandwidth": MIB, "x-postcopy-after": 0}));

    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("postcopy-active");
    let begin = Instant::now();
    while source.ram("remaining") > 32 * MIB {
        destination.guest.await_heartbeat();
    }
    let (elapsed, requests) = (begin.elapsed(), source.ram("postcopy-requests"));
    source.set(json!({"max-postcopy-bandwidth": 0}));
    source.qmp.await_migration("completed");

    assert!(elapsed.as_secs() < 20, "half of the memory took {elapsed:?}");
    assert!(requests > 4096, "only {requests} pages came on demand");
    destination.guest.assert_whole();
}

/// A guest that always writes all of its memory: what a switchover would have left to send is
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
    source.set(json!({"max-bandwidth": LIMIT, "avail-switchover-bandwidth": given, "downtime-limit": 800}));
    let uri = destination.address();
    source.migrate(&uri);
    while source.qmp.await_event("MIGRATION_PASS")["pass"].as_u64().unwrap() < 5 {}
    let told = source.qmp.query("query-migrate");
    assert_eq!(told["status"], "active", "{told}");
    let ratio = told["expected-downtime"].as_f64().unwrap() / 1000.0;
    println!("expected downtime: {ratio:.3} of what the guest writes by the given bandwidth");
    assert!((0.9..1.1).contains(&ratio), "{told}");
    source.set(json!({"downtime-limit": 1200}));
    source.qmp.await_migration("completed");
    destination.qmp.await_migration("completed");
    let downtime = source.qmp.query("query-migrate")["downtime"].as_u64().unwrap();
    assert!(downtime <= 1200, "{downtime} ms");
    destination.guest.assert_whole();
    assert_eq!(destination.end_guest(), 0);
}
