//! Streams that go both ways: commands at both ends carry whatever a socket does, and can be given
//! anew when they broke.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::{Machine, Vm, host};

/// Writes all over its memory as fast as it can.
const HOT: &str = "ws=16M order=rand write=50";

/// The commands of both ends, joined by a socket in `dir`; the destination's notes its number
/// there.
struct Commands {
    source: String,
    destination: String,
    pid: std::path::PathBuf,
}

fn commands(dir: &Path, name: &str) -> Commands {
    let (socket, pid) = (dir.join(name), dir.join(format!("{name}.pid")));
    Commands {
        source: format!("exec:socat - UNIX-CONNECT:{},retry=200,interval=0.05", socket.display()),
        destination: format!("exec:echo $$ > {}; exec socat UNIX-LISTEN:{} -", pid.display(), socket.display()),
        pid,
    }
}

fn pair(machine: &Machine, workload: &str, commands: &Commands) -> (Vm, Vm) {
    let source = machine.boot_and_begin(workload);
    let destination = machine.start("destination", true, |_| vec!["--incoming".into(), commands.destination.clone()]);
    (source, destination)
}

fn ends_well(mut source: Vm, mut destination: Vm) {
    source.qmp.await_migration("completed");
    destination.qmp.await_migration("completed");
    assert_eq!(source.qmp.status(), "postmigrate");
    destination.guest.assert_whole();
    assert_eq!(destination.end_guest(), 0);
}

#[test]
fn commands_that_answer_carry_every_mode() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    for (policy, compression, capability) in [
        ("manual", "none", "xbzrle"),
        ("after-passes=0", "none", "release-ram"),
        ("after-passes=1", "zstd", "auto-converge"),
        ("after-passes=1", "none", "events"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let commands = commands(dir.path(), "one");
        let (mut source, mut destination) = pair(&Machine::new("48M"), HOT, &commands);
        source.set(json!({"postcopy-policy": policy, "multifd-compression": compression}));
        source.switch(capability, true);
        source.migrate(&commands.source);
        if policy != "manual" {
            destination.qmp.await_migration("postcopy-active");
        }
        ends_well(source, destination);
    }
}

#[test]
fn a_postcopy_by_commands_that_broke_goes_on_by_others() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (commands(dir.path(), "one"), commands(dir.path(), "two"));
    // It asks for little in a second: it stays in two halves for long enough.
    let (mut source, mut destination) = pair(&Machine::new("64M"), "ws=16M order=rand write=50 rate=200", &first);
    source.set(json!({"postcopy-policy": "after-passes=0", "max-postcopy-bandwidth": 1 << 20}));
    source.migrate(&first.source);
    destination.qmp.await_migration("postcopy-active");
    let pid = std::fs::read_to_string(&first.pid).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    source.qmp.await_migration("postcopy-paused");
    destination.qmp.await_migration("postcopy-paused");
    // A file answers nobody, a command that only reads neither.
    for vain in ["file:/dev/null", "exec:cat > /dev/null"] {
        let refused = source.qmp.execute("migrate", json!({"uri": vain, "resume": true})).is_err();
        assert_eq!(refused, vain.starts_with("file:"), "{vain}");
    }
    source.set(json!({"max-postcopy-bandwidth": 0}));
    source.qmp.await_migration("postcopy-paused");
    destination.qmp.run("migrate-recover", json!({"uri": second.destination}));
    source.qmp.run("migrate", json!({"uri": second.source, "resume": true}));
    ends_well(source, destination);
}

#[test]
fn where_nobody_answers_it_is_a_precopy_and_postcopy_is_refused() {
    if !host::has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("stream").display().to_string();
    let mut source = Machine::new("48M").boot_and_begin(HOT);
    // Whoever reads it later may want one page of it.
    source.set(json!({"multifd-compression": "zlib"}));
    source.migrate("exec:cat > /dev/null");
    source.qmp.await_migration("failed");
    let error = source.qmp.query("query-migrate")["error-desc"].as_str().unwrap().to_owned();
    assert!(error.contains("set parameter multifd-compression to none"), "{error}");
    source.set(json!({"multifd-compression": "none"}));
    // Its output is this machine's input, where the stream itself, of all things, comes back.
    source.migrate(&format!("exec:tee {file}"));
    source.qmp.await_migration("completed");
    source.kill();
    let mut destination =
        Machine::new("48M").start("destination", true, |_| vec!["--incoming".into(), format!("exec:cat {file}")]);
    destination.qmp.await_migration("completed");
    destination.guest.assert_whole();
    assert_eq!(destination.end_guest(), 0);
}
