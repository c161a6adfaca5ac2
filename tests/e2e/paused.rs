//! A machine that stands still moves, and stands still where it arrives.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};

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
    source.qmp.await_migration("active");
    source.qmp.query("stop");
    source.set(json!({"max-bandwidth": 0}));
    source.qmp.await_migration("completed");
    destination.qmp.await_migration("completed");
    assert_eq!(destination.qmp.status(), "paused");
    goes_on(destination);
}

/// Whoever writes the image holds this byte, by QEMU's convention.
const WRITER: i64 = 101;

fn lock(image: &File, kind: libc::c_int) -> nix::Result<()> {
    let whole = libc::flock { l_type: kind as i16, l_whence: 0, l_start: WRITER, l_len: 1, l_pid: 0 };
    fcntl(image, FcntlArg::F_OFD_SETLK(&whole)).map(drop)
}

fn open(image: &Path) -> File {
    File::options().read(true).write(true).open(image).unwrap()
}

fn has_a_writer(image: &Path) -> bool {
    lock(&open(image), libc::F_WRLCK).is_err()
}

#[test]
fn a_paused_guest_s_disk_is_nobody_s_until_it_is_started() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let disk = format!("path={},format=raw", image.display());
    for (passes, late) in [(-1, false), (-1, true), (0, true)] {
        let machine = Machine::new("64M").with(&["--disk", &disk]);
        let mut source = machine.boot_and_begin("ws=16M");
        let mut destination = machine.clone().with(&["--paused"]).receive(Transport::Unix);
        // While the source is waited for.
        destination.switch("late-block-activate", late);
        assert!(has_a_writer(&image));
        moves(&mut source, &mut destination, passes);
        assert_eq!(has_a_writer(&image), !late, "{passes}");
        assert_eq!(destination.qmp.query("query-block")[0]["inserted"]["active"], !late);
        if late {
            let other = open(&image);
            lock(&other, libc::F_RDLCK).unwrap();
            let refusal = destination.qmp.refused("cont", json!({}));
            assert!(refusal.contains("disk"), "{refusal}");
            assert_eq!(destination.qmp.status(), "paused");
        }
        goes_on(destination);
    }
}

#[test]
fn a_disk_that_cannot_be_had_late_leaves_the_guest_at_the_source() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, other) = (dir.path().join("disk"), dir.path().join("other"));
    for path in [&image, &other] {
        File::create(path).unwrap().set_len(1 << 20).unwrap();
    }
    let with = |path: &Path| Machine::new("64M").with(&["--disk", &format!("path={},format=raw", path.display())]);
    let (mut source, mut destination) = (with(&image).boot_and_begin("ws=16M"), with(&other).receive(Transport::Unix));
    destination.switch("late-block-activate", true);
    let taken = open(&other);
    lock(&taken, libc::F_RDLCK).unwrap();
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("failed");
    source.guest.await_visits(5);
    source.guest.assert_whole();
    assert_eq!(source.qmp.status(), "running");
    assert!(has_a_writer(&image));
    assert_eq!(source.end_guest(), 0);
}
