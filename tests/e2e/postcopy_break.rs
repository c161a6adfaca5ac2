//! The link breaks while the guest is on both sides: nothing is lost, nothing runs twice, and it is
//! joined again.

use serde_json::json;

use whimbrel_postcopy::wire::tag;

use crate::support::faulty_link::{At, Channel, Direction, Fault, FaultyLink, GREETING, Place, Plan};
use crate::support::proxy::Proxy;
use crate::support::{Machine, Transport, Vm, host};

const MIB: u64 = 1 << 20;

/// A guest in the middle of a postcopy over `link`.
struct Halfway {
    source: Vm,
    destination: Vm,
    link: Proxy,
}

impl Halfway {
    /// The background and demanded pages are slow, so that it stays halfway for as long as the test
    /// wants.
    fn reach(workload: &str, passes: i32) -> Self {
        let machine = Machine::new("96M");
        let mut source = machine.boot_and_begin(workload);
        let mut destination = machine.receive(Transport::Tcp);
        let link = Proxy::to(&destination.address()).slow();
        source.set(json!({"max-postcopy-bandwidth": 4 * MIB, "x-postcopy-after": passes}));
        source.migrate(&link.address());
        source.qmp.await_migration("postcopy-active");
        destination.qmp.await_migration("postcopy-active");
        Self { source, destination, link }
    }

    /// Both sides have stopped, each with its part of the guest.
    fn assert_paused(&mut self) {
        self.source.qmp.await_migration("postcopy-paused");
        self.destination.qmp.await_migration("postcopy-paused");
        let refusal = self.source.qmp.refused("cont", json!({}));
        assert!(!refusal.is_empty());
        assert_ne!(self.source.qmp.status(), "running");
        assert_eq!(self.destination.qmp.status(), "running");
        assert!(self.source.ram("remaining") > 0, "there was nothing left to lose");
        for vm in [&mut self.source, &mut self.destination] {
            let report = vm.qmp.query("query-migrate");
            assert_eq!(report["status"], "postcopy-paused");
            assert!(report["error-desc"].as_str().is_some_and(|why| why.len() > 10), "{report}");
        }
        // Neither can be started over or taken back.
        self.source.qmp.refused("migrate", json!({"uri": "tcp:127.0.0.1:1"}));
        self.source.qmp.refused("migrate_cancel", json!({}));
    }

    /// Joins both sides anew, over a new link.
    fn join(&mut self) {
        self.destination.qmp.run("migrate-recover", json!({"uri": "tcp:127.0.0.1:0"}));
        self.link = Proxy::to(&self.destination.address()).slow();
        self.source.qmp.run("migrate", json!({"uri": self.link.address(), "resume": true}));
    }

    /// Lets the rest come and looks at all of it.
    fn finish(mut self) {
        self.link.hurry();
        self.source.set(json!({"max-postcopy-bandwidth": 0}));
        self.source.qmp.await_migration("completed");
        self.destination.qmp.await_migration("completed");
        assert_eq!(self.source.qmp.status(), "postmigrate");
        assert_eq!(self.destination.qmp.status(), "running");
        self.destination.guest.assert_whole();
        self.destination.guest.await_visits(5);
        assert_eq!(self.source.quit(), 0);
        assert_eq!(self.destination.end_guest(), 0);
    }
}

const HOT: &str = "ws=64M order=rand write=50";
const IDLE: &str = "ws=64M rate=200";

#[test]
fn broken_by_the_source() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let mut halfway = Halfway::reach(HOT, 0);
    halfway.source.qmp.query("migrate-pause");
    halfway.assert_paused();
    halfway.join();
    halfway.finish();
}

#[test]
fn broken_by_the_destination() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let mut halfway = Halfway::reach(IDLE, 0);
    halfway.destination.qmp.query("migrate-pause");
    halfway.assert_paused();
    halfway.join();
    halfway.finish();
}

#[test]
fn the_link_is_cut() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let mut halfway = Halfway::reach(HOT, 0);
    halfway.link.cut();
    halfway.assert_paused();
    halfway.join();
    halfway.finish();
}

#[test]
fn the_link_is_cut_after_a_pass() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let mut halfway = Halfway::reach(HOT, 1);
    halfway.link.cut();
    halfway.assert_paused();
    halfway.join();
    halfway.finish();
}

/// With release-ram the source gives back what the destination says it has, and nothing else: a
/// recovery lacks nothing.
#[test]
fn the_link_is_cut_where_the_source_has_let_go_of_pages() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    for (memory, passes) in [("96M", 1), ("96M,shared=on", 0)] {
        let machine = Machine::new(memory);
        let (mut source, mut destination) = (machine.boot_and_begin(HOT), machine.receive(Transport::Tcp));
        source.switch("release-ram", true);
        let before = source.footprint().rss_kib;
        assert!(before > 60 << 10, "{before} KiB");
        let link = Proxy::to(&destination.address()).slow();
        source.set(json!({"max-postcopy-bandwidth": 8 * MIB, "x-postcopy-after": passes}));
        source.migrate(&link.address());
        source.qmp.await_migration("postcopy-active");
        destination.qmp.await_migration("postcopy-active");
        while source.footprint().rss_kib > before - (8 << 10) {
            assert!(source.ram("remaining") > 0, "nothing was given back: {:?}", source.footprint());
            destination.guest.await_heartbeat();
        }
        let mut halfway = Halfway { source, destination, link };
        halfway.link.cut();
        halfway.assert_paused();
        halfway.join();
        halfway.link.hurry();
        halfway.source.set(json!({"max-postcopy-bandwidth": 0}));
        halfway.source.qmp.await_migration("completed");
        halfway.destination.guest.assert_whole();
        // Nothing is left of it.
        while halfway.source.footprint().rss_kib > before - (60 << 10) {
            halfway.destination.guest.await_heartbeat();
        }
        assert_eq!(halfway.source.quit(), 0);
        assert_eq!(halfway.destination.end_guest(), 0);
    }
}

