//! Migrations driven by clients that others wrote: QEMU's Python library and its shell, and socat.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::support::skip::skip;
use crate::support::{Machine, Transport, Vm, host};

fn machine() -> Machine {
    Machine::new("96M")
}

fn pair() -> (Vm, Vm) {
    (machine().boot_and_begin("ws=64M order=rand write=50"), machine().receive(Transport::Tcp))
}

/// The guest is where it was to go.
fn assert_moved(source: &mut Vm, destination: &mut Vm) {
    assert_eq!(source.qmp.status(), "postmigrate");
    assert_eq!(destination.qmp.status(), "running");
    destination.guest.assert_whole();
}

/// A Python that has QEMU's library; without one the calling test is skipped.
fn python() -> Option<String> {
    let python = std::env::var("WHIMBREL_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python).args(["-c", "import qemu.qmp"]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    skip(&format!("{python} has no module qemu.qmp: 'pip install qemu.qmp', or let scripts/test do it with a network"));
    None
}

/// `tests/qmp_client.py` moves the guest in one of its modes.
fn the_library_moves_the_guest(mode: &str) {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let Some(python) = python() else { return };
    let (mut source, mut destination) = pair();
    let output = Command::new(&python)
        .args([concat!(env!("CARGO_MANIFEST_DIR"), "/tests/qmp_client.py"), mode])
        .args([source.path("qmp-server"), destination.path("qmp-server")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_moved(&mut source, &mut destination);
}

#[test]
fn qemus_library_moves_the_guest_by_precopy() {
    the_library_moves_the_guest("precopy");
}

#[test]
fn qemus_library_moves_the_guest_by_postcopy() {
    the_library_moves_the_guest("postcopy");
}

#[test]
fn qemus_library_moves_the_guest_by_hybrid() {
    the_library_moves_the_guest("hybrid");
}

#[test]
fn qemus_library_pauses_and_recovers_out_of_band() {
    the_library_moves_the_guest("recover");
}

/// A program that is typed to.
struct Typed(Child);

impl Typed {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn types(&mut self, line: &str) {
        self.0.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Types no more; all that it said.
    fn ends(mut self) -> String {
        drop(self.0.stdin.take());
        let Output { status, stdout, stderr } = self.0.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&stdout).into_owned();
        assert!(status.success(), "{said}{}", String::from_utf8_lossy(&stderr));
        said
    }
}

#[test]
fn qemus_shell_moves_the_guest() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let Some(python) = python() else { return };
    let (mut source, mut destination) = pair();
    let program = "from qemu.qmp.qmp_shell import main; main()";
    let mut shell = Typed::start(Command::new(python).args(["-c", program]).arg(source.path("qmp-server")));
    shell.types(r#"migrate-set-capabilities capabilities=[{"capability":"events","state":true}]"#);
    shell.types("migrate-set-parameters max-bandwidth=8388608");
    shell.types(&format!("migrate uri={}", destination.address()));
    source.qmp.await_migration("active");
    shell.types("migrate-start-postcopy");
    shell.types("migrate-set-parameters max-bandwidth=0");
    source.qmp.await_migration("completed");
    shell.types("query-migrate");
    let said = shell.ends();
    for words in ["Connected to QEMU", "\"status\": \"completed\""] {
        assert!(said.contains(words), "no {words} in {said}");
    }
    assert_moved(&mut source, &mut destination);
}

/// socat between its standard input and output and a unix socket; without socat the calling test is
/// skipped.
fn socat(socket: &Path) -> Option<Typed> {
    if !Command::new("socat").arg("-V").output().is_ok_and(|output| output.status.success()) {
        skip("there is no socat: install it (Debian: apt-get install socat)");
        return None;
    }
    // It waits for answers for as long as any test may take, counted from the last that was typed.
    Some(Typed::start(Command::new("socat").args(["-t", "60", "-"]).arg(format!("UNIX-CONNECT:{}", socket.display()))))
}

#[test]
fn a_person_at_socat_moves_the_guest() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, mut destination) = pair();
    let Some(mut here) = socat(&source.path("monitor")) else { return };
    // All typed ahead: the second command waits until the first gives the prompt back.
    here.types(&format!("migrate {}", destination.address()));
    here.types("info migrate");
    here.types("info status");
    let said = here.ends();
    let words = ["Whimbrel", "migration completed", "Status: \t\tcompleted", "remain=0 B", "paused (postmigrate)"];
    let mut rest = said.as_str();
    for words in words {
        rest = rest.split_once(words).unwrap_or_else(|| panic!("no {words}, at least not in order, in {said}")).1;
    }
    assert_moved(&mut source, &mut destination);
}
