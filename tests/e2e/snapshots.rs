//! Snapshots: `savevm`, `loadvm`, `delvm` and `info snapshots`, the same for programs, and guests
//! that run while they are saved.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::monitor::Person;
use crate::support::{Machine, Transport, Vm, host};

const WORKLOAD: &str = "ws=8M order=rand write=50";

fn machine(dir: &Path) -> Machine {
    Machine::new("32M").with(&["--snapshots", dir.to_str().unwrap()])
}

/// Runs a job to its end, through QEMU's states, and forgets it; its error, if it has one.
fn job(vm: &mut Vm, command: &str, tag: &str) -> Option<String> {
    let mut arguments = json!({"job-id": "job0", "tag": tag, "devices": []});
    if command != "snapshot-delete" {
        arguments["vmstate"] = "".into();
    }
    vm.qmp.run(command, arguments);
    conclude(vm)
}

fn conclude(vm: &mut Vm) -> Option<String> {
    let mut seen = Vec::new();
    while seen.last().is_none_or(|it| it != "concluded") {
        let event = vm.qmp.await_event("JOB_STATUS_CHANGE");
        assert_eq!(event["id"], "job0");
        seen.push(event["status"].as_str().unwrap().to_owned());
    }
    let jobs = vm.qmp.query("query-jobs");
    let error = jobs[0]["error"].as_str().map(str::to_owned);
    let way = if error.is_some() { "aborting" } else { "waiting pending" };
    assert_eq!(seen.join(" "), format!("created running {way} concluded"), "{jobs}");
    vm.qmp.run("job-dismiss", json!({"id": "job0"}));
    assert_eq!(vm.qmp.await_event("JOB_STATUS_CHANGE")["status"], "null");
    assert_eq!(vm.qmp.query("query-jobs"), json!([]));
    error
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn visits(vm: &mut Vm) -> u64 {
    vm.guest.statistics()["visits"].as_u64().unwrap()
}

#[test]
fn people_save_load_list_and_delete() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut vm = machine(dir.path()).cpus(2).boot_and_begin(WORKLOAD);
    let mut person = Person::at(&vm);
    assert_eq!(person.says("info snapshots"), "There is no snapshot available.\n");
    let before = visits(&mut vm);
    assert_eq!(person.says("savevm first"), "");
    let saved = visits(&mut vm);
    assert_eq!(vm.qmp.status(), "running");
    for _ in 0..2 {
        // It goes on far beyond, and comes back: far more time passes here than until it is asked.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            vm.guest.await_heartbeat();
        }
        let gone = visits(&mut vm);
        vm.guest.jumps();
        assert_eq!(person.says("loadvm first"), "");
        let loaded = visits(&mut vm);
        assert!(before <= loaded && loaded < gone, "{before} {saved} {loaded} {gone}");
        vm.guest.assert_whole();
    }
    // One that is paused stays so, and a snapshot is replaced.
    vm.qmp.run("stop", json!({}));
    assert_eq!(person.says("savevm first"), "");
    assert_eq!(person.says("savevm"), "");
    assert_eq!(vm.qmp.status(), "paused");
    vm.guest.jumps();
    assert_eq!(person.says("loadvm first"), "");
    assert_eq!(vm.qmp.status(), "paused");
    vm.qmp.run("cont", json!({}));
    vm.guest.assert_whole();
    let list = person.says("info snapshots");
    let lines: Vec<_> = list.lines().collect();
    assert_eq!(lines[0], "List of snapshots present on all disks:");
    assert!(lines[1].starts_with("ID      TAG"), "{list}");
    assert_eq!(lines.len(), 4, "{list}");
    assert!(lines[2].contains("first ") && lines[2].contains("MiB 20") && lines[2].contains(" 0000:0"), "{list}");
    assert!(lines[3].contains(" vm-20"), "{list}");
    assert_eq!(person.says("delvm first"), "");
    assert_eq!(person.says("info snapshots").lines().count(), 3);
    assert_eq!(names(dir.path()).len(), 1);
    assert!(person.says("loadvm first").contains("Snapshot 'first' does not exist"));
    vm.guest.assert_whole();
    assert_eq!(vm.end_guest(), 0);
}

