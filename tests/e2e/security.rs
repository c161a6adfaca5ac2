//! What the host is kept safe by: every thread locked in, no more rights than needed, sockets for
//! their owner only, and a word where that ends.

use std::collections::BTreeMap;
use std::fs::{read_dir, read_to_string};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;

use crate::support::skip::skip;
use crate::support::vm::Wrapper;
use crate::support::{LIMIT, Machine, Transport, Vm, host};

/// Nobody's user and group on every Linux.
const NOBODY: u32 = 65534;

/// A line of /proc/PID/task/TID/status.
fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.map(|value| value.trim().to_owned()).unwrap_or_default()
}

/// The process's own threads: name without its number, and status. The kernel's helpers among them
/// are left out.
fn threads(vm: &Vm) -> Vec<(String, String)> {
    let tasks = read_dir(format!("/proc/{}/task", vm.pid())).unwrap();
    let read = |path: &Path, file: &str| read_to_string(path.join(file)).unwrap_or_default();
    tasks
        .map(|task| task.unwrap().path())
        .map(|path| {
            (read(&path, "comm").trim_end().trim_end_matches(char::is_numeric).to_owned(), read(&path, "status"))
        })
        // One that ended meanwhile has no name.
        .filter(|(name, _)| !name.is_empty() && !name.starts_with("kvm"))
        .collect()
}

/// How many filters stand above each kind of thread: two that hold for all, and one of each thread
/// from the main one down to it.
fn filters(name: &str) -> &'static str {
    match name {
        "whimbrel" | "vcpu" | "control" | "serial" | "console" | "rng" | "balloon" | "throttle" => "3",
        "migration" | "incoming" | "snapshot" | "dirty-rate" => "4",
        "mig-demand" | "mig-fd-" | "faults" | "populate" | "in-fd-" | "snap-writes" => "5",
        other => panic!("a thread of a new kind, '{other}': give it a filter, and say here how many it has"),
    }
}

/// Which capabilities may be left in it, where it is run by root (capabilities(7)).
fn capabilities(name: &str) -> u64 {
    const FILES: u64 = 1 << 1 | 1 << 2;
    const BIND: u64 = 1 << 10;
    const NET_ADMIN: u64 = 1 << 12;
    const NICE: u64 = 1 << 23;
    match name {
        "whimbrel" => FILES | BIND | NET_ADMIN | NICE,
        "migration" | "incoming" => FILES | NET_ADMIN | NICE,
        "mig-demand" | "faults" | "snapshot" | "snap-writes" => NICE,
        "control" => FILES,
        _ => 0,
    }
}

/// What is wrong with a thread, if anything.
fn complaint(name: &str, status: &str) -> Option<String> {
    let seen = ["NoNewPrivs", "Seccomp", "Seccomp_filters", "CapBnd", "CapInh", "CapAmb"].map(|it| field(status, it));
    let [new_privileges, mode, count, bounding, inheritable, ambient] = seen.each_ref().map(String::as_str);
    let set = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let effective = set(&field(status, "CapEff")) | set(&field(status, "CapPrm"));
    let root = nix::unistd::geteuid().is_root();
    let wrong = (new_privileges, mode, count) != ("1", "2", filters(name))
        || effective & !capabilities(name) != 0
        || set(inheritable) != 0
        || set(ambient) != 0
        || root && set(bounding) != 0;
    wrong.then(|| format!("{name}: {seen:?}, capabilities {effective:#x}"))
}

/// Every thread is locked in as its kind is, and these kinds are there.
fn assert_locked_in(vm: &Vm, expected: &[&str]) {
    let begin = Instant::now();
    loop {
        let threads = threads(vm);
        let complaints: Vec<_> = threads.iter().filter_map(|(name, status)| complaint(name, status)).collect();
        let kinds: BTreeMap<_, _> = threads.into_iter().collect();
        let there = expected.iter().all(|kind| kinds.contains_key(*kind));
        // One that has just been started may not have come so far.
        if complaints.is_empty() && there {
            return;
        }
        assert!(begin.elapsed() < LIMIT / 6, "{complaints:#?}, of {:?}", kinds.keys());
        std::thread::yield_now();
    }
}

