//! Pages go as what has changed of them, compressed, or with their zeros unseen; what arrives is
//! the guest.

use serde_json::{Value, json};

use crate::support::{Machine, Transport, Vm, host};

const MIB: u64 = 1 << 20;
/// Slow enough that what goes over it counts.
const LIMIT: u64 = 32 * MIB;

fn arrives(source: &mut Vm, destination: &mut Vm) {
    source.qmp.await_migration("completed");
    destination.qmp.await_migration("completed");
    destination.guest.assert_whole();
    assert_eq!(destination.end_guest(), 0, "the guest saw errors");
}

/// Moves a guest that changes a few bytes of a page at a time, and more pages of them than the link
/// could take whole; by so many passes and then postcopy, or by precopy.
fn changes_move(passes: i32) {
    let machine = Machine::new("64M");
    let (mut source, mut destination) =
        (machine.boot_and_begin("ws=32M order=rand write=100 rate=40000"), machine.receive(Transport::Tcp));
    source.switch("xbzrle", true);
    // What a guest on a busy host has changed would fit any other limit, in any pass.
    source.set(json!({"max-bandwidth": LIMIT, "x-postcopy-after": passes, "downtime-limit": 0}));
    let uri = destination.address();
    source.migrate(&uri);
    if passes < 0 {
        while source.qmp.await_event("MIGRATION_PASS")["pass"].as_u64().unwrap() < 3 {}
        source.set(json!({"downtime-limit": 300}));
    }
    arrives(&mut source, &mut destination);
    let answer = source.qmp.query("query-migrate");
    let cache = &answer["xbzrle-cache"];
    let count = |name: &str| cache[name].as_u64().unwrap();
    assert_eq!(count("cache-size"), 64 * MIB);
    assert!(count("pages") > 500, "{answer}");
    // Three words of a page.
    assert!(count("bytes") < count("pages") * 400, "{answer}");
    assert_eq!(answer["ram"]["postcopy-bytes"].as_u64().unwrap() > 0, passes >= 0, "{answer}");
    let shown = source.qmp.run("human-monitor-command", json!({"command-line": "info migrate -a"}));
    assert!(shown.as_str().unwrap().contains("XBZRLE: size=67108864, transferred="), "{shown}");
}

#[test]
fn xbzrle_sends_what_has_changed_and_converges_by_it() {
    if host::has_kvm_and_uffd() {
        changes_move(-1);
    }
}

#[test]
fn xbzrle_before_a_postcopy() {
    if host::has_kvm_and_uffd() {
        changes_move(3);
    }
}

#[test]
fn the_cache_of_xbzrle_changes_its_size_on_the_way() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("64M");
    let (mut source, mut destination) =
        (machine.boot_and_begin("ws=16M order=rand write=100 rate=20000"), machine.receive(Transport::Unix));
    source.switch("xbzrle", true);
    source.set(json!({"max-bandwidth": 8 * MIB, "downtime-limit": 0, "xbzrle-cache-size": MIB}));
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("active");
    for refused in [json!({"zero-page-detection": "none"}), json!({"multifd-zlib-level": 2})] {
        source.qmp.refused("migrate-set-parameters", refused);
    }
    let refusal = source.qmp.refused("migrate-set-parameters", json!({"xbzrle-cache-size": 3 * MIB}));
    assert_eq!(refusal, "Parameter 'xbzrle-cache-size' expects a power of two no less than the target page size");
    source.set(json!({"xbzrle-cache-size": 32 * MIB, "max-bandwidth": LIMIT, "downtime-limit": 300}));
    arrives(&mut source, &mut destination);
    assert_eq!(source.qmp.query("query-migrate")["xbzrle-cache"]["cache-size"], 32 * MIB);
}

/// Moves a guest whose pages can be compressed; what went for RAM, in bytes.
fn moved_compressed(compression: &str, passes: i32) -> Value {
    let machine = Machine::new("64M");
    let (mut source, mut destination) =
        (machine.boot_and_begin("ws=32M order=rand write=50 rate=500 bits=8"), machine.receive(Transport::Tcp));
    source.set(json!({"multifd-compression": compression, "x-postcopy-after": passes}));
    let uri = destination.address();
    source.migrate(&uri);
    arrives(&mut source, &mut destination);
    source.qmp.query("query-migrate")["ram"].take()
}

#[test]
fn pages_go_compressed_in_every_mode() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    for (compression, passes) in [("zlib", -1), ("zstd", -1), ("zstd", 1), ("zlib", 0), ("zstd", 0)] {
        let ram = moved_compressed(compression, passes);
        let bytes = ram["transferred"].as_u64().unwrap();
        assert!(bytes < 16 * MIB && ram["normal"].as_u64().unwrap() >= 8000, "{compression} {passes}: {ram}");
    }
}

#[test]
fn zero_pages_go_whole_if_nobody_looks() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    for (detection, seen) in [("none", false), ("legacy", true), ("multifd", true)] {
        let machine = Machine::new("64M");
        let (mut source, mut destination) =
            (machine.boot_and_begin("ws=8M rate=200"), machine.receive(Transport::Unix));
        source.set(json!({"zero-page-detection": detection}));
        let capabilities = source.qmp.query("query-migrate-capabilities");
        let other_name = json!({"capability": "zero-blocks", "state": seen});
        assert!(capabilities.as_array().unwrap().contains(&other_name), "{capabilities}");
        let uri = destination.address();
        source.migrate(&uri);
        arrives(&mut source, &mut destination);
        let zeros = source.ram("duplicate");
        assert!(if seen { zeros > 10_000 } else { zeros == 0 }, "{detection}: {zeros} zero pages");
    }
}

#[test]
fn what_does_not_go_together_is_refused_and_two_names_are_one_thing() {
    if !host::has_kvm() {
        return;
    }
    let mut vm = Machine::new("32M").boot_and_begin("ws=1M rate=10");
    let switched = |capability: &str, on: bool| json!({"capabilities": [{"capability": capability, "state": on}]});
    vm.set(json!({"multifd-compression": "zstd"}));
    let refusal = vm.qmp.refused("migrate-set-capabilities", switched("xbzrle", true));
    assert!(refusal.starts_with("xbzrle and multifd-compression exclude each other: "), "{refusal}");
    let refusal = vm.qmp.refused("migrate-set-capabilities", switched("multifd", false));
    assert!(refusal.starts_with("multifd-compression needs multifd: "), "{refusal}");
    let file = vm.path("guest");
    let refusal = vm.qmp.refused("migrate", json!({"uri": format!("file:{}", file.display())}));
    assert!(refusal.contains("exclude each other: its pages are read one by one"), "{refusal}");
    vm.set(json!({"multifd-compression": "none"}));
    vm.switch("xbzrle", true);
    let refusal = vm.qmp.refused("migrate", json!({"uri": format!("file:{}", file.display())}));
    assert!(refusal.contains("of changes no page can be read alone"), "{refusal}");
    vm.switch("zero-blocks", false);
    assert_eq!(vm.qmp.query("query-migrate-parameters")["zero-page-detection"], "none");
    vm.switch("zero-blocks", true);
    assert_eq!(vm.qmp.query("query-migrate-parameters")["zero-page-detection"], "multifd");
}
