use whimbrel_postcopy::stats::Status;

use super::*;
use crate::monitor::fake::report;

#[test]
fn qemus_fields_and_ours() {
    let mut report = report(Status::PostcopyActive);
    report.error = Some("why".to_owned());
    let listening = "tcp:[::1]:4444".parse().unwrap();
    assert_eq!(
        query_migrate(Some(&(Side::Destination, report)), Some(&listening)),
        json!({
            "socket-address": [{"type": "inet", "host": "::1", "port": "4444"}],
            "status": "postcopy-active",
            "total-time": 1283,
            "setup-time": 4,
            "downtime": 9,
            "error-desc": "why",
            "ram": {
                "transferred": 1_342_177_280u64,
                "remaining": 65_536,
                "total": 1_610_612_736u64,
                "duplicate": 11,
                "skipped": 0,
                "normal": 262_144,
                "normal-bytes": 1_073_741_824u64,
                "dirty-pages-rate": 500,
                "mbps": 8123.456,
                "dirty-sync-count": 3,
                "postcopy-requests": 77,
                "page-size": 4096,
                "multifd-bytes": 536_870_912u64,
                "pages-per-second": 250_000,
                "precopy-bytes": 1_073_741_824u64,
                "downtime-bytes": 12_345,
                "postcopy-bytes": 268_435_456u64,
                "dirty-sync-missed-zero-copy": 0,
            },
            "cpu-throttle-percentage": 45,
            "xbzrle-cache": {
                "cache-size": 67_108_864,
                "bytes": 4711,
                "pages": 99,
                "cache-miss": 13,
                "cache-miss-rate": 0.25,
                "encoding-rate": 86.078,
                "overflow": 2,
            },
            "postcopy-blocktime": 12,
            "postcopy-vcpu-blocktime": [14, 15],
            "postcopy-latency": 142_500,
            "postcopy-latency-dist": [0, 1, 2, 3, 4, 5, 60, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            "postcopy-vcpu-latency": [143_000, 142_000],
            "postcopy-non-vcpu-latency": 131_000,
            "x-demand-pages": {"count": 77, "mean-ns": 142_500, "p50-ns": 120_000, "p99-ns": 1_313_000, "max-ns": 7_700_000},
            "x-switchover-steps": [{"name": "pause", "at-us": 800}, {"name": "load", "at-us": 4100}],
        })
    );
}

#[test]
fn what_is_not_known_is_left_out() {
    let mut report = report(Status::Active);
    (report.downtime, report.expected_downtime) = (None, None);
    (report.demand, report.blocktime) = (None, None);
    report.deltas = None;
    report.vcpu_blocktime.clear();
    report.steps.clear();
    report.throttling = None;
    report.ram.mbps = f64::NAN;
    let value = query_migrate(Some(&(Side::Source, report)), None);
    let names: Vec<&String> = value.as_object().unwrap().keys().collect();
    assert_eq!(names, ["status", "total-time", "setup-time", "ram", "remaining"]);
    assert_eq!(value["ram"]["mbps"], 0.0);
}

/// The words of QEMU's older `info migrate`, each from the field that has it.
#[test]
fn the_older_layout_can_be_had_from_it() {
    let value = query_migrate(Some(&(Side::Source, report(Status::Completed))), None);
    let ram = &value["ram"];
    let kbytes = |name: &str| ram[name].as_u64().unwrap() >> 10;
    let older = [
        format!("Migration status: {}", value["status"].as_str().unwrap()),
        format!("total time: {} milliseconds", value["total-time"]),
        format!("downtime: {} milliseconds", value["downtime"]),
        format!("setup: {} milliseconds", value["setup-time"]),
        format!("transferred ram: {} kbytes", kbytes("transferred")),
        format!("throughput: {:.2} mbps", ram["mbps"].as_f64().unwrap()),
        format!("remaining ram: {} kbytes", kbytes("remaining")),
        format!("total ram: {} kbytes", kbytes("total")),
        format!("duplicate: {} pages", ram["duplicate"]),
        format!("skipped: {} pages", ram["skipped"]),
        format!("normal: {} pages", ram["normal"]),
        format!("normal bytes: {} kbytes", kbytes("normal-bytes")),
        format!("dirty sync count: {}", ram["dirty-sync-count"]),
        format!("page size: {} kbytes", kbytes("page-size")),
    ];
    assert_eq!(
        older.join("\n"),
        "Migration status: completed\n\
         total time: 1283 milliseconds\n\
         downtime: 9 milliseconds\n\
         setup: 4 milliseconds\n\
         transferred ram: 1310720 kbytes\n\
         throughput: 8123.46 mbps\n\
         remaining ram: 64 kbytes\n\
         total ram: 1572864 kbytes\n\
         duplicate: 11 pages\n\
         skipped: 0 pages\n\
         normal: 262144 pages\n\
         normal bytes: 1048576 kbytes\n\
         dirty sync count: 3\n\
         page size: 4 kbytes"
    );
    // One page is one page in all of it.
    assert_eq!(
        ram["normal-bytes"].as_u64().unwrap(),
        ram["normal"].as_u64().unwrap() * ram["page-size"].as_u64().unwrap()
    );
}

#[test]
fn a_limit_shows_for_how_long_vcpus_rest() {
    let throttling = Some(Throttling::DirtyLimit(Duration::from_micros(2500)));
    let value = query_migrate(Some(&(Side::Source, Report { throttling, ..report(Status::Active) })), None);
    assert_eq!(value["dirty-limit-throttle-time-per-round"], 2500);
    assert_eq!(value.get("cpu-throttle-percentage"), None);
}

/// QEMU tells each of these where it means something, and only there.
#[test]
fn each_moment_has_its_members() {
    let listening = "unix:/run/in".parse().unwrap();
    let has =
        |side, status, name: &str| query_migrate(Some(&(side, report(status))), Some(&listening)).get(name).is_some();
    use Status::{Active, Cancelled, Completed, Failed, Failing, PostcopyActive, PostcopyPaused, Setup};
    let (here, there) = (Side::Source, Side::Destination);
    for status in [Setup, Active, PostcopyActive, PostcopyPaused] {
        assert!(has(there, status, "socket-address"), "{status:?}");
    }
    // A destination that has every page may wait for a source that does not know of it.
    assert!(has(there, Completed, "socket-address"));
    assert!(!has(there, Failed, "socket-address") && !has(here, Active, "socket-address"));
    assert!(has(here, Active, "expected-downtime") && !has(here, Active, "downtime"));
    assert!(has(here, Completed, "downtime") && !has(here, Completed, "expected-downtime"));
    assert!(has(here, PostcopyActive, "downtime") && !has(here, PostcopyActive, "expected-downtime"));
    assert!(has(here, Active, "remaining") && has(here, PostcopyPaused, "remaining"));
    assert!(!has(here, Completed, "remaining") && !has(there, Active, "remaining"));
    for status in [Setup, Failing, Failed, Cancelled] {
        let value = query_migrate(Some(&(here, report(status))), None);
        assert_eq!(value, json!({"status": status.name()}));
    }
    // Without the capability nothing is measured.
    let report = Report { blocktime: None, ..report(Completed) };
    let value = query_migrate(Some(&(there, report)), None);
    assert!(value.as_object().unwrap().keys().all(|name| !name.starts_with("postcopy-latency")), "{value}");
    assert_eq!(query_migrate(None, Some(&listening)), json!({}));
}
