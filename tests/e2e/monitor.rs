//! The monitors as people and programs use them: raw lines, and `whimbrel migrate`.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use serde_json::json;

use crate::support::terminal::Terminal;
use crate::support::transcript::Transcript;
use crate::support::vm::whimbrel;
use crate::support::{LIMIT, Machine, Transport, Vm, host};

const PROMPT: &str = "(whimbrel) ";

/// Somebody at the monitor for people.
pub struct Person {
    stream: UnixStream,
    screen: Transcript,
    read: usize,
}

impl Person {
    pub fn at(vm: &Vm) -> Self {
        let stream = UnixStream::connect(vm.path("monitor")).unwrap();
        let screen = Transcript::of(stream.try_clone().unwrap());
        let mut this = Self { stream, screen, read: 0 };
        let greeting = this.until_prompt();
        assert!(greeting.starts_with("Whimbrel ") && greeting.contains("type 'help'"), "{greeting}");
        this
    }

    /// Everything up to the next prompt.
    fn until_prompt(&mut self) -> String {
        let from = self.read;
        let found = self.screen.wait_for(LIMIT, |said| {
            let text = String::from_utf8_lossy(&said.bytes[from..]).into_owned();
            let end = text.find(PROMPT)?;
            Some(text[..end].to_owned())
        });
        let text = found.unwrap_or_else(|| panic!("no prompt after: {}", &self.screen.text()[from..]));
        self.read += text.len() + PROMPT.len();
        assert!(!text.replace("\r\n", "").contains('\n'), "a line does not end in CR LF: {text:?}");
        text.replace("\r\n", "\n")
    }

    /// Waits until it is seen.
    fn await_text(&self, text: &str) {
        let seen = self
            .screen
            .wait_for(LIMIT, |said| String::from_utf8_lossy(&said.bytes[self.read..]).contains(text).then_some(()));
        assert!(seen.is_some(), "'{text}' does not come after: {}", &self.screen.text()[self.read..]);
    }

