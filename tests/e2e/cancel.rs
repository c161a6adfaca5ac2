//! Migrations that do not happen: the guest stays on the source and runs, and the next attempt
//! works.

use std::net::TcpListener;

use serde_json::json;

use crate::support::proxy::Proxy;
use crate::support::{Machine, Transport, Vm, host};

const MIB: u64 = 1 << 20;
/// Why a link ended that somebody broke.
const BY_HAND: &str = "the link was broken by the user";

fn machine() -> Machine {
    Machine::new("96M")
}

fn source() -> Vm {
    machine().boot_and_begin("ws=64M order=rand write=50")
}

/// Begins a precopy that lasts for as long as the test wants, and waits until its first pass runs.
fn begin_slowly(source: &mut Vm, destination: &mut Vm) {
    source.set(json!({"max-bandwidth": 8 * MIB}));
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("active");
    while source.ram("transferred") < MIB {
        source.guest.await_heartbeat();
    }
}

/// The guest never noticed, and it can still leave.
fn assert_free(mut source: Vm) {
    assert_eq!(source.qmp.status(), "running");
    source.guest.assert_whole();
    source.guest.await_visits(5);
    source.set(json!({"max-bandwidth": 0}));
    let mut destination = machine().receive(Transport::Unix);
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("completed");
    destination.guest.assert_whole();
    assert_eq!(destination.end_guest(), 0);
}

/// The status is `failed`, with one sentence.
fn failure(source: &mut Vm) -> String {
    source.qmp.await_migration("failed");
    let report = source.qmp.query("query-migrate");
    assert_eq!(report["status"], "failed");
    let why = report["error-desc"].as_str().unwrap_or_else(|| panic!("no reason: {report}"));
    assert!(why.len() > 10 && !why.contains('\n'), "not one sentence: {why}");
    why.to_owned()
}

/// The last line of the log, which is what the user sees.
fn last_line(vm: &Vm) -> String {
    vm.log().lines().last().unwrap_or_default().to_owned()
}

#[test]
fn cancelled_in_a_pass() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, mut destination) = (source(), machine().receive(Transport::Tcp));
    begin_slowly(&mut source, &mut destination);
    source.qmp.query("migrate_cancel");
    source.qmp.await_migration("cancelled");
    assert_eq!(source.qmp.query("query-migrate")["status"], "cancelled");
    assert_eq!(destination.wait(), 1);
    let line = last_line(&destination);
    assert!(line.starts_with("whimbrel: the incoming migration failed: ") && line.contains("cancel"), "{line}");
    assert_free(source);
}

#[test]
fn cancelled_while_the_link_hangs() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, mut destination) = (source(), machine().receive(Transport::Tcp));
    let link = Proxy::to(&destination.address());
    source.set(json!({"max-bandwidth": 32 * MIB}));
    source.migrate(&link.address());
    source.qmp.await_migration("active");
    link.hang();
    // The buffers on the way take some more; then nothing goes.
    let mut last = u64::MAX;
    while source.ram("transferred") != last {
        last = source.ram("transferred");
        source.guest.await_visits(1);
        (0..20).for_each(|_| _ = source.guest.next_record());
    }
    source.qmp.query("migrate_cancel");
    source.qmp.await_migration("cancelled");
    link.cut();
    assert_eq!(destination.wait(), 1);
    assert_free(source);
}

/// A precopy on a link that hangs is given up from either side, and fails: nobody had asked for a
/// cancel.
#[test]
fn yanked_while_the_link_hangs() {
    if !host::has_kvm() {
        return;
    }
    let (mut source, mut destination) = (source(), machine().receive(Transport::Tcp));
    assert_eq!(source.qmp.query("query-yank"), json!([]));
    // It waits, but has no link yet.
    assert_eq!(destination.qmp.query("query-yank"), json!([]));
    let link = Proxy::to(&destination.address());
    source.set(json!({"max-bandwidth": 8 * MIB}));
    source.migrate(&link.address());
    source.qmp.await_migration("active");
    link.hang();
    let migration = json!([{"type": "migration"}]);
    assert_eq!(source.qmp.query("query-yank"), migration);
    source.qmp.run("yank", json!({ "instances": migration }));
    source.qmp.await_migration("failed");
    assert!(source.qmp.query("query-migrate")["error-desc"].as_str().unwrap().contains(BY_HAND));
    // The link hangs still: the destination learns nothing of that.
    assert_eq!(destination.qmp.query("query-yank"), migration);
    destination.qmp.run("yank", json!({ "instances": migration }));
    assert_eq!(destination.wait(), 1);
    assert!(destination.logs(BY_HAND));
    assert_free(source);
}

#[test]
fn cancelled_while_nobody_answers() {
    if !host::has_kvm() {
        return;
    }
    let mut source = source();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    source.migrate(&format!("tcp:{}", listener.local_addr().unwrap()));
    let mute = listener.accept().unwrap();
    assert_eq!(source.qmp.query("query-migrate")["status"], "setup");
    source.qmp.query("migrate_cancel");
    source.qmp.await_migration("cancelled");
    drop(mute);
    assert_free(source);
}

#[test]
fn too_late_to_cancel() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, mut destination) = (source(), machine().receive(Transport::Tcp));
    source.set(json!({"x-postcopy-after": 0, "max-postcopy-bandwidth": MIB}));
    let link = Proxy::to(&destination.address()).slow();
    source.migrate(&link.address());
    source.qmp.await_migration("postcopy-active");
    let refusal = source.qmp.refused("migrate_cancel", json!({}));
    assert!(refusal.contains("destination"), "{refusal}");
    link.hurry();
    source.set(json!({"max-postcopy-bandwidth": 0}));
    source.qmp.await_migration("completed");
    destination.guest.assert_whole();
}

