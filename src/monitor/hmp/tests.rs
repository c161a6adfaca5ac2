use std::time::Duration;

use whimbrel_postcopy::source::Policy;
use whimbrel_postcopy::stats::Status;

use super::*;
use crate::fds::Handed;
use crate::migration::MigrationEvent;
use crate::migration::Side;
use crate::monitor::event::Event;
use crate::monitor::fake::{FakeVm, report};
use crate::monitor::info_migrate::progress_bar;
use crate::monitor::session::{Flow, Session};
use crate::snapshots::{JobEvent, JobStatus};

/// One line's answer.
fn say(vm: &FakeVm, line: &str) -> String {
    run(line, vm, &mut Handed::default()).text
}

fn receive(session: &mut HmpSession, vm: &FakeVm, input: &str) -> (Flow, String) {
    let mut out = Vec::new();
    let flow = session.receive(input.as_bytes(), vm, &mut out);
    (flow, String::from_utf8(out).unwrap())
}

#[test]
fn commands_reach_the_machine() {
    let vm = FakeVm::new();
    for (line, told) in [
        ("migrate -d tcp:host:1", "migrate tcp:host:1"),
        ("migrate -dr \"unix:/a b\"", "resume unix:/a b"),
        ("migrate_incoming unix:/x", "incoming unix:/x"),
        ("migrate_recover unix:/x", "recover unix:/x"),
        ("migrate_cancel", "cancel"),
        ("migrate_start_postcopy", "start-postcopy"),
        ("migrate_pause", "pause"),
        ("migrate_continue pre-switchover", "continue"),
        ("  stop  ", "stop"),
        ("system_reset", "reset"),
        ("announce_self", "announce [] \"\" [50, 550, 5, 100]"),
        ("announce_self net0,net1 x", "announce [\"net0\", \"net1\"] \"x\" [50, 550, 5, 100]"),
        ("balloon 256", "balloon 268435456"),
        ("balloon 1G", "balloon 1073741824"),
        ("calc_dirty_rate 2", "measure 2 second 512 page-sampling"),
        ("calc_dirty_rate 2 1024", "measure 2 second 1024 page-sampling"),
        ("calc_dirty_rate -b 1", "measure 1 second 512 dirty-bitmap"),
        ("set_vcpu_dirty_limit 10", "dirty limit 10 None"),
        ("set_vcpu_dirty_limit 10 1", "dirty limit 10 Some(1)"),
        ("cancel_vcpu_dirty_limit", "no dirty limit None"),
        ("system_powerdown", "powerdown"),
        ("q", "quit"),
        ("exit", "quit"),
        ("", ""),
    ] {
        say(&vm, line);
        assert_eq!(vm.told(), told, "{line}");
    }
}