    fn types(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Types a line; what appears until the next prompt.
    pub fn says(&mut self, line: &str) -> String {
        self.types(line);
        self.until_prompt()
    }
}

fn machine() -> Machine {
    Machine::new("96M").with(&["--name", "bird"])
}

fn source() -> Vm {
    machine().boot_and_begin("ws=64M order=rand write=50")
}

/// The guest is where it was to go.
fn assert_moved(source: &mut Vm, destination: &mut Vm) {
    assert_eq!(source.qmp.status(), "postmigrate");
    assert_eq!(destination.qmp.status(), "running");
    destination.guest.assert_whole();
}

#[test]
fn everything_that_can_be_asked() {
    if !host::has_kvm() {
        return;
    }
    let vm = machine().cpus(2).boot_and_begin("ws=16M");
    let mut person = Person::at(&vm);
    let help = person.says("help");
    for command in ["migrate [-d] [-r] uri", "stop|s", "info [subcommand]"] {
        assert!(help.contains(command), "{help}");
    }
    assert!(person.says("help migrate").starts_with("migrate [-d] [-r] uri -- "));
    assert_eq!(person.says("info status"), "VM status: running\n");
    assert_eq!(person.says("info name"), "bird\n");
    assert_eq!(person.says("info uuid"), "00000000-0000-0000-0000-000000000000\n");
    assert_eq!(person.says("info kvm"), "kvm support: enabled\n");
    assert_eq!(person.says("info version"), concat!(env!("CARGO_PKG_VERSION"), "\n"));
    assert_eq!(person.says("info cpus").lines().count(), 2);
    assert_eq!(person.says("info accelerators"), "[kvm]\n");
    assert_eq!(person.says("info migrate"), "");
    assert!(person.says("info migrate_capabilities").contains("postcopy-ram: on\n"));
    assert!(person.says("info migrate_parameters").contains("downtime-limit: 300 ms\n"));
    // Of a guest that runs, and goes on.
    let (one, other) = (person.says("info registers"), person.says("info registers -a"));
    assert!(one.starts_with("CPU#0\n") && one.contains(" rip=") && !one.contains("CPU#1"), "{one}");
    assert!(other.contains("CPU#1\n") && !other.contains("unreadable") && !other.contains("in use"), "{other}");
    assert_eq!(person.says("info status"), "VM status: running\n");
    // Every `info` answers, and nothing is left out of the help.
    for line in person.says("help info").lines() {
        let name = line.split(" -- ").next().unwrap().split(" [").next().unwrap().to_owned();
        let answer = person.says(&name);
        assert!(!answer.to_lowercase().contains("unknown"), "{name}: {answer}");
    }
    assert!(person.says("info weather").to_lowercase().contains("info"));
    assert!(person.says("fly").contains("fly"));
    assert_eq!(person.says("s"), "");
    assert_eq!(person.says("info status"), "VM status: paused\n");
    assert_eq!(person.says("c"), "");
}

#[test]
fn settings_last_and_wrong_ones_are_refused() {
    if !host::has_kvm() {
        return;
    }
    let mut vm = machine().boot_and_begin("ws=16M");
    let mut person = Person::at(&vm);
    assert_eq!(person.says("migrate_set_parameter max-bandwidth 100M"), "");
    assert_eq!(person.says("migrate_set_parameter max-postcopy-bandwidth 7"), "");
    assert_eq!(person.says("migrate_set_parameter downtime-limit 25"), "");
    assert_eq!(person.says("migrate_set_capability postcopy-ram off"), "");
    let parameters = vm.qmp.query("query-migrate-parameters");
    assert_eq!(parameters["max-bandwidth"], 100 << 20);
    assert_eq!(parameters["max-postcopy-bandwidth"], 7 << 20);
    assert_eq!(parameters["downtime-limit"], 25);
    let capabilities = vm.qmp.query("query-migrate-capabilities");
    let off = json!({"capability": "postcopy-ram", "state": false});
    assert!(capabilities.as_array().unwrap().contains(&off), "{capabilities}");
    for (line, word) in [
        ("migrate_set_parameter warp 9", "warp"),
        ("migrate_set_parameter multifd-channels 0", "multifd-channels"),
        ("migrate_set_parameter downtime-limit -3", "downtime-limit"),
        ("migrate_set_capability rdma-pin-all on", "rdma-pin-all"),
        ("migrate_set_capability return-path off", "return-path"),
        ("migrate", "uri"),
        ("migrate carrier-pigeon:home", "carrier-pigeon"),
        ("migrate_start_postcopy", "postcopy"),
    ] {
        let answer = person.says(line);
        // One sentence, after a wrong use also where to find the right one.
        assert!(answer.contains(word) && answer.lines().count() <= 2, "{line}: {answer}");
    }
}

#[test]
fn a_person_moves_the_guest_and_waits() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, mut destination) = (source(), machine().receive(Transport::Tcp));
    let mut person = Person::at(&source);
    assert_eq!(person.says("migrate_set_parameter max-bandwidth 32M"), "");
    let uri = destination.address();
    let begun = Instant::now();
    person.types(&format!("migrate {uri}"));
    // The prompt is not back yet; others are served meanwhile.
    source.qmp.await_migration("active");
    assert_eq!(source.qmp.status(), "running");
    let mut other = Person::at(&source);
    assert!(other.says("info migrate").contains("Status: \t\tactive"));
    assert!(other.says(&format!("migrate -d {uri}")).contains("in progress"));
    person.await_text("active: ");
    assert_eq!(other.says("migrate_set_parameter max-bandwidth 0"), "");
    let shown = person.until_prompt();
    let lines = shown.lines().filter(|line| line.contains(" s, ") && line.ends_with(" Mbps")).count();
    assert!((1..=begun.elapsed().as_secs() as usize).contains(&lines), "{shown}");
    assert!(shown.ends_with("migration completed\n"), "{shown}");
    let report = person.says("info migrate");
    assert!(report.contains("Status: \t\tcompleted") && report.contains("remain=0 B"), "{report}");
    assert_eq!(person.says("info status"), "VM status: paused (postmigrate)\n");
    assert!(person.says("cont").contains("migrated away"));
    assert_moved(&mut source, &mut destination);
}

#[test]
fn a_person_at_a_terminal_sees_a_bar() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let mut terminal = Terminal::new();
    let here = machine().on(&terminal).with(&["--monitor", "stdio"]);
    let (mut source, mut destination) =
        (here.boot_and_begin("ws=64M order=rand write=50"), machine().receive(Transport::Tcp));
    source.set(json!({"max-bandwidth": 32 << 20}));
    terminal.types(&format!("migrate {}\n", destination.address()));
    // On a busy host it is not active at the first look.
    let screen = terminal.await_text("active [");
    let line = screen.trim_end().lines().last().unwrap();
    assert!(line.starts_with("active [") && line.ends_with(" Mbps"), "{screen}");
    // The machine and whoever else is connected go on.
    source.guest.await_visits(1000);
    source.set(json!({"max-bandwidth": 0}));
    let screen = terminal.await_text("\nmigration completed\n(whimbrel)");
    assert!(!screen.contains('['), "the bar is left: {screen}");
    assert_moved(&mut source, &mut destination);
}

#[test]
fn a_person_moves_the_guest_in_the_background() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, mut destination) =
        (source(), machine().start("destination", true, |_| vec!["--incoming".to_owned(), "defer".to_owned()]));
    let mut there = Person::at(&destination);
    assert_eq!(there.says("info status"), "VM status: paused (inmigrate)\n");
    assert!(there.says("cont").contains("not arrived"));
    let answer = there.says("migrate_incoming tcp:127.0.0.1:0");
    let uri = answer.strip_prefix("Listening at ").unwrap_or_else(|| panic!("{answer}")).trim().to_owned();
    assert!(there.says("migrate_incoming tcp:127.0.0.1:0").contains("already"));
    let mut here = Person::at(&source);
    assert_eq!(here.says("migrate_set_parameter max-bandwidth 8M"), "");
    assert_eq!(here.says(&format!("migrate -d {uri}")), "");
    source.qmp.await_migration("active");
    assert_eq!(here.says("migrate_start_postcopy"), "");
    source.qmp.await_migration("completed");
    destination.qmp.await_migration("completed");
    let report = there.says("info migrate -a");
    assert!(report.contains("Demand pages:"), "{report}");
    assert_moved(&mut source, &mut destination);
}

