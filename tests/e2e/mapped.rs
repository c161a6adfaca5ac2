//! Guests in files with mapped RAM: written while they work, for several passes, and read in order,
//! on demand, past the host's page cache.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde_json::json;

use crate::support::{Machine, Vm, host, skip};

const MIB: u64 = 1 << 20;
const MEMORY: u64 = 96 * MIB;
const WORKLOAD: &str = "ws=48M order=rand write=50";

fn machine() -> Machine {
    Machine::new("96M")
}

/// A guest that writes faster than it is sent leaves for a file.
fn leaves(uri: &str, direct: bool) {
    let mut source = machine().boot_and_begin(WORKLOAD);
    source.switch("mapped-ram", true);
    source.set(json!({"direct-io": direct, "max-bandwidth": 64 * MIB, "downtime-limit": 1}));
    source.migrate(uri);
    // All that it has, and whatever it wrote meanwhile, however busy the host is.
    source.qmp.await_event("MIGRATION_PASS");
    source.set(json!({"max-bandwidth": 0, "downtime-limit": 2000}));
    source.qmp.await_migration("completed");
    assert_eq!(source.qmp.status(), "postmigrate");
    assert!(source.ram("normal-bytes") > 50 * MIB, "one pass would have done");
}

fn runs(mut vm: Vm) {
    vm.qmp.await_migration("completed");
    vm.guest.assert_whole();
    assert_eq!(vm.end_guest(), 0);
}

#[test]
fn a_hot_guest_s_file_is_no_longer_than_its_memory_and_is_read_both_ways() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest").display().to_string();
    leaves(&format!("file:{path}"), false);
    let (length, sparse) = fs::metadata(&path).map(|it| (it.len(), it.blocks() * 512)).unwrap();
    assert!(length < MEMORY + 4 * MIB, "{length} bytes");
    assert!(sparse < 60 * MIB, "{sparse} bytes of 48M that were ever written");
    for lazy in [None, Some("--lazy")] {
        let arguments = || lazy.map(str::to_owned).into_iter().collect();
        runs(machine().restoring(&path).start("destination", true, |_| arguments()));
    }
    // Whoever has the capability on reads it, too.
    let mut waiting = machine().start("destination", true, |_| ["--incoming", "defer"].map(str::to_owned).to_vec());
    waiting.switch("mapped-ram", true);
    waiting.qmp.run("migrate-incoming", json!({"uri": format!("file:{path},lazy=on")}));
    runs(waiting);
    // A file that was cut, however little, is refused before anything runs.
    File::options().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
    let mut waiting = machine().start("destination", true, |_| ["--incoming", "defer"].map(str::to_owned).to_vec());
    for uri in [format!("file:{path}"), format!("file:{path},lazy=on")] {
        let refusal = waiting.qmp.refused("migrate-incoming", json!({"uri": uri}));
        assert!(refusal.contains("it was cut"), "{refusal}");
    }
    assert_eq!(waiting.qmp.status(), "inmigrate");
}

#[test]
fn a_guest_goes_past_the_page_cache_into_the_midst_of_a_file() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest");
    let file = File::create(&path).unwrap();
    file.write_all_at(b"a header", 0).unwrap();
    if fcntl(&file, FcntlArg::F_SETFL(OFlag::O_DIRECT)).is_err() {
        return skip::skip("the file system of temporary files does not do direct I/O");
    }
    let uri = format!("file:{},offset=0x1000", path.display());
    leaves(&uri, true);
    assert!(fs::read(&path).unwrap().starts_with(b"a header"));
    let wait = || machine().start("destination", true, |_| ["--incoming", "defer"].map(str::to_owned).to_vec());
    let mut waiting = wait();
    assert!(waiting.qmp.refused("migrate-set-parameters", json!({"direct-io": true})).contains("needs mapped-ram"));
    waiting.switch("mapped-ram", true);
    waiting.set(json!({"direct-io": true}));
    assert_eq!(waiting.qmp.query("query-migrate-parameters")["direct-io"], true);
    let refusal = waiting.qmp.refused("migrate-incoming", json!({"uri": format!("{uri},lazy=on")}));
    assert!(refusal.contains("lazy=on does not"), "{refusal}");
    waiting.qmp.run("migrate-incoming", json!({"uri": uri}));
    runs(waiting);
    runs(machine().start("destination", true, |_| vec!["--incoming".to_owned(), uri.clone()]));
}