#[test]
fn every_thread_is_locked_in_on_both_sides_of_a_migration() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("96M").cpus(2).with(&["--rng", "--balloon", "--console", "null"]);
    let calm = "ws=64M rate=500";
    let (mut source, mut destination) = (machine.boot_and_begin(calm), machine.receive(Transport::Unix));
    let always = ["whimbrel", "vcpu", "control", "serial", "rng", "balloon", "console", "throttle"];
    for vm in [&mut source, &mut destination] {
        let multifd = json!({"capabilities": [{"capability": "multifd", "state": true}]});
        // The destination waits already, and takes what comes.
        let _ = vm.qmp.execute("migrate-set-capabilities", multifd);
    }
    assert_locked_in(&source, &always);
    assert_locked_in(&destination, &[&always[..], &["incoming", "faults"]].concat());
    source.set(json!({"x-postcopy-after": 0, "max-postcopy-bandwidth": 2 << 20}));
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("postcopy-active");
    assert_locked_in(&source, &[&always[..], &["migration", "mig-demand", "mig-fd-"]].concat());
    assert_locked_in(&destination, &[&always[..], &["incoming", "faults", "in-fd-"]].concat());
    source.set(json!({"max-postcopy-bandwidth": 0}));
    source.qmp.await_migration("completed");
    destination.qmp.await_migration("completed");
    destination.guest.assert_whole();
}

#[test]
fn what_watches_a_guest_s_writes_is_locked_in() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut vm = Machine::new("96M").boot_and_begin("ws=64M order=rand write=50 rate=1000");
    vm.qmp.run("calc-dirty-rate", json!({"calc-time": 10, "mode": "dirty-bitmap"}));
    assert_locked_in(&vm, &["vcpu", "dirty-rate"]);
    vm.switch("background-snapshot", true);
    vm.set(json!({"max-bandwidth": 8 << 20}));
    vm.migrate(&format!("file:{}", dir.path().join("guest").display()));
    assert_locked_in(&vm, &["vcpu", "snapshot", "snap-writes"]);
    vm.qmp.query("migrate_cancel");
    vm.qmp.await_migration("cancelled");
    assert_eq!(vm.end_guest(), 0);
}

#[test]
fn a_debugger_is_let_in_only_when_asked() {
    if !host::has_kvm() {
        return;
    }
    let vm = Machine::new("64M").with(&["--no-seccomp"]).boot_and_begin("ws=16M");
    for (name, status) in threads(&vm) {
        assert_eq!(field(&status, "Seccomp"), "0", "{name}");
        assert_eq!(field(&status, "NoNewPrivs"), "1", "{name}");
    }
    assert!(vm.log().contains("--no-seccomp"), "{}", vm.log());
}

#[test]
fn a_wrong_word_in_the_environment_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_whimbrel"))
        .args(["run", "--kernel", "builtin:test"])
        .env("WHIMBREL_SECCOMP", "maybe")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("'maybe'") && said.contains("'kill'"), "{said}");
}

#[test]
fn sockets_are_for_their_owner_only() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let console = dir.path().join("console");
    let place = format!("unix:{},server", console.display());
    let vm = Machine::new("64M").with(&["--console", &place]).receive(Transport::Unix);
    for path in [vm.path("qmp-server"), vm.path("monitor"), vm.path("in"), console] {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
}

/// Of all that it says until its end.
fn warning_of(mut vm: Vm) -> Option<String> {
    vm.quit();
    vm.log().lines().find(|line| line.contains("neither encrypted")).map(str::to_owned)
}

