//! A working guest moves, in every mode, and not one byte of it is wrong afterwards.

use serde_json::json;

use crate::support::{Machine, Transport, Vm, host};

/// What the guest does meanwhile.
#[derive(Clone, Copy, Debug)]
enum Workload {
    /// Hardly anything.
    Idle,
    /// Writes all over its memory as fast as it can.
    Hot,
    /// Writes one page after the other as fast as it can.
    Sequential,
}

impl Workload {
    fn cmdline(self) -> &'static str {
        match self {
            Self::Idle => "ws=64M rate=200",
            Self::Hot => "ws=64M order=rand write=50",
            Self::Sequential => "ws=64M order=seq write=50 zero=20",
        }
    }
}

const WORKING_SET: u64 = 64 << 20;

/// How the guest moves.
#[derive(Clone, Copy, Debug)]
enum Mode {
    Precopy,
    /// At once.
    Postcopy,
    /// After one pass.
    Hybrid,
    /// Told so in the middle of the first pass.
    MidPass,
}

impl Mode {
    /// Moves the guest from `source` to `uri`, to the end.
    fn drive(self, source: &mut Vm, uri: &str) {
        match self {
            Self::Precopy => source.migrate(uri),
            Self::Postcopy => {
                source.set(json!({"x-postcopy-after": 0}));
                source.migrate(uri);
            }
            Self::Hybrid => {
                source.set(json!({"x-postcopy-after": 1}));
                source.migrate(uri);
            }
            Self::MidPass => {
                source.set(json!({"max-bandwidth": 16 << 20, "max-postcopy-bandwidth": 0}));
                source.migrate(uri);
                source.qmp.await_migration("active");
                while source.ram("transferred") < 4 << 20 {
                    source.guest.await_heartbeat();
                }
                source.qmp.query("migrate-start-postcopy");
                source.set(json!({"max-bandwidth": 0}));
            }
        }
        source.qmp.await_migration("completed");
    }

    /// What the source's report must say afterwards.
    fn assert_was_followed(self, source: &mut Vm) {
        let answer = source.qmp.query("query-migrate");
        let ram = |field: &str| answer["ram"][field].as_u64().unwrap();
        assert_eq!(answer["status"], "completed");
        assert_eq!(ram("remaining"), 0, "{answer}");
        assert!(answer["downtime"].is_u64(), "{answer}");
        let (pre, post, multifd) = (ram("precopy-bytes"), ram("postcopy-bytes"), ram("multifd-bytes"));
        assert_eq!(pre + post + multifd + ram("downtime-bytes"), ram("transferred"), "no byte counts twice: {answer}");
        // What was filled and is not zero travels at least once; four fifths of it in the
        // sequential workload.
        assert!(ram("transferred") >= WORKING_SET / 5 * 4, "{answer}");
        match self {
            Self::Precopy => assert_eq!((post, ram("postcopy-requests")), (0, 0), "{answer}"),
            // Where the background goes on several channels it is as good as the rest.
            Self::Postcopy => assert!(pre < 1 << 20 && post + multifd > WORKING_SET / 5 * 4, "{answer}"),
            Self::Hybrid => assert!(pre + multifd > WORKING_SET / 5 * 4, "{answer}"),
            Self::MidPass => {
                assert!(pre + multifd >= 4 << 20 && pre < WORKING_SET / 5 * 4 && post > 0, "{answer}");
            }
        }
    }
}

/// Everything that must be so after a move, on both sides.
fn assert_arrived(source: &mut Vm, destination: &mut Vm) {
    destination.qmp.await_migration("completed");
    assert_eq!(source.qmp.status(), "postmigrate");
    assert_eq!(destination.qmp.status(), "running");
    let refusal = source.qmp.refused("cont", json!({}));
    assert!(refusal.contains("migrated away"), "{refusal}");
    assert_eq!(source.qmp.status(), "postmigrate");

    destination.guest.assert_whole();
    destination.guest.await_visits(5);
    destination.qmp.query("stop");
    assert_eq!(destination.qmp.status(), "paused");
    destination.qmp.query("cont");
    destination.guest.await_visits(1);
}

/// The whole story for one case.
fn moves(mode: Mode, workload: Workload, cpus: u8, transport: Transport) {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("96M").cpus(cpus);
    let (mut source, mut destination) = (machine.boot(workload.cmdline()), machine.receive(transport));
    let begin = source.guest.await_begin();
    assert!(begin.contains(&format!("cpus={cpus} pages={}", WORKING_SET / 4096)), "{begin}");
    source.guest.await_visits(5);
    let uri = destination.address();

    mode.drive(&mut source, &uri);
    mode.assert_was_followed(&mut source);
    assert_arrived(&mut source, &mut destination);

    assert_eq!(source.quit(), 0);
    source.guest.assert_talk_went_on_in(&destination.guest);
    assert_eq!(destination.end_guest(), 0, "the guest saw errors");
}

/// A machine of another kind, in every mode.
fn moves_in_every_mode(machine: &Machine, cmdline: &str) {
    if !host::has_kvm_and_uffd() {
        return;
    }
    for passes in [-1, 0, 1] {
        let (mut source, mut destination) = (machine.boot_and_begin(cmdline), machine.receive(Transport::Unix));
        source.guest.await_visits(5);
        source.set(json!({"x-postcopy-after": passes}));
        let uri = destination.address();
        source.migrate(&uri);
        source.qmp.await_migration("completed");
        assert_arrived(&mut source, &mut destination);
        assert_eq!(destination.end_guest(), 0, "the guest saw errors");
    }
}