/// `whimbrel migrate`, and what the source says that it did.
fn driven(arguments: &[&str], precopied: bool, postcopied: bool) {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, mut destination) = (source(), machine().receive(Transport::Unix));
    let (uri, qmp) = (destination.address(), source.path("qmp-server"));
    let command = ["migrate", "--qmp", qmp.to_str().unwrap(), "--to", &uri];
    let (code, log) = whimbrel(&[&command[..], arguments].concat());
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("completed"), "no progress was shown: {log}");
    assert_eq!(source.ram("precopy-bytes") + source.ram("multifd-bytes") > 32 << 20, precopied);
    let report = source.qmp.query("query-migrate");
    assert_eq!(report["ram"]["postcopy-bytes"].as_u64().unwrap() > 0, postcopied, "{report}");
    assert_moved(&mut source, &mut destination);
}

#[test]
fn the_command_moves_the_guest_by_precopy() {
    driven(&["--mode", "precopy"], true, false);
}

#[test]
fn the_command_moves_the_guest_by_postcopy() {
    driven(&["--mode", "postcopy"], false, true);
}

#[test]
fn the_command_moves_the_guest_by_hybrid() {
    driven(&["--mode", "hybrid", "--passes", "1"], true, true);
}

#[test]
fn the_command_says_when_it_fails() {
    if !host::has_kvm() {
        return;
    }
    let mut source = source();
    let qmp = source.path("qmp-server");
    let (code, log) = whimbrel(&["migrate", "--qmp", qmp.to_str().unwrap(), "--to", "tcp:127.0.0.1:1"]);
    assert_eq!(code, 1, "{log}");
    let line = log.lines().last().unwrap();
    assert!(line.starts_with("whimbrel: the migration failed, the guest stays where it is: "), "{log}");
    assert_eq!(source.qmp.status(), "running");
    source.guest.assert_whole();
}

/// Source and destination of a move, and what each of them tells on the way.
fn told(parameters: serde_json::Value) -> [Vec<String>; 2] {
    let mut source = machine().boot_and_begin("ws=16M order=rand write=50");
    let mut destination = machine().start("destination", true, |_| vec!["--incoming".to_owned(), "defer".to_owned()]);
    destination.qmp.run("migrate-incoming", json!({"uri": "tcp:127.0.0.1:0"}));
    assert!(destination.qmp.has_heard("setup"), "the answer comes before the event");
    source.set(parameters);
    source.qmp.forget_events();
    let at = destination.address();
    let (host, port) = at.strip_prefix("tcp:").unwrap().rsplit_once(':').unwrap();
    let addr = json!({"transport": "socket", "type": "inet", "host": host, "port": port});
    source.qmp.run("migrate", json!({"channels": [{"channel-type": "main", "addr": addr}]}));
    assert!(source.qmp.has_heard("setup"), "the answer comes before the event");
    let mut here = source.qmp.told_until("completed");
    // How many passes it takes depends on the host.
    here.retain(|event| event != "MIGRATION_PASS");
    let there = destination.qmp.told_until("completed");
    assert_moved(&mut source, &mut destination);
    [here, there]
}

#[test]
fn events_come_in_qemus_order() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let [here, there] = told(json!({}));
    assert_eq!(here, ["setup", "active", "STOP", "device", "completed"]);
    assert_eq!(there, ["setup", "active", "RESUME", "completed"]);
    let [here, there] = told(json!({"postcopy-policy": "after-passes=0"}));
    assert_eq!(here, ["setup", "active", "STOP", "device", "postcopy-device", "postcopy-active", "completed"]);
    assert_eq!(there, ["setup", "active", "postcopy-device", "postcopy-active", "RESUME", "completed"]);

    // One that is taken back, and one that nobody waits for.
    let (mut source, mut destination) = (source(), machine().receive(Transport::Unix));
    source.set(json!({"max-bandwidth": 1 << 20}));
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("active");
    source.qmp.run("migrate_cancel", json!({}));
    assert_eq!(source.qmp.told_until("cancelled"), ["cancelling", "cancelled"]);
    assert_eq!(source.qmp.query("query-migrate"), json!({"status": "cancelled"}));
    assert_eq!(destination.wait(), 1);
    source.migrate(&uri);
    assert_eq!(source.qmp.told_until("failed"), ["setup", "failing", "failed"]);
}
