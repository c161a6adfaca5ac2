//! `whimbrel top`: what it says of a live migration, and what it leaves of a terminal.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::terminal::Terminal;
use crate::support::vm::{whimbrel, whimbrel_says};
use crate::support::{Machine, Transport, Vm, host};

const PAGE: u64 = 4096;

/// One look at a virtual machine.
fn look(vm: &Vm) -> Value {
    let (code, output, log) = whimbrel_says(&["top", "--once", "--json", vm.path("qmp-server").to_str().unwrap()]);
    assert_eq!(code, 0, "{log}");
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

/// Bytes of RAM that are there by the map.
fn there(snapshot: &Value) -> u64 {
    let buckets = snapshot["pages"]["buckets"].as_array().unwrap();
    assert_eq!(buckets.len(), 1024);
    let sum: u64 = buckets.iter().map(|it| it.as_u64().unwrap()).sum();
    assert_eq!(snapshot["pages"]["arrived"], sum);
    sum * PAGE
}

/// Bytes of RAM that are there by `query-migrate`.
fn told(report: &Value) -> u64 {
    let ram = |name: &str| report["ram"][name].as_u64().unwrap();
    ram("total") - ram("remaining")
}

/// A guest in the middle of a postcopy that takes a while: neither the background nor what the
/// guest touches is much in a second.
fn halfway() -> (Vm, Vm) {
    let machine = Machine::new("96M").cpus(2).with(&["--name", "bird"]);
    let mut source = machine.boot_and_begin("ws=64M order=rand write=50 rate=500");
    let mut destination = machine.receive(Transport::Tcp);
    source.set(json!({"max-postcopy-bandwidth": 2 << 20, "x-postcopy-after": 0}));
    source.migrate(&destination.address());
    destination.qmp.await_migration("postcopy-active");
    destination.guest.await_heartbeat();
    (source, destination)
}

#[test]
fn a_look_agrees_with_the_monitor() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, mut destination) = halfway();
    let before = destination.qmp.query("query-migrate");
    let seen = look(&destination);
    let after = destination.qmp.query("query-migrate");
    assert_eq!((&seen["name"], &seen["status"]["status"]), (&json!("bird"), &json!("running")));
    assert_eq!(seen["migrate"]["status"], "postcopy-active", "{seen}");
    assert_eq!((&seen["pages"]["side"], &seen["pages"]["pages"]), (&json!("destination"), &json!((96 << 20) / PAGE)));
    // Pages only ever arrive.
    let counts = [told(&before), told(&seen["migrate"]), there(&seen), told(&after)];
    assert!(counts.is_sorted() && counts[0] > 0 && counts[3] < 96 << 20, "{counts:?}");
    assert!(seen["migrate"]["x-demand-pages"]["count"].as_u64().unwrap() > 0, "{seen}");
    assert_eq!(seen["migrate"]["postcopy-vcpu-blocktime"].as_array().unwrap().len(), 2, "{seen}");

    // Nothing moves any more: each number of one side is the same, and the source has sent all that
    // is there.
    source.qmp.run("migrate-pause", json!({}));
    destination.qmp.await_event("MIGRATION");
    let (here, far) = (look(&destination), look(&source));
    assert_eq!(here["migrate"]["status"], "postcopy-paused", "{here}");
    assert_eq!(there(&here), told(&here["migrate"]), "{here}");
    assert_eq!((&far["pages"]["side"], there(&far)), (&json!("source"), told(&far["migrate"])));
    assert!(there(&far) >= there(&here));

    let (code, text, log) = whimbrel_says(&["top", "--once", destination.path("qmp-server").to_str().unwrap()]);
    assert!(code == 0 && text.contains("postcopy-paused  bird (destination, guest running)"), "{text}{log}");
}

#[test]
fn a_terminal_is_given_back_as_it_was() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (_source, mut destination) = halfway();
    let socket = destination.path("qmp-server");
    let arguments = ["top", "--interval", "50", socket.to_str().unwrap()];
    let shown = "postcopy-active  bird (destination, guest running)";
    for end in [None, Some(Signal::SIGTERM)] {
        let mut terminal = Terminal::new();
        let settings = terminal.settings();
        let mut top = terminal.run(&arguments);
        // What stands last on the screen is drawn last.
        let screen = terminal.await_text("q quits");
        assert!(
            screen.contains(shown) && screen.contains("pages that have arrived") && screen.contains('·'),
            "{screen}"
        );
        assert!(terminal.is_taken() && terminal.settings() != settings);
        match end {
            None => terminal.types("q"),
            Some(signal) => top.signal(signal),
        }
        assert!(top.wait().success());
        assert!(terminal.is_given_back() && terminal.settings() == settings, "{end:?}: {:?}", terminal.output());
    }

    // The virtual machine goes while it is looked at.
    let mut terminal = Terminal::new();
    let mut top = terminal.run(&arguments);
    terminal.await_text("q quits");
    destination.kill();
    let screen = terminal.await_text("cannot connect to");
    assert!(screen.contains("gone, the above is what was seen last") && screen.contains(shown), "{screen}");
    terminal.types("q");
    assert!(top.wait().success());

    // Nobody is there, and nobody could see it.
    let terminal = Terminal::new();
    assert_eq!(terminal.run(&arguments).wait().code(), Some(1));
    let screen = terminal.await_text("where a VM with --qmp should listen");
    assert!(!terminal.is_taken() && screen.trim().starts_with("whimbrel: cannot connect to"), "{screen}");
    for form in [&["--once"][..], &["--once", "--json"]] {
        let (code, log) = whimbrel(&[&arguments[..1], form, &arguments[3..]].concat());
        assert!(code == 1 && log.lines().count() == 1 && log.contains("cannot connect to"), "{log}");
    }
    let (code, log) = whimbrel(&arguments);
    assert!(code == 1 && log.contains("use --once"), "{log}");
}