#[test]
fn mapped_ram_is_refused_where_there_is_no_file() {
    if !host::has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest").display().to_string();
    let mut vm = machine().boot_and_begin(WORKLOAD);
    vm.switch("mapped-ram", true);
    for uri in ["tcp:127.0.0.1:1", "unix:/nobody", "exec:cat > /dev/null", "fd:3"] {
        let refusal = vm.qmp.refused("migrate", json!({"uri": uri}));
        assert!(refusal.contains("mapped-ram needs file:"), "{uri}: {refusal}");
    }
    for (uri, why) in [
        ("file:/dev/full".to_owned(), "needs a regular file"),
        (format!("file:{path},lazy=on"), "lazy=on is for reading"),
        ("file:/no/such/directory/f".to_owned(), "No such file"),
    ] {
        let refusal = vm.qmp.refused("migrate", json!({"uri": uri}));
        assert!(refusal.contains(why), "{uri}: {refusal}");
    }
    vm.set(json!({"direct-io": true}));
    // The kernel's own files do no direct I/O, and not everybody may write them.
    let refusal = vm.qmp.refused("migrate", json!({"uri": "file:/proc/self/comm"}));
    assert!(refusal.contains("direct I/O") || refusal.contains("ermission denied"), "{refusal}");
    assert!(vm.qmp.refused("migrate-start-postcopy", json!({})).contains("no migration"));
    // What a stream holds is not read directly: that would be a setting without effect.
    vm.set(json!({"direct-io": false}));
    vm.switch("mapped-ram", false);
    vm.migrate(&format!("file:{path}"));
    vm.qmp.await_migration("completed");
    let mut waiting = machine().start("destination", true, |_| ["--incoming", "defer"].map(str::to_owned).to_vec());
    waiting.switch("mapped-ram", true);
    waiting.set(json!({"direct-io": true}));
    let refusal = waiting.qmp.refused("migrate-incoming", json!({"uri": format!("file:{path}")}));
    assert!(refusal.contains("this holds a stream"), "{refusal}");
    waiting.set(json!({"direct-io": false}));
    waiting.qmp.run("migrate-incoming", json!({"uri": format!("file:{path}")}));
    runs(waiting);
}

#[test]
fn a_mapped_guest_that_stays_leaves_nothing_that_runs() {
    if !host::has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest").display().to_string();
    let mut vm = machine().boot_and_begin(WORKLOAD);
    vm.switch("mapped-ram", true);
    vm.set(json!({"max-bandwidth": 16 * MIB}));
    vm.migrate(&format!("file:{path}"));
    vm.qmp.await_migration("active");
    vm.qmp.run("migrate_cancel", json!({}));
    vm.qmp.await_migration("cancelled");
    assert_eq!(vm.qmp.status(), "running");
    let mut waiting = machine().start("destination", true, |_| ["--incoming", "defer"].map(str::to_owned).to_vec());
    let refusal = waiting.qmp.refused("migrate-incoming", json!({"uri": format!("file:{path}")}));
    assert!(refusal.contains("not written to its end"), "{refusal}");
    // The guest goes on, and can leave after all.
    vm.set(json!({"max-bandwidth": 0}));
    vm.migrate(&format!("file:{path}"));
    vm.qmp.await_migration("completed");
    waiting.qmp.run("migrate-incoming", json!({"uri": format!("file:{path}")}));
    runs(waiting);
}
