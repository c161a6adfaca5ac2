//! A guest that writes faster than it can be sent is slowed down, by as much as is said, and never
//! stays so.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Machine, Transport, Vm, host};

const MIB: u64 = 1 << 20;
/// Writes all over its memory as fast as it can.
const HOT: &str = "ws=32M order=rand write=100";
/// Writes more in a second than [`SLOW`] carries, also on a host that has little time for it, and
/// less than that once it has hardly any.
const BUSY: &str = "ws=16M order=rand write=100 rate=20000";
/// Bytes per second.
const SLOW: u64 = 8 * MIB;

/// What the guest says that it wrote, and when.
struct Work {
    writes: u64,
    nanoseconds: u64,
}

impl Work {
    fn of(vm: &mut Vm) -> Self {
        let said = vm.guest.statistics();
        let number = |field: &str| said[field].as_u64().unwrap();
        Self { writes: number("writes"), nanoseconds: number("elapsed_ns") }
    }

    /// Pages per second since then, at least over this time, and over more until the guest has
    /// counted any: it counts from time to time only, and a throttled guest seldom.
    fn rate(self, vm: &mut Vm, time: Duration) -> f64 {
        loop {
            let now = Self::of(vm);
            let elapsed = Duration::from_nanos(now.nanoseconds - self.nanoseconds);
            if elapsed >= time && now.writes > self.writes {
                return (now.writes - self.writes) as f64 / elapsed.as_secs_f64();
            }
            vm.guest.await_visits(1);
        }
    }
}

/// Pages that the guest writes in a second.
fn speed(vm: &mut Vm) -> f64 {
    Work::of(vm).rate(vm, Duration::from_millis(400))
}

/// The guest writes at least so many pages a second: at once, or after some looks on a busy host,
/// where one look may find the guest with little time.
fn await_speed(vm: &mut Vm, least: f64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let now = speed(vm);
        if now >= least {
            return;
        }
        assert!(Instant::now() < deadline, "{now} writes a second, not {least}");
    }
}

/// Looks at every pass until the report has this field.
fn await_field(vm: &mut Vm, field: &str) -> u64 {
    loop {
        vm.qmp.await_event("MIGRATION_PASS");
        if let Some(value) = vm.qmp.query("query-migrate")[field].as_u64() {
            return value;
        }
    }
}

/// A migration that goes on until it is cancelled: the guest is throttled by so much from the
/// second verdict on, and no more.
fn begin_throttled(machine: &Machine, percent: u8) -> (Vm, Vm, f64) {
    let mut source = machine.boot_and_begin(HOT);
    let mut destination = machine.receive(Transport::Tcp);
    let full = speed(&mut source);
    source.switch("auto-converge", true);
    source.set(json!({"max-bandwidth": 24 * MIB, "downtime-limit": 0}));
    source.set(json!({"cpu-throttle-initial": percent, "max-cpu-throttle": percent}));
    let uri = destination.address();
    source.migrate(&uri);
    assert_eq!(await_field(&mut source, "cpu-throttle-percentage"), u64::from(percent));
    // A pass has just begun, and does not end for half a minute.
    source.set(json!({"max-bandwidth": MIB}));
    (source, destination, full)
}

#[test]
fn a_guest_that_does_not_converge_is_made_to() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("64M");
    let mut source = machine.boot_and_begin(BUSY);
    let mut destination = machine.receive(Transport::Tcp);
    let full = speed(&mut source);
    source.switch("auto-converge", true);
    source.set(json!({"max-bandwidth": SLOW, "downtime-limit": 200}));
    source.set(json!({"cpu-throttle-initial": 95, "cpu-throttle-increment": 4}));
    let uri = destination.address();
    source.migrate(&uri);
    let percent = await_field(&mut source, "cpu-throttle-percentage");
    assert!(percent >= 95, "{percent}");
    source.qmp.await_migration("completed");

    let report = source.qmp.query("query-migrate");
    assert!(report["ram"]["dirty-sync-count"].as_u64().unwrap() > 2, "{report}");
    assert_eq!(report["ram"]["postcopy-bytes"], 0, "{report}");
    assert_eq!(report.get("cpu-throttle-percentage"), None, "{report}");
    // Throttled it had a twentieth of that.
    await_speed(&mut destination, full / 2.0);
    destination.guest.assert_whole();
}

