//! Guests move over TLS, and are not let in without the right certificates.

use serde_json::json;

use crate::support::{Machine, Transport, Vm, host};

#[path = "../../postcopy/tests/common/certificates.rs"]
pub mod certificates;

use certificates::{Authority, Directory, Wanted};

const HOT: &str = "ws=64M order=rand write=50";

fn machine(directory: &Directory) -> Machine {
    Machine::new("96M").with(&["--tls-dir", directory.path().to_str().unwrap()])
}

/// The guest has arrived whole and goes on.
fn arrived(mut source: Vm, mut destination: Vm) {
    source.qmp.await_migration("completed");
    destination.qmp.await_migration("completed");
    destination.guest.assert_whole();
    destination.guest.await_visits(5);
    assert_eq!(source.quit(), 0);
    assert_eq!(destination.end_guest(), 0);
}

#[test]
fn every_mode_and_transport() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let directory = Directory::complete(&Authority::new());
    for (passes, transport) in [(-1, Transport::Tcp), (0, Transport::Tcp), (1, Transport::Tcp), (0, Transport::Unix)] {
        println!("passes {passes} {transport:?}");
        let mut source = machine(&directory).boot_and_begin(HOT);
        let mut destination = machine(&directory).receive(transport);
        source.set(json!({"x-postcopy-after": passes}));
        if let Transport::Unix = transport {
            let refusal = source.qmp.refused("migrate", json!({"uri": destination.address()}));
            assert!(refusal.contains("a unix: address names no host"), "{refusal}");
            source.set(json!({"tls-hostname": "localhost"}));
        }
        source.migrate(&destination.address());
        arrived(source, destination);
    }
}

#[test]
fn a_postcopy_is_joined_again_with_new_certificates() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (first, second) = (Directory::complete(&Authority::new()), Directory::complete(&Authority::new()));
    // It writes for the two seconds of a pass, and afterwards asks for little of that in a second.
    let mut source = machine(&first).boot_and_begin("ws=64M order=rand write=100 rate=2000");
    let mut destination = machine(&first).receive(Transport::Tcp);
    source.set(json!({"max-bandwidth": 32 << 20, "max-postcopy-bandwidth": 1 << 20, "x-postcopy-after": 1}));
    source.migrate(&destination.address());
    source.qmp.await_migration("postcopy-active");
    destination.qmp.await_migration("postcopy-active");
    let other = json!({"tls-creds": second.path()});
    source.qmp.refused("migrate-set-parameters", other.clone());
    source.qmp.query("migrate-pause");
    for vm in [&mut source, &mut destination] {
        vm.qmp.await_migration("postcopy-paused");
        vm.set(other.clone());
    }
    destination.qmp.run("migrate-recover", json!({"uri": "tcp:127.0.0.1:0"}));
    let uri = destination.address();
    // Not without them, also not in the clear: it stays paused on both sides.
    source.set(json!({"tls-creds": ""}));
    source.qmp.run("migrate", json!({"uri": uri, "resume": true}));
    source.qmp.await_migration("postcopy-recover-setup");
    source.qmp.await_migration("postcopy-paused");
    let why = source.qmp.query("query-migrate")["error-desc"].to_string();
    assert!(why.contains("the source does not use TLS and the destination does"), "{why}");
    source.set(other);
    source.qmp.run("migrate", json!({"uri": uri, "resume": true}));
    source.set(json!({"max-postcopy-bandwidth": 0}));
    arrived(source, destination);
}

/// Why the guest stays.
fn failure(source: &mut Vm, destination: &mut Vm) -> String {
    source.migrate(&destination.address());
    source.qmp.await_migration("failed");
    assert_eq!(source.qmp.status(), "running");
    source.qmp.query("query-migrate")["error-desc"].as_str().unwrap().to_owned()
}

#[test]
fn who_is_not_let_in_reads_why_on_both_sides() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (authority, other) = (Authority::new(), Authority::new());
    let here = Directory::complete(&authority);
    here.revoke(&authority, 99);
    let mut source = machine(&here).boot_and_begin(HOT);
    let mut destination = machine(&here).receive(Transport::Tcp);
    let client = |wanted: Wanted| {
        let directory = Directory::complete(&authority);
        directory.put("client", &authority, &Wanted { client: true, ..wanted });
        directory
    };
    let stranger = Directory::complete(&other);
    let expired = client(Wanted { years: (2019, 2020), ..Wanted::default() });
    let early = client(Wanted { years: (2099, 2100), ..Wanted::default() });
    let revoked = client(Wanted { serial: 99, ..Wanted::default() });
    let cases = [
        (
            json!({"tls-creds": ""}),
            "refused: the source does not use TLS and the destination does; set 'tls-creds' on both sides",
            "the source does not use TLS and the destination does; set 'tls-creds'",
        ),
        (
            json!({"tls-creds": stranger.path()}),
            "the destination's certificate is not signed by the authority in this side's ca-cert.pem; use one authority",
            "the source refused this side's certificate, server-cert.pem: it is not signed by the authority",
        ),
        (
            json!({"tls-creds": expired.path()}),
            "the destination refused this side's certificate, client-cert.pem: it has expired or is not valid yet there",
            "the source's certificate has expired; renew client-cert.pem there",
        ),
        (
            json!({"tls-creds": early.path()}),
            "the destination refused this side's certificate, client-cert.pem: it has expired or is not valid yet there",
            "the source's certificate is not valid yet; check the clocks of both hosts",
        ),
        (
            json!({"tls-creds": revoked.path()}),
            "the destination refused this side's certificate, client-cert.pem: it has been revoked",
            "the source's certificate has been revoked by this side's ca-crl.pem",
        ),
        (
            json!({"tls-creds": here.path(), "tls-hostname": "example.org"}),
            "the destination's certificate is not for 'example.org' (the names in it: 127.0.0.1, localhost); set 'tls-",
            "the source refused this side's certificate, server-cert.pem: the name that the source looks for is not in it",
        ),
    ];
    for (parameters, told, log) in cases {
        source.set(parameters);
        let why = failure(&mut source, &mut destination);
        assert!(why.contains(told), "{why}");
        // It was written before the source heard of it, or will be soon.
        let line = format!("a connection was turned away: {log}");
        assert!(destination.logs(&line), "{line} is not in\n{}", destination.log());
    }

    let empty = Directory::new();
    source.set(json!({"tls-creds": empty.path(), "tls-hostname": ""}));
    let refusal = source.qmp.refused("migrate", json!({"uri": destination.address()}));
    let told = format!("TLS is not possible: cannot read '{}/ca-cert.pem'", empty.path().display());
    assert!(refusal.starts_with(&told) && refusal.contains("No such file"), "{refusal}");
    source.qmp.refused("migrate-set-parameters", json!({"tls-creds": "somewhere"}));
    source.qmp.refused("migrate-set-parameters", json!({"tls-authz": "x"}));

    source.set(json!({"tls-creds": here.path()}));
    source.migrate(&destination.address());
    arrived(source, destination);
}

#[test]
fn a_destination_in_the_clear_gets_nothing_that_was_to_be_encrypted() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let directory = Directory::complete(&Authority::new());
    let mut source = machine(&directory).boot_and_begin(HOT);
    let mut destination = Machine::new("96M").receive(Transport::Tcp);
    let why = failure(&mut source, &mut destination);
    assert!(why.contains("the destination does not use TLS and the source does; set 'tls-creds' on both"), "{why}");
    assert!(destination.logs("turned away: the channel was not opened: the source uses TLS and the destination does"));
    source.set(json!({"tls-creds": ""}));
    source.migrate(&destination.address());
    arrived(source, destination);
}