/// What a machine that is told to listen there says about it.
fn warning(uri: &str) -> Option<String> {
    let mut vm = Machine::new("64M").start("destination", true, |_| vec!["--incoming".to_owned(), "defer".to_owned()]);
    vm.qmp.run("migrate-incoming", json!({"uri": uri}));
    warning_of(vm)
}

#[test]
fn an_address_that_other_hosts_reach_is_warned_of() {
    if !host::has_kvm() {
        return;
    }
    let all = warning("tcp:0.0.0.0:0").expect("no warning");
    assert!(all.contains("tcp:0.0.0.0:") && all.contains("--tls-dir"), "{all}");
    if std::net::TcpListener::bind("[::]:0").is_ok() {
        assert!(warning("tcp:[::]:0").expect("no warning").contains("tcp:[::]:"));
    }
    assert_eq!(warning("tcp:127.0.0.1:0"), None);
    // By the command line, too.
    let vm =
        Machine::new("64M").start("destination", true, |_| ["--incoming", "tcp:0.0.0.0:0"].map(str::to_owned).to_vec());
    warning_of(vm).expect("no warning");
}

/// Runs what follows as nobody. Only root can do that; the devices that nobody may not open stand
/// open in a mount namespace of that process alone.
const AS_NOBODY: &str = r#"
set -e
mount -t tmpfs tmpfs "$1"
for device in kvm userfaultfd; do
    mknod -m 666 "$1/$device" c $(stat -c '0x%t 0x%T' /dev/$device)
    mount --bind "$1/$device" /dev/$device
done
shift
exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs "$@"
"#;

/// How to run as an ordinary user; `None` if this process is one. Empty-handed, the reason.
fn ordinary(dir: &Path) -> Result<Option<Wrapper>, String> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    for device in ["/dev/kvm", "/dev/userfaultfd"] {
        if !Path::new(device).exists() {
            return Err(format!("there is no {device} for an ordinary user to be given"));
        }
    }
    // Where nobody may not look, the program is not to be found either.
    let program = dir.join("whimbrel");
    std::fs::copy(env!("CARGO_BIN_EXE_whimbrel"), &program).unwrap();
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    let devices = dir.join("devices");
    std::fs::create_dir(&devices).unwrap();
    let words = ["unshare", "--mount", "sh", "-c", AS_NOBODY, "sh", devices.to_str().unwrap()];
    let tried = Command::new(words[0]).args(&words[1..]).arg("true").output();
    match tried {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            return Err(format!("no ordinary user can be played: {}", String::from_utf8_lossy(&output.stderr)));
        }
        Err(error) => return Err(format!("'unshare' cannot be run: {error}")),
    }
    let words = words.map(str::to_owned).to_vec();
    Ok(Some(Wrapper { words, program, owner: NOBODY }))
}

#[test]
fn an_ordinary_user_moves_a_guest_by_postcopy() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::new("96M").cpus(2);
    let machine = match ordinary(dir.path()) {
        Ok(wrapper) => machine.wrapped(wrapper),
        Err(why) => return skip(why.trim()),
    };
    let (mut source, mut destination) = (machine.boot_and_begin("ws=64M"), machine.receive(Transport::Unix));
    if nix::unistd::geteuid().is_root() {
        for vm in [&source, &destination] {
            let status = read_to_string(format!("/proc/{}/status", vm.pid())).unwrap();
            assert!(field(&status, "Uid").split_whitespace().all(|id| id == "65534"), "{status}");
            assert_eq!(field(&status, "CapPrm"), "0000000000000000");
            // Its memory is not for other processes of that user: so its files in /proc are root's.
            assert_eq!(std::fs::metadata(format!("/proc/{}/mem", vm.pid())).unwrap().uid(), 0);
        }
    }
    source.set(json!({"x-postcopy-after": 0}));
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("completed");
    destination.qmp.await_migration("completed");
    assert!(source.ram("postcopy-bytes") > 0);
    destination.guest.assert_whole();
    assert_eq!(destination.end_guest(), 0);
    assert_eq!(source.quit(), 0);
}