#[test]
fn the_link_is_cut_again_and_again() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let mut halfway = Halfway::reach(IDLE, 0);
    for _ in 0..3 {
        halfway.link.cut();
        halfway.assert_paused();
        halfway.join();
        halfway.source.qmp.await_migration("postcopy-active");
    }
    halfway.finish();
}

/// A flap of the link needs nobody: both sides were told to try by themselves.
#[test]
fn a_link_that_flaps_is_joined_again_by_itself() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let mut halfway = Halfway::reach(HOT, 1);
    halfway.source.set(json!({"x-reconnect": 60}));
    halfway.destination.set(json!({"x-reconnect": 60}));
    for _ in 0..3 {
        halfway.link.cut();
        for vm in [&mut halfway.source, &mut halfway.destination] {
            vm.qmp.await_migration("postcopy-paused");
            vm.qmp.await_migration("postcopy-active");
        }
    }
    // What is broken on purpose stays so, on the side that broke it; the user's word comes before
    // what goes by itself.
    halfway.source.qmp.query("migrate-pause");
    halfway.assert_paused();
    halfway.join();
    halfway.finish();
}

/// Nobody tells either side that the link is dead; people do.
#[test]
fn the_link_hangs_and_is_broken_by_hand() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let mut halfway = Halfway::reach(HOT, 0);
    halfway.link.hang();
    assert_eq!(halfway.source.qmp.query("query-migrate")["status"], "postcopy-active");
    halfway.source.qmp.query("migrate-pause");
    halfway.destination.qmp.query("migrate-pause");
    halfway.assert_paused();
    halfway.join();
    halfway.finish();
}

#[test]
fn joining_at_a_wrong_address_loses_nothing() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let mut halfway = Halfway::reach(IDLE, 0);
    halfway.link.cut();
    halfway.assert_paused();
    // Nobody listens at port 1.
    halfway.source.qmp.run("migrate", json!({"uri": "tcp:127.0.0.1:1", "resume": true}));
    halfway.source.qmp.await_migration("postcopy-recover-setup");
    halfway.source.qmp.await_migration("postcopy-paused");
    halfway.join();
    halfway.finish();
}

/// The first place that was named is one where the source cannot come; the second counts.
#[test]
fn listening_anew_ends_the_wait_at_the_place_before() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let mut halfway = Halfway::reach(IDLE, 0);
    halfway.link.cut();
    halfway.assert_paused();
    halfway.destination.qmp.run("migrate-recover", json!({"uri": "tcp:127.0.0.1:0"}));
    let nobody_comes = halfway.destination.address();
    halfway.join();
    assert_ne!(halfway.destination.address(), nobody_comes);
    halfway.finish();
}

/// The new link hangs, too: it can be given up like the first.
#[test]
fn a_rejoining_that_hangs_is_broken_by_hand() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    for (tag, status) in [(GREETING, "postcopy-recover-setup"), (tag::RECEIVED_END, "postcopy-recover")] {
        let mut halfway = Halfway::reach(IDLE, 0);
        halfway.link.cut();
        halfway.assert_paused();
        halfway.destination.qmp.run("migrate-recover", json!({"uri": "tcp:127.0.0.1:0"}));
        let place = Place::Message { tag, nth: 1, at: At::Begin };
        let plan = Plan { channel: Channel::Control, direction: Direction::Back, place, fault: Fault::Stall };
        let link = FaultyLink::to(&halfway.destination.address(), Some(plan));
        halfway.source.qmp.run("migrate", json!({"uri": link.address(), "resume": true}));
        halfway.source.qmp.await_migration(status);
        link.await_strike();
        halfway.source.qmp.query("migrate-pause");
        halfway.source.qmp.await_migration("postcopy-paused");
        drop(link);
        if tag != GREETING {
            // The link stood already for the destination.
            halfway.destination.qmp.await_migration("postcopy-recover");
            halfway.destination.qmp.await_migration("postcopy-paused");
        }
        halfway.join();
        halfway.finish();
    }
}

/// A reset writes the kernel into pages that are still on the source: it waits for them, and the
/// monitor, which is to bring the link back, does not.
#[test]
fn a_reset_waits_for_the_link_and_the_monitor_does_not() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("96M");
    let mut source = machine.boot_and_begin(HOT);
    let boot = ["--kernel", "builtin:test", "--cmdline", "ws=8M"];
    let mut destination = machine.with(&boot).receive(Transport::Tcp);
    let link = Proxy::to(&destination.address()).slow();
    source.set(json!({"max-postcopy-bandwidth": 4 * MIB, "x-postcopy-after": 0}));
    source.migrate(&link.address());
    source.qmp.await_migration("postcopy-active");
    destination.qmp.await_migration("postcopy-active");
    let mut halfway = Halfway { source, destination, link };
    halfway.link.cut();
    halfway.assert_paused();
    halfway.destination.guest.restarts();
    halfway.destination.qmp.query("system_reset");
    // An answer, whatever it is: what the reset waits for, or whether it does, is up to which pages
    // are there already.
    if let Ok(stopped) = halfway.destination.qmp.execute("stop", json!({})) {
        assert_eq!(stopped, json!({}));
        halfway.destination.qmp.query("cont");
    }
    halfway.join();
    halfway.link.hurry();
    halfway.source.set(json!({"max-postcopy-bandwidth": 0}));
    let reset = halfway.destination.qmp.await_event("RESET");
    assert_eq!(reset, json!({"guest": false, "reason": "host-qmp-system-reset"}));
    halfway.finish();
}