#[test]
fn nothing_to_cancel() {
    if !host::has_kvm() {
        return;
    }
    let mut source = source();
    source.qmp.query("migrate_cancel");
    assert!(source.qmp.refused("migrate-start-postcopy", json!({})).contains("migrate -d"));
    source.qmp.refused("migrate-pause", json!({}));
    source.qmp.refused("migrate", json!({"uri": "tcp:127.0.0.1:1", "resume": true}));
    source.qmp.refused("migrate-recover", json!({"uri": "tcp:127.0.0.1:0"}));
    source.qmp.refused("migrate-incoming", json!({"uri": "tcp:127.0.0.1:0"}));
    assert_eq!(source.qmp.status(), "running");
}

/// A destination that differs is refused before a page moves, and both sides say in what.
fn refused(other: &Machine, words: &[&str]) {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, mut destination) = (source(), other.receive(Transport::Tcp));
    let uri = destination.address();
    source.migrate(&uri);
    let why = failure(&mut source);
    assert_eq!(destination.wait(), 1);
    let line = last_line(&destination);
    for word in words {
        assert!(why.contains(word), "'{word}' is not in the source's '{why}'");
        assert!(line.contains(word), "'{word}' is not in the destination's '{line}'");
    }
    assert_eq!(source.qmp.query("x-query-migrate-pages")["arrived"], 0);
    assert_free(source);
}

#[test]
fn other_memory_is_refused() {
    refused(&Machine::new("128M"), &["memory is 96M on the source and 128M on the destination"]);
}

#[test]
fn another_number_of_vcpus_is_refused() {
    refused(&machine().cpus(2), &["vcpus is 1 on the source and 2 on the destination"]);
}

/// `validate-uuid`: only then, and only a destination that was given one.
#[test]
fn another_identity_is_refused_where_that_is_wanted() {
    if !host::has_kvm() {
        return;
    }
    let (ours, theirs) = ("6f0ec1a4-7d53-4a3c-9a56-0d1c1f2b3a4d", "00000000-7d53-4a3c-9a56-0d1c1f2b3a4d");
    let mut source = Machine::new("32M").with(&["--uuid", ours]).boot_and_begin("ws=8M");
    assert_eq!(source.qmp.query("query-uuid"), json!({"UUID": ours}));
    source.switch("validate-uuid", true);
    let mut other = Machine::new("32M").with(&["--uuid", theirs]).receive(Transport::Unix);
    let uri = other.address();
    source.migrate(&uri);
    assert!(failure(&mut source).contains(&format!("uuid is {ours} on the source and {theirs} on the destination")));
    assert_eq!(other.wait(), 1);
    let mut same = Machine::new("32M").with(&["--uuid", ours]).receive(Transport::Unix);
    let uri = same.address();
    source.migrate(&uri);
    same.qmp.await_migration("completed");
    // Whoever does not ask is let in anywhere.
    let mut last = Machine::new("32M").with(&["--uuid", theirs]).receive(Transport::Unix);
    let uri = last.address();
    same.migrate(&uri);
    last.qmp.await_migration("completed");
    last.guest.assert_whole();
    assert_eq!(last.end_guest(), 0);
}

#[test]
fn the_destination_dies_in_a_pass() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    for transport in [Transport::Tcp, Transport::Unix] {
        let (mut source, mut destination) = (source(), machine().receive(transport));
        begin_slowly(&mut source, &mut destination);
        destination.kill();
        let why = failure(&mut source);
        assert!(why.contains("destination"), "{why}");
        assert_free(source);
    }
}

#[test]
fn the_source_dies_in_a_pass() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, mut destination) = (source(), machine().receive(Transport::Tcp));
    begin_slowly(&mut source, &mut destination);
    source.kill();
    assert_eq!(destination.wait(), 1);
    let line = last_line(&destination);
    assert!(line.contains("source"), "{line}");
}

#[test]
fn nobody_is_there() {
    if !host::has_kvm() {
        return;
    }
    let mut source = source();
    let missing = format!("unix:{}", source.path("nothing").display());
    for uri in ["tcp:127.0.0.1:1", &missing] {
        source.migrate(uri);
        let why = failure(&mut source);
        assert!(why.contains("cannot connect to the destination"), "{why}");
    }
    let refusal = source.qmp.refused("migrate", json!({"uri": "carrier-pigeon:home"}));
    assert!(refusal.contains("carrier-pigeon"), "{refusal}");
    assert_free(source);
}

#[test]
fn a_destination_that_serves_something_else() {
    if !host::has_kvm() {
        return;
    }
    use std::io::Write;
    let mut source = source();
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    source.migrate(&format!("tcp:{}", stranger.local_addr().unwrap()));
    let (mut connection, _) = stranger.accept().unwrap();
    connection.write_all(b"220 mail.example ESMTP ready, and quite a few more words of greeting\r\n").unwrap();
    let why = failure(&mut source);
    assert!(why.contains("destination"), "{why}");
    assert_free(source);
}

#[test]
fn a_stranger_at_the_destination_does_no_harm() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    use std::io::{Read, Write};
    let (mut source, mut destination) = (source(), machine().receive(Transport::Tcp));
    let uri = destination.address();
    let mut stranger = std::net::TcpStream::connect(uri.strip_prefix("tcp:").unwrap()).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: example\r\nAccept: */*\r\nUser-Agent: a stranger\r\n\r\n").unwrap();
    // It is turned away; that may cut off what was on its way to it.
    let _ = stranger.read_to_end(&mut Vec::new());
    source.migrate(&uri);
    source.qmp.await_migration("completed");
    destination.guest.assert_whole();
}