#[test]
fn a_throttled_guest_works_less_and_a_cancel_gives_it_its_time_back() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, _destination, _) = begin_throttled(&Machine::new("64M"), 80);
    let throttled = speed(&mut source);
    source.qmp.query("migrate_cancel");
    source.qmp.await_migration("cancelled");
    await_speed(&mut source, throttled * 2.0);
    assert_eq!(source.qmp.query("query-migrate").get("cpu-throttle-percentage"), None);
    source.guest.assert_whole();
}

#[test]
fn a_failed_migration_leaves_nothing_throttled() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, mut destination, _) = begin_throttled(&Machine::new("64M"), 80);
    let throttled = speed(&mut source);
    destination.kill();
    source.qmp.await_migration("failed");
    await_speed(&mut source, throttled * 2.0);
}

#[test]
fn nobody_waits_for_a_guest_that_rests() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let (mut source, _destination, _) = begin_throttled(&Machine::new("64M").cpus(2), 99);
    let times: Vec<Duration> = (0..15)
        .map(|_| {
            source.guest.await_heartbeat();
            let begin = Instant::now();
            source.qmp.query("stop");
            let time = begin.elapsed();
            source.qmp.query("cont");
            time
        })
        .collect();
    // It rests for 99 ms at a time. A heartbeat comes as it runs, so its rest has only begun: who
    // waits for its end never takes half of that, and who does not takes more on a busy host only.
    assert!(times.iter().min().unwrap() < &Duration::from_millis(50), "{times:?}");
    source.qmp.query("quit");
    assert!(source.ends_within(Duration::from_secs(5)));
    assert_eq!(source.wait(), 0);
}

#[test]
fn a_dirty_limit_lets_a_migration_end() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("64M");
    let mut source = machine.boot_and_begin(BUSY);
    let mut destination = machine.receive(Transport::Tcp);
    source.switch("dirty-limit", true);
    let refusal = source
        .qmp
        .refused("migrate-set-capabilities", json!({"capabilities": [{"capability": "auto-converge", "state": true}]}));
    assert!(refusal.contains("auto-converge and dirty-limit exclude each other"), "{refusal}");
    source.set(json!({"vcpu-dirty-limit": 3, "x-vcpu-dirty-limit-period": 250}));
    source.set(json!({"max-bandwidth": SLOW, "downtime-limit": 200}));
    let uri = destination.address();
    source.migrate(&uri);
    assert!(await_field(&mut source, "dirty-limit-throttle-time-per-round") > 0);
    source.qmp.await_migration("completed");
    assert_eq!(source.ram("postcopy-bytes"), 0);
    destination.guest.assert_whole();
}

/// Measures to the end; MiB per second.
fn measure(vm: &mut Vm, plan: Value) -> (u64, Value) {
    vm.qmp.run("calc-dirty-rate", plan);
    loop {
        let report = vm.qmp.query("query-dirty-rate");
        match report["status"].as_str() {
            Some("measured") => return (report["dirty-rate"].as_u64().unwrap(), report),
            // The guest's words are a clock that nobody has to wait for.
            Some("measuring") => drop(vm.guest.await_heartbeat()),
            _ => panic!("{report}"),
        }
    }
}

#[test]
fn the_dirty_rate_is_what_the_guest_says_it_writes() {
    if !host::has_kvm() {
        return;
    }
    // One page after the other: none is written twice within a measurement.
    let mut vm = Machine::new("96M").boot_and_begin("ws=64M order=seq write=100 rate=10000");
    assert_eq!(vm.qmp.query("query-dirty-rate")["status"], "unstarted");
    for (mode, plan) in [
        ("dirty-bitmap", json!({"calc-time": 800, "calc-time-unit": "millisecond", "mode": "dirty-bitmap"})),
        ("page-sampling", json!({"calc-time": 1, "sample-pages": 65536})),
    ] {
        // On a busy host the guest's speed changes from moment to moment, and what it says is of a
        // little longer.
        let mut tries = (0..6).map(|_| {
            let begin = Work::of(&mut vm);
            let (rate, report) = measure(&mut vm, plan.clone());
            assert_eq!(report["mode"], mode);
            (rate as f64, begin.rate(&mut vm, Duration::ZERO) * 4096.0 / MIB as f64)
        });
        let mut seen = Vec::new();
        let agrees = tries.any(|(rate, said)| {
            seen.push((rate, said));
            (rate - said).abs() < said * 0.2 && said > 1.0
        });
        assert!(agrees, "{mode}: MiB/s measured, and by what the guest says: {seen:?}");
    }
    vm.qmp.query("stop");
    vm.qmp.run("calc-dirty-rate", json!({"calc-time": 50, "calc-time-unit": "millisecond", "mode": "dirty-bitmap"}));
    let report = loop {
        let report = vm.qmp.query("query-dirty-rate");
        if report["status"] == "measured" {
            break report;
        }
    };
    assert_eq!(report["dirty-rate"], 0, "{report}");
}

