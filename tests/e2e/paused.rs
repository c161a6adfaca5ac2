//! A machine that stands still moves, and stands still where it arrives.

use std::time::Duration;

use serde_json::json;

use crate::support::{Machine, Transport, Vm, host};

/// Moves to the end.
fn moves(source: &mut Vm, destination: &mut Vm, passes: i32) {
    source.set(json!({"x-postcopy-after": passes}));
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("completed");
    destination.qmp.await_migration("completed");
    assert_eq!(source.qmp.status(), "postmigrate");
    assert_eq!(destination.qmp.status(), "paused");
    assert!(destination.guest.is_silent_for(Duration::from_millis(200)), "a paused guest talks");
}

fn goes_on(mut destination: Vm) {
    destination.qmp.query("cont");
    assert_eq!(destination.qmp.status(), "running");
    destination.guest.assert_whole();
    destination.guest.await_visits(5);
    assert_eq!(destination.end_guest(), 0);
}

fn stopped(passes: i32) {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("96M").cpus(2);
    let (mut source, mut destination) = (machine.boot_and_begin("ws=64M"), machine.receive(Transport::Tcp));
    source.qmp.query("stop");
    moves(&mut source, &mut destination, passes);
    goes_on(destination);
}

#[test]
fn a_stopped_guest_by_precopy() {
    stopped(-1);
}

#[test]
fn a_stopped_guest_by_postcopy() {
    stopped(0);
}

#[test]
fn a_stopped_guest_by_hybrid() {
    stopped(1);
}

#[test]
fn a_running_guest_to_a_destination_that_wants_it_paused() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("96M");
    let mut source = machine.boot_and_begin("ws=64M");
    let mut destination = machine.clone().with(&["--paused"]).receive(Transport::Unix);
    moves(&mut source, &mut destination, -1);
    goes_on(destination);
}

/// What was never started is not started by moving.
#[test]
fn a_guest_that_never_ran() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("96M");
    let mut source = machine.clone().with(&["--paused"]).boot("ws=64M");
    let mut destination = machine.receive(Transport::Unix);
    moves(&mut source, &mut destination, -1);
    destination.guest.begins_here();
    destination.qmp.query("cont");
    destination.guest.await_begin();
    destination.guest.assert_whole();
}

/// Stopped in the middle of a pass: the migration goes on, and the guest stays stopped.
#[test]
fn a_guest_that_is_stopped_on_the_way() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("96M");
    let (mut source, mut destination) = (machine.boot_and_begin("ws=64M"), machine.receive(Transport::Tcp));
    source.set(json!({"max-bandwidth": 32 << 20}));
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_event("MIGRATION_PASS");
    source.qmp.query("stop");
    source.set(json!({"max-bandwidth": 0}));
    source.qmp.await_migration("completed");
    destination.qmp.await_migration("completed");
    assert_eq!(destination.qmp.status(), "paused");
    goes_on(destination);
}
