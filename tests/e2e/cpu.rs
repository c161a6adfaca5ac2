//! `--cpu`: guests with a processor of their own boot, move, and go only where what they were shown
//! is.

use serde_json::json;

use crate::support::vm::whimbrel;
use crate::support::{Machine, Transport, host};

/// Boots with one `--cpu` and moves to a machine with another, first by precopy, then by postcopy.
fn moves(source_cpu: &str, destination: &[&str]) {
    if !host::has_kvm_and_uffd() {
        return;
    }
    for passes in [-1, 0] {
        let machine = Machine::new("64M").cpus(2);
        let mut source = machine.clone().with(&["--cpu", source_cpu]).boot_and_begin("ws=32M order=rand write=50");
        let mut destination = machine.with(destination).receive(Transport::Unix);
        source.set(json!({"x-postcopy-after": passes}));
        let uri = destination.address();
        source.migrate(&uri);
        source.qmp.await_migration("completed");
        destination.qmp.await_migration("completed");
        destination.guest.await_visits(5);
        assert_eq!(destination.end_guest(), 0, "the guest saw errors");
    }
}

#[test]
fn a_baseline_moves_to_the_same() {
    moves("baseline-v1", &["--cpu", "baseline-v1"]);
}

#[test]
fn a_baseline_moves_to_a_machine_that_was_told_nothing() {
    moves("baseline-v1,-nx", &[]);
}

#[test]
fn what_was_taken_from_the_host_moves() {
    moves("host,-nx,-kvmclock", &["--cpu", "max"]);
}

/// Refused before a page moves, and the guest goes on where it is.
#[test]
fn a_destination_that_may_show_less_is_refused() {
    if !host::has_kvm() {
        return;
    }
    let machine = Machine::new("64M");
    let mut source = machine.boot_and_begin("ws=16M");
    let mut destination = machine.with(&["--cpu", "host,-nx"]).receive(Transport::Unix);
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("failed");
    let error = source.qmp.query("query-migrate")["error-desc"].to_string();
    assert!(error.contains("shown nx") && error.contains("--cpu host,-nx"), "{error}");
    assert_eq!(destination.wait(), 1);
    source.guest.await_visits(2);
    source.guest.assert_whole();
}

#[test]
fn processors_that_cannot_be_are_refused() {
    let run =
        |cpu: &str| whimbrel(&["run", "--kernel", "builtin:test", "--serial", "null", "--memory", "64M", "--cpu", cpu]);
    for (cpu, words) in [
        ("host,-nosuch", "'nosuch' is not a feature"),
        ("Skylake-Server", "'Skylake-Server' is not a processor"),
        ("host,+svm", "nested virtualisation"),
    ] {
        let (status, log) = run(cpu);
        assert!(status == 2 && log.contains(words), "{cpu}: {status} {log}");
    }
    if !host::has_kvm() {
        return;
    }
    // Of processors that were never built in numbers, one feature of each vendor's: no host has
    // both.
    let (status, log) = run("baseline-v1,+avx512er,+xop");
    assert!(status == 1 && log.contains("cannot offer") && log.contains("use --cpu baseline-v1"), "{status} {log}");
    assert!(log.contains("avx512er") || log.contains("xop"), "{log}");
}