#[test]
fn programs_save_load_and_delete_by_jobs() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut vm = machine(dir.path()).boot_and_begin(WORKLOAD);
    assert_eq!(job(&mut vm, "snapshot-save", "one"), None);
    vm.guest.await_visits(5000);
    assert_eq!(names(dir.path()), ["one.whimbrel"]);
    let save = |tag: &str, id: &str| json!({"job-id": id, "tag": tag});
    for (arguments, why) in [
        (save("one", "job0"), "Snapshot 'one' already exists"),
        (save("a/b", "job0"), "'a/b' is no name for a snapshot"),
        (save(".", "job0"), "is no name for a snapshot"),
        (save("two", "1 2"), "Invalid job ID '1 2'"),
        (json!({"job-id": "job0", "tag": "two", "vmstate": "disk0", "devices": []}), "'vmstate' names 'disk0'"),
        (json!({"job-id": "job0", "tag": "two", "devices": ["disk0"]}), "'devices' names 'disk0'"),
    ] {
        let refusal = vm.qmp.refused("snapshot-save", arguments);
        assert!(refusal.contains(why), "{refusal}");
    }
    assert!(vm.qmp.refused("snapshot-load", save("two", "job0")).contains("does not exist"));
    assert_eq!(vm.qmp.refused("job-dismiss", json!({"id": "job0"})), "Job not found");
    vm.guest.jumps();
    assert_eq!(job(&mut vm, "snapshot-load", "one"), None);
    vm.guest.assert_whole();
    // It can be left by a migration, and the file run by another process.
    let path = dir.path().join("one.whimbrel").display().to_string();
    for lazily in [None, Some("--lazy")] {
        let more = |_: &Path| lazily.map(str::to_owned).into_iter().collect();
        let mut other = Machine::new("32M").restoring(&path).start("destination", true, more);
        other.await_arrived();
        other.guest.assert_whole();
        assert_eq!(other.end_guest(), 0);
    }
    vm.qmp.run("snapshot-delete", json!({"job-id": "job0", "tag": "one", "devices": []}));
    assert_eq!(conclude(&mut vm), None);
    assert_eq!(names(dir.path()), [""; 0]);
    assert_eq!(vm.end_guest(), 0);
}

#[test]
fn what_fails_leaves_the_guest_running_and_nothing_else() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Files of 4 MiB at most: a snapshot of this guest has more.
    let mut vm = machine(dir.path()).after("ulimit -f 4096").boot_and_begin(WORKLOAD);
    let error = job(&mut vm, "snapshot-save", "big").unwrap();
    assert!(error.contains("could not be written: File too large"), "{error}");
    assert_eq!(names(dir.path()), [""; 0]);
    let mut person = Person::at(&vm);
    assert!(person.says("savevm big").starts_with("Error: the stream could not be written"));
    assert!(person.says("savevm a/b").contains("is no name for a snapshot"));
    vm.guest.assert_whole();

    // Of another machine, and damaged.
    let mut other = Machine::new("48M").with(&["--snapshots", dir.path().to_str().unwrap()]).boot_and_begin("ws=4M");
    assert_eq!(job(&mut other, "snapshot-save", "other"), None);
    let file = |name: &str| dir.path().join(format!("{name}.whimbrel"));
    let bytes = fs::read(file("other")).unwrap();
    fs::write(file("cut"), &bytes[..bytes.len() / 2]).unwrap();
    fs::write(file("none"), b"something else").unwrap();
    for (tag, why) in [("other", "memory"), ("cut", "holds no guest"), ("none", "holds no guest")] {
        let error = job(&mut vm, "snapshot-load", tag).unwrap();
        assert!(error.contains(why) && error.contains(&format!("snapshot '{tag}'")), "{error}");
        assert_eq!(vm.qmp.status(), "running");
    }
    vm.guest.assert_whole();
    assert_eq!(vm.end_guest(), 0);

    fs::remove_dir_all(dir.path()).unwrap();
    let error = job(&mut other, "snapshot-save", "gone").unwrap();
    assert!(error.contains("No such file or directory"), "{error}");
    assert!(Person::at(&other).says("info snapshots").contains("cannot be listed"));
    other.guest.assert_whole();
    assert_eq!(other.end_guest(), 0);
}