#[test]
fn a_measurement_by_the_log_and_a_migration_exclude_each_other() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("64M");
    let mut source = machine.boot_and_begin("ws=32M rate=200");
    let mut destination = machine.receive(Transport::Unix);
    let uri = destination.address();
    // Longer than a busy host takes for three commands.
    let log = json!({"calc-time": 3, "mode": "dirty-bitmap"});
    let sample = json!({"calc-time": 50, "calc-time-unit": "millisecond"});
    let refusal = destination.qmp.refused("calc-dirty-rate", sample.clone());
    assert!(refusal.contains("not arrived"), "{refusal}");

    source.qmp.run("calc-dirty-rate", log.clone());
    let refusal = source.qmp.refused("migrate", json!({ "uri": uri }));
    assert!(refusal.contains("is being measured"), "{refusal}");
    let refusal = source.qmp.refused("set-vcpu-dirty-limit", json!({"dirty-rate": 5}));
    assert!(refusal.contains("is being measured"), "{refusal}");
    let refusal = source.qmp.refused("calc-dirty-rate", sample.clone());
    assert!(refusal.contains("already"), "{refusal}");
    while source.qmp.query("query-dirty-rate")["status"] != "measured" {
        source.guest.await_heartbeat();
    }
    source.qmp.run("set-vcpu-dirty-limit", json!({"dirty-rate": 50}));
    let refusal = source.qmp.refused("migrate", json!({ "uri": uri }));
    assert!(refusal.contains("cancel_vcpu_dirty_limit"), "{refusal}");
    source.qmp.query("cancel-vcpu-dirty-limit");

    source.set(json!({"max-bandwidth": 8 * MIB}));
    source.migrate(&uri);
    source.qmp.await_migration("active");
    for (command, arguments) in [("calc-dirty-rate", log), ("set-vcpu-dirty-limit", json!({"dirty-rate": 5}))] {
        let refusal = source.qmp.refused(command, arguments);
        assert!(refusal.contains("a migration is in progress"), "{refusal}");
    }
    // This way needs no log.
    measure(&mut source, sample);
    source.set(json!({"max-bandwidth": 0}));
    source.qmp.await_migration("completed");
    destination.guest.assert_whole();
}

#[test]
fn a_limit_holds_outside_a_migration() {
    if !host::has_kvm() {
        return;
    }
    const LIMIT: u64 = 4;
    let mut vm = Machine::new("96M").boot_and_begin("ws=64M order=rand write=100 rate=20000");
    let refusal = vm.qmp.refused("set-vcpu-dirty-limit", json!({"dirty-rate": LIMIT, "cpu-index": 1}));
    assert_eq!(refusal, "incorrect cpu index specified");
    vm.qmp.run("set-vcpu-dirty-limit", json!({"dirty-rate": LIMIT, "cpu-index": 0}));
    // A while to come near it, and then it stays there, by another way of measuring, too.
    let near = |rate: u64| (LIMIT - 1..=LIMIT + 1).contains(&rate);
    let deadline = Instant::now() + Duration::from_secs(50);
    let mut held = 0;
    while held < 2 {
        assert!(Instant::now() < deadline, "{}", vm.qmp.query("query-vcpu-dirty-limit"));
        let (sampled, _) = measure(&mut vm, json!({"calc-time": 1, "sample-pages": 65536}));
        let told = vm.qmp.query("query-vcpu-dirty-limit")[0].clone();
        assert_eq!(told["limit-rate"], LIMIT);
        held = if near(told["current-rate"].as_u64().unwrap()) && near(sampled) { held + 1 } else { 0 };
    }
    let limited = speed(&mut vm);
    vm.qmp.query("cancel-vcpu-dirty-limit");
    while speed(&mut vm) < limited * 1.5 {
        assert!(Instant::now() < deadline, "{limited} writes a second, and no more afterwards");
    }
    assert_eq!(vm.qmp.query("query-vcpu-dirty-limit"), json!([]));
    vm.guest.assert_whole();
}
