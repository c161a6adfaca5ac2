//! The destination's host runs out of something: memory, address space, a disk, room.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::case::Mode;
use super::journey::{Journey, Stand};
use crate::support::skip::skip;
use crate::support::vm::Wrapper;
use crate::support::{LIMIT, Machine, Transport, Vm, host};

const WORKLOAD: &str = "ws=48M order=rand write=50";

/// The one sentence that a process that failed says in the end.
fn last_line(vm: &Vm) -> String {
    vm.log().lines().last().unwrap_or_default().to_owned()
}

/// A control group with a limit of memory, and what else takes of it.
struct MemoryGroup {
    path: PathBuf,
    hog: Option<Child>,
}

impl MemoryGroup {
    /// With Linux's control groups of version 2 or 1, whichever can be written to.
    fn new(limit: u64) -> Option<Self> {
        let name = format!("whimbrel-test-{}", std::process::id());
        let both = [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];
        both.into_iter().find_map(|(root, file)| {
            let path = Path::new(root).join(&name);
            // Where version 1 is in use this may be an ordinary directory, in which nothing is
            // limited.
            let is_group = Path::new(root).join("cgroup.procs").exists();
            if !is_group || fs::create_dir(&path).is_err() {
                return None;
            }
            let group = Self { path, hog: None };
            let mut limits = fs::File::options().write(true).open(group.path.join(file)).ok()?;
            limits.write_all(limit.to_string().as_bytes()).ok()?;
            Some(group)
        })
    }

    /// What a shell does to be in it.
    fn joining(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.path.display())
    }

    /// Lets somebody else take all that is left, and more.
    fn fill(&mut self) {
        // The line never ends, and is kept. What goes wrong must not fill the host.
        let script = format!("{} && ulimit -v 1000000 && exec tail /dev/zero", self.joining());
        self.hog = Some(Command::new("sh").args(["-c", &script]).stdout(Stdio::null()).spawn().unwrap());
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        if let Some(hog) = &mut self.hog {
            let _ = hog.kill();
            let _ = hog.wait();
        }
        let _ = fs::remove_dir(&self.path);
    }
}

/// The kernel kills the destination in a pass, because its control group is out of memory.
#[test]
fn the_destination_is_killed_for_memory() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let Some(mut group) = MemoryGroup::new(160 << 20) else {
        return skip(
            "no control group for memory can be made here: run as root where /sys/fs/cgroup can be written to",
        );
    };
    let machine = Machine::new("96M");
    let source = machine.boot_and_begin(WORKLOAD);
    // The kernel takes whom it is told to prefer.
    let limited = machine.after(&format!("{} && echo 1000 > /proc/self/oom_score_adj", group.joining()));
    let mut journey = Journey::prepare(limited, source, None);
    journey.source.set(json!({"max-bandwidth": 4 << 20}));
    journey.begin(Mode::Precopy, false);
    journey.source.qmp.await_migration("active");
    group.fill();
    assert!(journey.destination.ends_within(LIMIT), "the kernel kills nobody");
    journey.link.cut();
    assert_eq!(journey.settle(true), Stand::Source);
    drop(group);
    journey.machine = Machine::new("96M");
    journey.replace_destination();
    assert_eq!(journey.end(Stand::Source), Stand::Source);
}

/// Says why in one sentence, and ends with 1.
#[test]
fn too_little_address_space() {
    if !host::has_kvm() {
        return;
    }
    let script = "ulimit -v 200000 && exec \"$0\" run --memory 512M --serial null --incoming tcp:127.0.0.1:0";
    let output = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_whimbrel")]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with("whimbrel: ") && last.contains("memory"), "{text}");
    assert!(!text.contains("panicked"), "{text}");
}

/// An image of 1 MiB, and the option for it.
fn image(dir: &Path, name: &str) -> (PathBuf, String) {
    let path = dir.join(name);
    fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let option = format!("path={},format=raw", path.display());
    (path, option)
}

/// The same as qcow2; none, and the calling test is skipped, where nothing can make one.
fn qcow2(dir: &Path, name: &str) -> Option<(PathBuf, String)> {
    let path = dir.join(name);
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("1M").status();
    if !made.is_ok_and(|status| status.success()) {
        skip("qemu-img cannot make an image: install qemu-utils");
        return None;
    }
    let option = format!("path={},format=qcow2", path.display());
    Some((path, option))
}