#[test]
fn shared_memory() {
    moves_in_every_mode(&Machine::new("96M,shared=on"), "ws=64M order=rand write=50");
}

/// Two blocks of RAM, with the hole between them, and most of it never touched.
#[test]
fn memory_above_4_gib() {
    moves_in_every_mode(&Machine::new("5G"), "ws=32M order=rand write=50");
}

#[test]
fn four_vcpus_in_all_of_the_memory() {
    moves_in_every_mode(&Machine::new("64M").cpus(4), "order=hot write=50 zero=30");
}

/// The guest writes faster than the link carries: precopy would go on for ever, so the rest comes
/// by postcopy.
#[test]
fn a_precopy_that_does_not_converge() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("96M");
    let (mut source, mut destination) =
        (machine.boot_and_begin(Workload::Hot.cmdline()), machine.receive(Transport::Tcp));
    source.set(json!({"max-bandwidth": 100 << 20, "downtime-limit": 0}));
    let uri = destination.address();
    source.migrate(&uri);
    while source.qmp.await_event("MIGRATION_PASS")["pass"].as_u64().unwrap() < 3 {}
    source.qmp.query("migrate-start-postcopy");
    source.qmp.await_migration("completed");
    assert!(source.ram("dirty-sync-count") >= 2);
    assert!(source.ram("postcopy-bytes") > 0);
    assert_arrived(&mut source, &mut destination);
}

/// With a guest that writes little, passes become short until the rest fits the allowed downtime.
#[test]
fn a_precopy_of_several_passes() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("96M");
    let (mut source, mut destination) = (machine.boot_and_begin("ws=64M rate=3000"), machine.receive(Transport::Tcp));
    // Passes of a second and more, in which also a guest with little time writes something.
    source.set(json!({"max-bandwidth": 24 << 20, "downtime-limit": 0}));
    let uri = destination.address();
    source.migrate(&uri);
    while source.qmp.await_event("MIGRATION_PASS")["pass"].as_u64().unwrap() < 3 {}
    source.set(json!({"downtime-limit": 300}));
    source.qmp.await_migration("completed");
    assert!(source.ram("dirty-sync-count") >= 3);
    assert_eq!(source.ram("postcopy-bytes"), 0);
    assert_arrived(&mut source, &mut destination);
}

/// Pages of a pass go on the multifd channels, however many, and over both transports; without the
/// capability none does.
#[test]
fn on_several_channels_at_once() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    for (channels, passes, transport) in
        [(1, -1, Transport::Tcp), (5, 1, Transport::Tcp), (3, -1, Transport::Unix), (0, -1, Transport::Unix)]
    {
        let machine = Machine::new("96M");
        let (mut source, mut destination) =
            (machine.boot_and_begin(Workload::Hot.cmdline()), machine.receive(transport));
        source.guest.await_visits(5);
        source.switch("multifd", channels > 0);
        source.set(json!({"multifd-channels": channels.max(1), "x-postcopy-after": passes}));
        let uri = destination.address();
        source.migrate(&uri);
        source.qmp.await_migration("completed");
        let most = source.ram("multifd-bytes") > WORKING_SET / 5 * 4;
        assert_eq!(most, channels > 0, "{channels} channels: {}", source.qmp.query("query-migrate"));
        assert_arrived(&mut source, &mut destination);
        assert_eq!(destination.end_guest(), 0, "the guest saw errors");
    }
}

/// How many channels there are is settled when a migration begins.
#[test]
fn the_number_of_channels_stays_while_a_migration_runs() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("96M");
    let (mut source, mut destination) =
        (machine.boot_and_begin(Workload::Hot.cmdline()), machine.receive(Transport::Tcp));
    source.set(json!({"max-bandwidth": 10 << 20}));
    let uri = destination.address();
    source.migrate(&uri);
    source.qmp.await_migration("active");
    let refusal = source.qmp.refused("migrate-set-parameters", json!({"multifd-channels": 7}));
    assert!(refusal.contains("migration"), "{refusal}");
    source.set(json!({"max-bandwidth": 0, "multifd-channels": 2}));
    source.qmp.await_migration("completed");
    assert_arrived(&mut source, &mut destination);
}

/// One test for each case, so that a failure has a name.
macro_rules! matrix {
    ($($mode:ident $mode_name:ident),*) => {
        $(mod $mode_name {
            use super::*;
            matrix!(@workloads Mode::$mode; Idle idle, Hot hot, Sequential sequential);
        })*
    };
    (@workloads $mode:expr; $($workload:ident $workload_name:ident),*) => {
        $(mod $workload_name {
            use super::*;
            #[test]
            fn one_vcpu_over_tcp() {
                moves($mode, Workload::$workload, 1, Transport::Tcp);
            }
            #[test]
            fn one_vcpu_over_unix() {
                moves($mode, Workload::$workload, 1, Transport::Unix);
            }
            #[test]
            fn two_vcpus_over_tcp() {
                moves($mode, Workload::$workload, 2, Transport::Tcp);
            }
            #[test]
            fn two_vcpus_over_unix() {
                moves($mode, Workload::$workload, 2, Transport::Unix);
            }
        })*
    };
}

matrix!(Precopy precopy, Postcopy postcopy, Hybrid hybrid, MidPass in_the_middle_of_a_pass);
