use whimbrel_postcopy::stats::Status;

use super::*;
use crate::monitor::fake::report;

#[test]
fn the_rows_of_qemu() {
    let report = (Side::Destination, report(Status::PostcopyActive));
    assert_eq!(
        info_migrate(Some(&report), Some(&Uri::Unix("/run/in".into())), false),
        "Status: \t\tpostcopy-active\n\
         Sockets: [\n\
         \tunix:/run/in\n\
         ]\n\
         Time (ms): \t\ttotal=1283, setup=4, down=9\n\
         RAM info:\n\
         \x20 Throughput (Mbps): \t8123.46\n\
         \x20 Sizes: \t\tpagesize=4 KiB, total=1.5 GiB\n\
         \x20 Transfers: \t\ttransferred=1.25 GiB, remain=64 KiB\n\
         \x20   Channels: \t\tprecopy=1 GiB, multifd=512 MiB, postcopy=256 MiB\n\
         \x20   Page Types: \tnormal=262144, zero=11\n\
         \x20 Page Rates (pps): \ttransfer=250000, dirty=500\n\
         \x20 Others: \t\tdirty_syncs=3, postcopy_req=77, downtime_bytes=12345\n\
         Demand pages: \t\tcount=77\n\
         \x20 Latency (us): \tmean=142, p50=120, p99=1313, max=7700\n"
    );
}

#[test]
fn all_adds_what_fills_a_screen() {
    let report = (Side::Destination, report(Status::Completed));
    let short = info_migrate(Some(&report), None, false);
    let long = info_migrate(Some(&report), None, true);
    assert_eq!(
        long.strip_prefix(&short).unwrap(),
        "XBZRLE: size=67108864, transferred=4711, pages=99, miss=13\n\
         \x20 miss_rate=0.25, encode_rate=86.08, overflow=2\n\
         CPU Throttle (%): 45\n\
         Postcopy Blocktime (ms): 12\n\
         Postcopy vCPU Blocktime (ms):\n \
         [14, 15]\n\
         Postcopy Latency (ns): 142500\n\
         Postcopy non-vCPU Latency (ns): 131000\n\
         Postcopy vCPU Latencies (ns):\n \
         [143000, 142000]\n\
         Postcopy Latency Distribution:\n\
         \x20 [     1 us -     2 us ]:          0\n\
         \x20 [     2 us -     4 us ]:          1\n\
         \x20 [     4 us -     8 us ]:          2\n\
         \x20 [     8 us -    16 us ]:          3\n\
         \x20 [    16 us -    32 us ]:          4\n\
         \x20 [    32 us -    64 us ]:          5\n\
         \x20 [    64 us -   128 us ]:         60\n\
         \x20 [   128 us -   256 us ]:          1\n\
         \x20 [   256 us -   512 us ]:          0\n\
         \x20 [   512 us -     1 ms ]:          0\n\
         \x20 [     1 ms -     2 ms ]:          1\n\
         \x20 [     2 ms -     4 ms ]:          0\n\
         \x20 [     4 ms -     8 ms ]:          0\n\
         \x20 [     8 ms -    16 ms ]:          0\n\
         \x20 [    16 ms -    32 ms ]:          0\n\
         \x20 [    32 ms -    65 ms ]:          0\n\
         \x20 [    65 ms -   131 ms ]:          0\n\
         \x20 [   131 ms -   262 ms ]:          0\n\
         \x20 [   262 ms -   524 ms ]:          0\n\
         \x20 [   524 ms -    1 sec ]:          0\n\
         \x20 [    1 sec -    2 sec ]:          0\n\
         \x20 [    2 sec -    4 sec ]:          0\n\
         \x20 [    4 sec -    8 sec ]:          0\n\
         \x20 [    8 sec -   16 sec ]:          0\n\
         Switchover (us from its start):\n\
         \x20 pause                       800\n\
         \x20 load                       4100\n"
    );
}

#[test]
fn a_failure_says_why() {
    let mut failed = report(Status::Failed);
    failed.error = Some("the destination died".to_owned());
    let text = info_migrate(Some(&(Side::Source, failed)), None, true);
    assert_eq!(text, "Status: \t\tfailed (the destination died)\n");
}

/// People's scripts look for these rows.
#[test]
fn there_is_nothing_to_say_before_the_first_and_what_remains_while_it_runs() {
    assert_eq!(info_migrate(None, None, true), "");
    let text = info_migrate(Some(&(Side::Source, report(Status::Active))), None, false);
    let begin =
        "Status: \t\tactive\nTime (ms): \t\ttotal=1283, setup=4, exp_down=310\nRemaining: \t\t64 KiB\nRAM info:\n";
    assert!(text.starts_with(begin), "{text}");
    let text = info_migrate(Some(&(Side::Source, report(Status::Completed))), None, false);
    assert!(
        text.starts_with("Status: \t\tcompleted\nTime (ms): \t\ttotal=1283, setup=4, down=9\nRAM info:\n"),
        "{text}"
    );
}

#[test]
fn a_limit_shows_for_how_long_vcpus_rest() {
    let throttling = Some(Throttling::DirtyLimit(Duration::from_micros(2500)));
    let text = info_migrate(Some(&(Side::Source, Report { throttling, ..report(Status::Active) })), None, true);
    assert!(text.contains("Dirty-limit Throttle (us): 2500\n") && !text.contains("CPU Throttle"), "{text}");
}
