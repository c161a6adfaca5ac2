//! Answers and events against QEMU's schema, as the crate qapi-qmp has it in types: who talks to
//! QEMU with those can talk to us.

use qapi_qmp as qemu;
use serde::de::DeserializeOwned;
use serde_json::json;
use whimbrel_postcopy::stats::Status;

use super::QmpSession;
use super::tests::run;
use crate::machine::{MachineEvent, ShutdownCause};
use crate::migration::{MigrationEvent, Side};
use crate::monitor::event::Event;
use crate::monitor::fake::{FakeVm, report};
use crate::monitor::session::Session;
use crate::snapshots::{JobEvent, JobStatus};

/// The answer to a query, in QEMU's type.
fn query<T: DeserializeOwned>(vm: &FakeVm, name: &str) -> T {
    let answer = run(vm, name, json!({}))["return"].take();
    serde_json::from_value(answer.clone()).unwrap_or_else(|error| panic!("{name}: {error}: {answer}"))
}

#[test]
fn the_greeting_is_qemus() {
    let mut greeting = Vec::new();
    QmpSession::new().greet(&mut greeting);
    let greeting: qemu::QapiCapabilities = serde_json::from_slice(&greeting).unwrap();
    assert!(greeting.QMP.version.package.starts_with("whimbrel"));
}

#[test]
fn answers_are_qemus() {
    let vm = FakeVm::new();
    assert!(query::<qemu::StatusInfo>(&vm, "query-status").running);
    assert_eq!(query::<qemu::NameInfo>(&vm, "query-name").name.as_deref(), Some("guest"));
    assert!(query::<qemu::KvmInfo>(&vm, "query-kvm").enabled);
    assert_eq!(query::<Vec<qemu::CpuInfoFast>>(&vm, "query-cpus-fast").len(), 2);
    assert!(query::<Vec<qemu::CommandInfo>>(&vm, "query-commands").iter().any(|it| it.name == "migrate"));
    assert_eq!(query::<qemu::BalloonInfo>(&vm, "query-balloon").actual, 300 << 20);
    assert_eq!(query::<qemu::MigrationParameters>(&vm, "query-migrate-parameters").downtime_limit, Some(300));
    let parameters: qemu::MigrationParameters = query(&vm, "query-migrate-parameters");
    assert_eq!(parameters.multifd_compression, Some(qemu::MultiFDCompression::none));
    assert_eq!((parameters.multifd_zlib_level, parameters.multifd_zstd_level), (Some(1), Some(1)));
    assert_eq!(parameters.xbzrle_cache_size, Some(64 << 20));
    assert!(!query::<Vec<qemu::MigrationCapabilityStatus>>(&vm, "query-migrate-capabilities").is_empty());
    assert!(!query::<Vec<qemu::SchemaInfo>>(&vm, "query-qmp-schema").is_empty());
    run(&vm, "snapshot-save", json!({"job-id": "job0", "tag": "before", "vmstate": "", "devices": []}));
    let jobs = query::<Vec<qemu::JobInfo>>(&vm, "query-jobs");
    assert_eq!((jobs.len(), jobs[0].id.as_str()), (1, "job0"));
    let _: qemu::VersionInfo = query(&vm, "query-version");
    let _: Vec<qemu::BlockInfo> = query(&vm, "query-block");
}

#[test]
fn a_migrations_report_is_qemus_in_every_status() {
    use Status::*;
    let vm = FakeVm::new();
    let _: qemu::MigrationInfo = query(&vm, "query-migrate");
    // Its schema is older than `postcopy-recover-setup`.
    let all = [
        None,
        Setup,
        Cancelling,
        Cancelled,
        Active,
        PostcopyActive,
        PostcopyPaused,
        PostcopyRecover,
        PreSwitchover,
        Device,
        Completed,
        Failed,
    ];
    for status in all {
        vm.report.replace(Some((Side::Source, report(status))));
        let info: qemu::MigrationInfo = query(&vm, "query-migrate");
        if matches!(status, Setup | Cancelling | Cancelled | Failed) {
            assert!(info.ram.is_none());
            continue;
        }
        let cache = info.xbzrle_cache.unwrap();
        assert_eq!((cache.cache_size, cache.pages, cache.cache_miss, cache.overflow), (64 << 20, 99, 13, 2));
        assert_eq!((cache.cache_miss_rate, cache.encoding_rate), (0.25, 86.078));
        let ram = info.ram.unwrap();
        assert_eq!((ram.normal, ram.normal_bytes, ram.page_size), (262_144, 1 << 30, 4096));
        assert_eq!((info.total_time, info.postcopy_vcpu_blocktime), (Some(1283), Some(vec![14, 15])));
    }
    assert_eq!(query::<Vec<qemu::YankInstance>>(&vm, "query-yank").len(), 1);
}

#[test]
fn events_are_qemus() {
    let vm = FakeVm::new();
    let of_machine = |event| Event::of_machine(event, &vm);
    let events = [
        of_machine(MachineEvent::Stop),
        of_machine(MachineEvent::Resume),
        of_machine(MachineEvent::Powerdown),
        of_machine(MachineEvent::BalloonChange),
        of_machine(MachineEvent::Reset { guest: true }),
        of_machine(MachineEvent::Reset { guest: false }),
        of_machine(MachineEvent::Shutdown(ShutdownCause::GuestPanic)),
        of_machine(MachineEvent::Shutdown(ShutdownCause::GuestShutdown)),
        Event::shutdown(false, "host-signal"),
        Event::shutdown(false, "host-error"),
        Event::shutdown(false, "host-qmp-quit"),
        Event::of_migration(&MigrationEvent::Status(Status::PostcopyActive)),
        Event::of_migration(&MigrationEvent::Pass(1)),
        Event::of_job(&JobEvent { id: "job0".into(), status: JobStatus::Concluded, internal: false }),
    ];
    for event in events {
        let value = event.to_json();
        let read: Result<qemu::Event, _> = serde_json::from_value(value.clone());
        assert!(read.is_ok(), "{value}: {read:?}");
    }
}