/// A second machine with the image: whether it was refused because somebody has it.
fn is_locked(option: &str) -> bool {
    let arguments =
        ["run", "--paused", "--memory", "32M", "--serial", "null", "--kernel", "builtin:test", "--disk", option];
    let mut child = Command::new(env!("CARGO_BIN_EXE_whimbrel"))
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = crate::support::transcript::Transcript::of(child.stderr.take().unwrap());
    let refused = log.wait_for(crate::support::LIMIT, |said| said.ended.then_some(()));
    let _ = child.kill();
    let _ = child.wait();
    refused.is_some() && log.text().contains("another process")
}

/// The destination cannot have the disk when the state comes: `spoil` sees to that once it waits.
fn without_the_disk(words: &[&str], spoil: impl Fn(&Path) -> Option<Vm>) {
    without_an_image(|dir, name| Some(image(dir, name)), words, spoil);
}

fn without_an_image(
    image: impl Fn(&Path, &str) -> Option<(PathBuf, String)>,
    words: &[&str],
    spoil: impl Fn(&Path) -> Option<Vm>,
) {
    if !host::has_kvm_and_uffd() {
        return;
    }
    for mode in Mode::ALL {
        let dir = tempfile::tempdir().unwrap();
        let Some((_, mine)) = image(dir.path(), "source.img") else { return };
        let Some((theirs, other)) = image(dir.path(), "destination.img") else { return };
        let source = Machine::new("64M").with(&["--disk", &mine]).boot_and_begin(WORKLOAD);
        let machine = Machine::new("64M").with(&["--disk", &other]);
        let mut journey = Journey::prepare(machine, source, None);
        let spoiler = spoil(&theirs);
        journey.begin(mode, false);
        assert_eq!(journey.settle(true), Stand::Source);
        let why = journey.source.qmp.query("query-migrate")["error-desc"].to_string();
        assert_eq!(journey.destination.wait(), 1);
        let line = last_line(&journey.destination);
        for word in words {
            assert!(why.contains(word) && line.contains(word), "'{word}' is not in '{why}' and '{line}'");
        }
        assert_eq!(journey.source.qmp.status(), "running");
        assert!(is_locked(&mine), "the source has not taken its disk back");
        drop(spoiler);
        // With a disk that it can have, the guest leaves.
        journey.machine = Machine::new("64M").with(&["--disk", &mine]);
        journey.replace_destination();
        assert_eq!(journey.end(Stand::Source), Stand::Source);
    }
}

#[test]
fn the_disk_vanishes_from_the_destination() {
    without_the_disk(&["destination.img", "No such file"], |path| {
        fs::remove_file(path).unwrap();
        None
    });
}

#[test]
fn the_disk_of_the_destination_becomes_something_else() {
    without_the_disk(&["destination.img"], |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
        None
    });
}

#[test]
fn the_disk_of_the_destination_is_in_use() {
    without_the_disk(&["destination.img", "another process"], |path| {
        let option = format!("path={},format=raw", path.display());
        Some(Machine::new("32M").with(&["--disk", &option, "--paused"]).boot("ws=8M"))
    });
}

#[test]
fn the_qcow2_image_vanishes_from_the_destination() {
    without_an_image(qcow2, &["destination.img", "No such file"], |path| {
        fs::remove_file(path).unwrap();
        None
    });
}

/// Cut short, as by a copy that found no room.
#[test]
fn the_qcow2_image_of_the_destination_is_cut_short() {
    without_an_image(qcow2, &["destination.img"], |path| {
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(64).unwrap();
        None
    });
}

#[test]
fn the_qcow2_image_of_the_destination_is_in_use() {
    without_an_image(qcow2, &["destination.img", "another process"], |path| {
        let option = format!("path={},format=qcow2", path.display());
        Some(Machine::new("32M").with(&["--disk", &option, "--paused"]).boot("ws=8M"))
    });
}