#[test]
fn machines_that_share_a_directory_leave_each_others_snapshots_alone() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let named = |name: &str| machine(dir.path()).with(&["--name", name]);
    let (mut a, mut b) = (named("a").boot_and_begin(WORKLOAD), named("b").boot_and_begin(WORKLOAD));
    assert_eq!(job(&mut a, "snapshot-save", "before"), None);
    let bytes = fs::read(dir.path().join("before.whimbrel")).unwrap();
    let mut person = Person::at(&b);
    for line in ["savevm before", "loadvm before", "delvm before"] {
        let said = person.says(line);
        assert!(said.contains("snapshot 'before' is of machine 'a', not of this machine"), "{line}: {said}");
    }
    let list = person.says("info snapshots");
    assert!(list.starts_with("There is no snapshot available.\n") && list.contains("machine 'a'"), "{list}");
    for command in ["snapshot-load", "snapshot-delete"] {
        let error = job(&mut b, command, "before").unwrap();
        assert!(error.contains("is of machine 'a'"), "{error}");
    }
    assert_eq!(fs::read(dir.path().join("before.whimbrel")).unwrap(), bytes);
    assert_eq!(b.end_guest(), 0);
    // Where the machine has gone to, it finds them.
    let mut there = named("a").receive(Transport::Unix);
    let address = there.address();
    a.migrate(&address);
    there.qmp.await_migration("completed");
    there.guest.jumps();
    assert_eq!(job(&mut there, "snapshot-load", "before"), None);
    there.guest.assert_whole();
    assert_eq!(job(&mut there, "snapshot-delete", "before"), None);
    assert_eq!(there.end_guest(), 0);
    drop(a);

    // Machines without a name that are started alike: at one time only one of them is that machine.
    let (mut first, mut second) =
        (machine(dir.path()).boot_and_begin(WORKLOAD), machine(dir.path()).boot_and_begin(WORKLOAD));
    assert_eq!(job(&mut first, "snapshot-save", "mine"), None);
    let error = job(&mut second, "snapshot-load", "mine").unwrap();
    assert!(error.contains("is of another machine without a name"), "{error}");
    assert_eq!(first.end_guest(), 0);
    let mut again = machine(dir.path()).boot_and_begin(WORKLOAD);
    again.guest.jumps();
    assert_eq!(job(&mut again, "snapshot-load", "mine"), None);
    again.guest.assert_whole();
    assert!(job(&mut second, "snapshot-delete", "mine").unwrap().contains("not of this machine"));
    second.guest.assert_whole();
    assert_eq!(second.end_guest(), 0);
    // What is no snapshot, and a stream that does not say whose it is.
    fs::write(dir.path().join("text.whimbrel"), "precious").unwrap();
    nix::unistd::mkfifo(&dir.path().join("fifo.whimbrel"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(job(&mut again, "snapshot-load", "fifo").unwrap().contains("it is a FIFO"));
    for command in ["snapshot-delete", "snapshot-load"] {
        job(&mut again, command, "text").unwrap();
    }
    assert!(Person::at(&again).says("savevm text").contains("does not say of which machine it is"));
    assert_eq!(fs::read(dir.path().join("text.whimbrel")).unwrap(), b"precious");
    assert!(Person::at(&again).says("info snapshots").contains("(its file does not say)"));
    assert_eq!(again.end_guest(), 0);
}

#[test]
fn without_a_place_or_with_a_writable_disk_there_are_no_snapshots() {
    if !host::has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut vm = Machine::new("32M").boot_and_begin(WORKLOAD);
    let mut person = Person::at(&vm);
    for line in ["savevm a", "loadvm a", "delvm a", "info snapshots"] {
        let answer = person.says(line);
        assert!(answer.contains("start the machine with '--snapshots DIR'"), "{line}: {answer}");
    }
    assert_eq!(vm.end_guest(), 0);
    let image = dir.path().join("disk.img");
    fs::write(&image, vec![0; 1 << 20]).unwrap();
    let disk = format!("path={},format=raw", image.display());
    let mut vm = machine(dir.path()).with(&["--disk", &disk]).boot_and_begin(WORKLOAD);
    let refusal = vm.qmp.refused("snapshot-save", json!({"job-id": "job0", "tag": "a"}));
    assert!(refusal.contains("Device 'disk0' is writable but does not support snapshots"), "{refusal}");
    assert_eq!(vm.end_guest(), 0);
    let mut vm = machine(dir.path()).with(&["--disk", &format!("{disk},readonly")]).boot_and_begin(WORKLOAD);
    assert_eq!(job(&mut vm, "snapshot-save", "a"), None);
    vm.guest.jumps();
    assert_eq!(job(&mut vm, "snapshot-load", "a"), None);
    vm.guest.assert_whole();
    assert_eq!(vm.end_guest(), 0);
}

fn background(vm: &mut Vm) {
    let on = json!({"capabilities": [{"capability": "background-snapshot", "state": true}]});
    vm.qmp.run("migrate-set-capabilities", on);
}

/// How long the guest stood still, in milliseconds.
fn downtime(answer: &Value) -> u64 {
    answer["downtime"].as_u64().unwrap()
}

#[test]
fn a_hot_guest_runs_while_it_is_saved_and_what_is_saved_is_whole() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let plain = Machine::new("160M").cpus(2).with(&["--balloon"]);
    let machine = plain.clone().with(&["--snapshots", dir.path().to_str().unwrap()]);
    let mut vm = machine.boot_and_begin("ws=96M order=rand write=100");
    background(&mut vm);
    assert!(vm.qmp.refused("migrate", json!({"uri": "tcp:127.0.0.1:1"})).contains("background-snapshot"));
    let path = dir.path().join("stream").display().to_string();
    for uri in [format!("file:{path}"), format!("exec:cat > {path}")] {
        vm.migrate(&uri);
        vm.guest.await_visits(1000);
        vm.qmp.await_migration("completed");
        assert_eq!(vm.qmp.status(), "running");
        let _ = downtime(&vm.qmp.query("query-migrate"));
        vm.guest.assert_whole();
        let mut other = plain.clone().restoring(&path).start("destination", true, |_| Vec::new());
        other.await_arrived();
        other.guest.assert_whole();
        assert_eq!(other.end_guest(), 0);
    }
    // A snapshot by that way, and back to it.
    assert_eq!(job(&mut vm, "snapshot-save", "hot"), None);
    vm.guest.await_visits(5000);
    vm.guest.jumps();
    assert_eq!(job(&mut vm, "snapshot-load", "hot"), None);
    vm.guest.assert_whole();
    // One that nobody reads is given up, and nothing is kept from being written.
    vm.migrate("exec:sleep 60");
    vm.qmp.await_migration("active");
    vm.qmp.run("migrate_cancel", json!({}));
    vm.qmp.await_migration("cancelled");
    vm.migrate("file:/dev/full");
    vm.qmp.await_migration("failed");
    vm.guest.assert_whole();
    assert_eq!(vm.end_guest(), 0);
}

#[test]
fn shared_memory_is_not_saved_in_the_background_but_as_it_stands() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::new("32M,shared=on").with(&["--snapshots", dir.path().to_str().unwrap()]);
    let mut vm = machine.boot_and_begin(WORKLOAD);
    let on = json!({"capabilities": [{"capability": "background-snapshot", "state": true}]});
    assert!(vm.qmp.refused("migrate-set-capabilities", on).contains("is shared memory"));
    assert_eq!(job(&mut vm, "snapshot-save", "a"), None);
    vm.guest.await_visits(1000);
    vm.guest.jumps();
    assert_eq!(job(&mut vm, "snapshot-load", "a"), None);
    vm.guest.assert_whole();
    assert_eq!(vm.end_guest(), 0);
}