#[test]
fn a_snapshot_is_waited_for_and_its_end_told() {
    let vm = FakeVm::new();
    for (end, told) in [(None, ""), (Some("no room"), "Error: no room\r\n")] {
        let mut session = HmpSession::new();
        assert_eq!(receive(&mut session, &vm, "savevm before\nstop\n").1, "");
        assert_eq!(vm.told(), "snapshot-save before", "what was typed ahead waits too");
        assert!(!session.wants_input() && session.tick_every().is_some());
        let event = Event::of_job(&JobEvent { id: "#1".into(), status: JobStatus::Concluded, internal: true });
        let mut notify = |vm: &FakeVm| {
            let mut out = Vec::new();
            assert_eq!(session.notify(&event, vm, &mut out), Flow::Continue);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(notify(&vm), "");
        {
            let mut jobs = vm.jobs.borrow_mut();
            (jobs[0].status, jobs[0].error) = (JobStatus::Concluded, end.map(str::to_owned));
        }
        assert_eq!(notify(&vm), format!("{told}(whimbrel) (whimbrel) "));
        assert_eq!(vm.told(), "dismiss #1; stop");
    }
    assert_eq!(
        run_detached("loadvm x", &vm, 0),
        "this connection cannot wait for the snapshot: it continues detached\r\n"
    );
    assert_eq!(
        say(&vm, "info snapshots"),
        "List of snapshots present on all disks:\n\
         ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT\n\
         --      before           6.63 MiB 1970-01-01 00:00:00  0001:02:03.004         --\n\
         --      a name that is long   33 MiB 1970-01-01 00:00:00              --         --\n"
    );
}

#[test]
fn a_descriptor_has_a_name() {
    let vm = FakeVm::new();
    let (_, writer) = std::io::pipe().unwrap();
    let mut session = HmpSession::new();
    session.hand(vec![writer.into()]);
    assert_eq!(receive(&mut session, &vm, "getfd wire\n").1, "(whimbrel) ");
    assert_eq!(say(&vm, "getfd wire"), "Error: No file descriptor supplied via SCM_RIGHTS\n");
    assert_eq!(say(&vm, "closefd wire"), "");
    assert_eq!(say(&vm, "closefd wire"), "Error: File descriptor named 'wire' not found\n");
}

#[test]
fn mistakes_are_named() {
    let vm = FakeVm::new();
    for (line, answer) in [
        ("x y", "unknown command: 'x'\n"),
        ("migrate_cancle", "unknown command: 'migrate_cancle'; did you mean 'migrate_cancel'?\n"),
        ("info migrat -a", "unknown command: 'info migrat'; did you mean 'info migrate'?\n"),
        ("help stpo", "unknown command: 'stpo'; did you mean 'stop'?\n"),
        (
            "migrate_set_capability postcopy_ram on",
            "Error: there is no capability 'postcopy_ram'; did you mean 'postcopy-ram'? \
             ('info migrate_capabilities' lists them)\n",
        ),
        (
            "migrate_set_parameter max-bandwith 1",
            "Error: there is no parameter 'max-bandwith'; did you mean 'max-bandwidth'? \
             ('info migrate_parameters' lists them)\n",
        ),
        ("info x", "unknown command: 'info x'\n"),
        ("cont", "Error: the guest is elsewhere\n"),
        ("migrate -x tcp:h:1", "migrate: unsupported option -x\nTry \"help migrate\" for more information\n"),
        ("migrate", "migrate: 'uri' is missing\nTry \"help migrate\" for more information\n"),
        ("stop now", "stop: extraneous characters at the end of line\nTry \"help stop\" for more information\n"),
        (
            "migrate -d rdma:h:7",
            "Error: migration address 'rdma:h:7': 'rdma:' is not supported; \
             use tcp:HOST:PORT, unix:PATH, exec:COMMAND, fd:NAME or file:PATH\n",
        ),
        ("migrate \"unix:", "a quoted word lacks its closing '\"'\n"),
        (
            "migrate_set_capability warp on",
            "Error: there is no capability 'warp' ('info migrate_capabilities' lists them)\n",
        ),
        ("migrate_set_capability rdma-pin-all on", "Error: capability rdma-pin-all is not supported\n"),
        (
            "migrate_set_capability return-path off",
            "Error: capability return-path is always on here and cannot be switched off\n",
        ),
        (
            "migrate_set_capability events yes",
            "migrate_set_capability: 'state' expects 'on' or 'off'\nTry \"help migrate_set_capability\" for more information\n",
        ),
        ("migrate_set_parameter tls-authz 1", "Error: parameter tls-authz is not supported\n"),
        (
            "migrate_set_parameter tls-creds pki",
            "Error: Parameter 'tls-creds' expects the path of a directory that begins with '/', or nothing for no TLS\n",
        ),
        (
            "migrate_set_parameter x-keepalive soon",
            "Error: Invalid parameter type for 'x-keepalive', expected: integer\n",
        ),
        (
            "migrate_set_parameter x-keepalive 1000",
            "Error: Parameter 'x-keepalive' expects an integer in the range of 2000 to 28800000 ms\n",
        ),
        (
            "migrate_set_parameter announce-rounds 1001",
            "Error: Parameter 'announce-rounds' expects a value between 0 and 1000\n",
        ),
        ("calc_dirty_rate -r 1", "Error: mode dirty-ring is not enabled, use other method instead.\n"),
        ("calc_dirty_rate -rb 1", "Error: Either dirty ring or dirty bitmap can be specified!\n"),
        ("calc_dirty_rate 0", "Error: Calculation time is out of range [50ms, 60000ms].\n"),
        ("calc_dirty_rate soon", "Error: Parameter 'second' expects a number\n"),
        ("calc_dirty_rate 1 1", "Error: sample-pages is out of range[128, 65536].\n"),
        (
            "migrate_set_parameter cpu-throttle-tailslow 1",
            "Error: Invalid parameter type for 'cpu-throttle-tailslow', expected: 'on' or 'off'\n",
        ),
        (
            "migrate_set_parameter cpu-throttle-initial 100",
            "Error: Parameter 'cpu-throttle-initial' expects an integer in the range of 1 to 99\n",
        ),
        ("balloon 0", "Error: Parameter 'value' expects a size\n"),
        (
            "migrate_set_parameter warp 1",
            "Error: there is no parameter 'warp' ('info migrate_parameters' lists them)\n",
        ),
    ] {
        assert_eq!(say(&vm, line), answer, "{line}");
        assert_eq!(vm.told(), "", "{line}");
    }
}

#[test]
fn parameters_in_the_units_people_use() {
    let vm = FakeVm::new();
    for line in [
        "migrate_set_parameter max-bandwidth 100",
        "migrate_set_parameter max-postcopy-bandwidth 1.5G",
        "migrate_set_parameter downtime-limit 50",
        "migrate_set_parameter x-postcopy-after 2",
        "migrate_set_parameter announce-rounds 7",
        "migrate_set_parameter multifd-compression zstd",
        "migrate_set_parameter multifd-zstd-level 7",
        // As in QEMU: a bare number is in bytes.
        "migrate_set_parameter xbzrle-cache-size 16777216",
        "migrate_set_parameter xbzrle-cache-size 32M",
        "migrate_set_parameter x-keepalive 3000",
        "migrate_set_parameter cpu-throttle-tailslow on",
        "migrate_set_parameter cpu-throttle-increment 25",
        "migrate_set_parameter tls-creds /etc/pki/qemu",
        "migrate_set_parameter tls-hostname there",
        "migrate_set_parameter tls-hostname \"\"",
    ] {
        assert_eq!(say(&vm, line), "");
    }
    assert_eq!(
        say(&vm, "info migrate_parameters"),
        "announce-initial: 50 ms\n\
         announce-max: 550 ms\n\
         announce-rounds: 7\n\
         announce-step: 100 ms\n\
         throttle-trigger-threshold: 50\n\
         cpu-throttle-initial: 20\n\
         cpu-throttle-increment: 25\n\
         cpu-throttle-tailslow: on\n\
         max-cpu-throttle: 99\n\
         tls-creds: '/etc/pki/qemu'\n\
         tls-hostname: ''\n\
         max-bandwidth: 104857600 bytes/second\n\
         avail-switchover-bandwidth: 0 bytes/second\n\
         max-postcopy-bandwidth: 1610612736 bytes/second\n\
         downtime-limit: 50 ms\n\
         multifd-channels: 2\n\
         multifd-compression: zstd\n\
         multifd-zlib-level: 1\n\
         multifd-zstd-level: 7\n\
         zero-page-detection: multifd\n\
         xbzrle-cache-size: 33554432 bytes\n\
         x-vcpu-dirty-limit-period: 1000 ms\n\
         vcpu-dirty-limit: 1 MB/s\n\
         mode: normal\n\
         direct-io: off\n\
         x-postcopy-after: 2 passes\n\
         postcopy-policy: after-passes=2\n\
         x-reconnect: 0 s\n\
         x-keepalive: 3000 ms\n"
    );
    assert_eq!(say(&vm, "migrate_set_parameter x-postcopy-after -1"), "");
    assert_eq!(vm.parameters.borrow().postcopy_policy, Policy::Manual);
    assert_eq!(say(&vm, "migrate_set_parameter postcopy-policy time=5"), "");
    assert_eq!(vm.parameters.borrow().postcopy_policy, Policy::After(Duration::from_secs(5)));
}

#[test]
fn capabilities_switch() {
    let vm = FakeVm::new();
    say(&vm, "migrate_set_capability postcopy-blocktime off");
    say(&vm, "migrate_set_capability events on");
    assert_eq!(
        say(&vm, "info migrate_capabilities"),
        "xbzrle: off\nrdma-pin-all: off\nauto-converge: off\nevents: on\npostcopy-ram: on\nx-colo: off\nrelease-ram: off\n\
         return-path: on\npause-before-switchover: off\nmultifd: on\ndirty-bitmaps: off\npostcopy-blocktime: off\n\
         late-block-activate: off\nx-ignore-shared: off\nvalidate-uuid: off\nbackground-snapshot: off\nzero-copy-send: off\n\
         postcopy-preempt: on\nswitchover-ack: off\ndirty-limit: off\nmapped-ram: off\nzero-blocks: on\n"
    );
    // What is not built is off, and may be switched off.
    assert_eq!(say(&vm, "migrate_set_capability rdma-pin-all off"), "");
    let refused = say(&vm, "migrate_set_capability rdma-pin-all on");
    assert_eq!(refused, "Error: capability rdma-pin-all is not supported\n");
}

#[test]
fn small_answers() {
    let vm = FakeVm::new();
    assert_eq!(say(&vm, "info status"), "VM status: running\n");
    assert_eq!(say(&vm, "info cpus"), "* CPU #0: thread_id=100 model=host\n  CPU #1: thread_id=101 model=host\n");
    assert_eq!(say(&vm, "info registers"), "CPU#0\nrip=1\n");
    assert_eq!(say(&vm, "info registers 1"), "CPU#1\nrip=2\n");
    assert_eq!(say(&vm, "info registers -a"), "CPU#0\nrip=1\n\nCPU#1\nrip=2\n");
    assert_eq!(say(&vm, "info registers 2"), "Error: CPU#2 not available: 'info cpus' lists them\n");
    assert_eq!(say(&vm, "info registers x"), "Error: Parameter 'vcpu' expects a number\n");
    assert_eq!(say(&vm, "info name"), "guest\n");
    assert_eq!(say(&vm, "info uuid"), "6f0ec1a4-7d53-4a3c-9a56-0d1c1f2b3a4d\n");
    assert_eq!(say(&vm, "info balloon"), "balloon: actual=300\n");
    assert_eq!(
        say(&vm, "info network"),
        "net0: model=virtio-net,macaddr=52:54:00:12:34:56\n \\ type=tap,ifname=tap7\n\
         net1: model=virtio-net,macaddr=52:54:00:12:34:57\n \\ type=tap,ifname=tap8\n"
    );
    assert_eq!(say(&vm, "info migrate"), "");
}

#[test]
fn help_knows_every_command() {
    let vm = FakeVm::new();
    let (all, info) = (say(&vm, "help"), say(&vm, "info"));
    for face in crate::monitor::table::commands().filter_map(|it| it.hmp.as_ref()) {
        let line = format!("{} -- ", face.usage());
        assert!(all.contains(&line) || info.contains(&line), "{line}");
        assert!(say(&vm, &format!("help {}", face.name)).starts_with(&line));
    }
    assert_eq!(say(&vm, "?"), all);
    assert_eq!(say(&vm, "? ?"), say(&vm, "help help"));
    assert_eq!(say(&vm, "help x"), "unknown command: 'x'\n");
}

#[test]
fn lines_may_come_in_pieces() {
    let vm = FakeVm::new();
    let mut session = HmpSession::new();
    assert_eq!(receive(&mut session, &vm, "sto").1, "");
    assert_eq!(receive(&mut session, &vm, "p\r\nsystem_reset\ninfo na").1, "(whimbrel) (whimbrel) ");
    assert_eq!(vm.told(), "stop; reset");
    assert_eq!(receive(&mut session, &vm, "me\n").1, "guest\r\n(whimbrel) ");
}

#[test]
fn an_endless_line_ends_the_conversation() {
    let vm = FakeVm::new();
    let mut session = HmpSession::new();
    let (flow, text) = receive(&mut session, &vm, &"x".repeat((64 << 10) + 1));
    assert_eq!(flow, Flow::Close);
    assert!(text.contains("longer than 64 KiB"));
}

#[test]
fn without_d_the_prompt_waits_for_the_end() {
    let vm = FakeVm::new();
    let mut session = HmpSession::new();
    vm.set_status(Side::Source, Status::Active, None);
    let (_, text) = receive(&mut session, &vm, "migrate tcp:h:1\nstop\n");
    assert_eq!(text, "");
    assert!(!session.wants_input() && session.tick_every() == Some(Duration::from_secs(1)));
    assert_eq!(vm.told(), "migrate tcp:h:1", "what was typed ahead waits too");

    let mut out = Vec::new();
    let _ = session.tick(&vm, &mut out);
    let text = String::from_utf8(std::mem::take(&mut out)).unwrap();
    assert!(text.starts_with("active: 1.3 s, 64 KiB of 1.5 GiB left"), "{text}");

    vm.set_status(Side::Source, Status::Failed, Some("the destination died"));
    let event = Event::of_migration(&MigrationEvent::Status(Status::Failed));
    let _ = session.notify(&event, &vm, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "Error: migration failed: the destination died\r\n(whimbrel) (whimbrel) "
    );
    assert_eq!(vm.told(), "stop");
    assert!(session.wants_input() && session.tick_every().is_none());
}

#[test]
fn on_a_terminal_a_bar_shows_how_far_it_is() {
    let vm = FakeVm::new();
    let mut session = HmpSession::on_terminal();
    vm.set_status(Side::Source, Status::Active, None);
    let (_, text) = receive(&mut session, &vm, "migrate tcp:h:1\n");
    assert_eq!(text, "");
    assert!(session.tick_every().is_some_and(|every| every < Duration::from_secs(1)));
    let mut out = Vec::new();
    vm.report.borrow_mut().as_mut().unwrap().1.ram.remaining = 1_207_959_552;
    let _ = session.tick(&vm, &mut out);
    vm.set_status(Side::Source, Status::Completed, None);
    let _ = session.tick(&vm, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "\r\x1b[Kactive [#####               ]  25%, 1.12 GiB left, 8123 Mbps\
         \r\x1b[Kmigration completed\r\n(whimbrel) "
    );
}

#[test]
fn the_bar_fits_its_line_whatever_is_reported() {
    let mut longest = report(Status::PostcopyRecoverSetup);
    (longest.ram.remaining, longest.ram.mbps) = (1001 << 40, 400_000.0);
    for (total, bar) in [(0, "[                    ]   0%"), (u64::MAX, "[################### ]  99%")] {
        longest.ram.total = total;
        let text = progress_bar(&longest);
        assert!(text.contains(bar) && text.len() < 80, "{text}");
    }
}

#[test]
fn a_refused_migration_does_not_wait() {
    let vm = FakeVm::new();
    vm.refuses.set(true);
    let mut session = HmpSession::new();
    let (_, text) = receive(&mut session, &vm, "migrate tcp:h:1\n");
    assert_eq!(text, "Error: There's a migration process in progress\r\n(whimbrel) ");
    assert!(session.wants_input());
}

#[test]
fn dirty_rates_and_limits() {
    let vm = FakeVm::new();
    assert_eq!(
        say(&vm, "calc_dirty_rate 2"),
        "Starting dirty rate measurement with period 2 seconds\n[Please use 'info dirty_rate' to check results]\n"
    );
    assert_eq!(
        say(&vm, "info dirty_rate"),
        "Status: measured\nStart Time: 1700000000000 (ms)\nSample Pages: 512 (per GB)\nPeriod: 2 (sec)\n\
         Mode: page-sampling\nDirty rate: 34 (MB/s)\n"
    );
    assert_eq!(say(&vm, "info vcpu_dirty_limit"), "Dirty page limit not enabled!\n");
    let changed = "[Please use 'info vcpu_dirty_limit' to query dirty limit for virtual CPU]\n";
    assert_eq!(say(&vm, "set_vcpu_dirty_limit 10"), changed);
    assert_eq!(
        say(&vm, "info vcpu_dirty_limit"),
        "vcpu[0], limit rate 10 (MB/s), current rate 9 (MB/s)\nvcpu[1], limit rate 10 (MB/s), current rate 9 (MB/s)\n"
    );
    assert_eq!(say(&vm, "cancel_vcpu_dirty_limit"), changed);
}