/// Whether somebody here can have mounts of his own; if not, the calling test is reported as
/// skipped.
fn has_mount_namespaces() -> bool {
    let can = Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success());
    if !can {
        skip("a mount namespace cannot be made here: run as root");
    }
    can
}

/// A destination whose image can be opened and not grow: a guest that does not write to it moves
/// all the same.
#[test]
fn no_room_for_a_qcow2_image_to_grow() {
    if !host::has_kvm_and_uffd() || !has_mount_namespaces() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some((_, mine)) = qcow2(dir.path(), "source.img") else { return };
    let Some((theirs, _)) = qcow2(dir.path(), "destination.img") else { return };
    let place = dir.path().join("full");
    fs::create_dir(&place).unwrap();
    // What is left of it is filled, and that must fail for want of room.
    let full = place.display();
    let script = format!(
        "mount -t tmpfs -o size=1m none {full} && cp {} {full}/disk && ! cp /dev/zero {full}/rest 2>/dev/null && exec \"$0\" \"$@\"",
        theirs.display()
    );
    let wrapper = Wrapper {
        words: ["unshare", "-m", "sh", "-c", &script].map(str::to_owned).to_vec(),
        program: env!("CARGO_BIN_EXE_whimbrel").into(),
        owner: nix::unistd::getuid().as_raw(),
    };
    let other = format!("path={full}/disk,format=qcow2");
    for mode in Mode::ALL {
        let source = Machine::new("64M").with(&["--disk", &mine]).boot_and_begin(WORKLOAD);
        let machine = Machine::new("64M").with(&["--disk", &other]).wrapped(Some(wrapper.clone()));
        let mut journey = Journey::prepare(machine, source, None);
        journey.begin(mode, false);
        let stand = journey.settle(true);
        assert_eq!(journey.end(stand), Stand::Destination);
    }
}

/// It does not start, and says which.
#[test]
fn a_disk_that_is_missing_from_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let option = format!("path={},format=raw", dir.path().join("nothing.img").display());
    let arguments = ["run", "--memory", "32M", "--serial", "null", "--disk", &option, "--incoming", "tcp:127.0.0.1:0"];
    let (code, text) = crate::support::vm::whimbrel(&arguments);
    assert_eq!(code, 1, "{text}");
    assert!(text.lines().last().is_some_and(|line| line.contains("nothing.img")), "{text}");
}

/// What may not grow further is like a full disk, and no reason to die by a signal.
#[test]
fn a_limit_to_the_size_of_files() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let script =
        format!("ulimit -f 0 && exec \"$0\" run --memory 32M --serial null --kernel /nowhere 2>{}", log.display());
    let status = Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_whimbrel")]).status().unwrap();
    assert_eq!(status.code(), Some(1), "{status}");
}

/// A full disk under the socket of the destination: it does not start.
#[test]
fn no_room_for_a_socket() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().display();
    // One inode is the root's: a socket needs another.
    let script = format!(
        "mount -t tmpfs -o size=64k,nr_inodes=1 none {place} && exec \"$0\" run --memory 32M --serial null --incoming unix:{place}/in"
    );
    if !has_mount_namespaces() {
        return;
    }
    let output =
        Command::new("unshare").args(["-m", "sh", "-c", &script, env!("CARGO_BIN_EXE_whimbrel")]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with("whimbrel: ") && last.contains("No space left"), "{text}");
}

/// The log cannot be written: the guest moves, and a process that fails still says so by its exit
/// code.
#[test]
fn no_room_for_the_log() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    // The pipe stays open: its end would be the process's.
    let machine = Machine::new("32M").after("exec 9>&2 2>/dev/full");
    for mode in Mode::ALL {
        let source = machine.boot_and_begin("ws=16M order=rand write=50");
        let mut journey = Journey::prepare(machine.clone(), source, None);
        journey.begin(mode, false);
        let stand = journey.settle(true);
        assert_eq!(journey.end(stand), Stand::Destination);
    }
    let mut source = machine.boot_and_begin("ws=16M");
    let mut destination = Machine::new("64M").after("exec 9>&2 2>/dev/full").receive(Transport::Tcp);
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("failed");
    assert_eq!(destination.wait(), 1);
    source.guest.assert_whole();
}
