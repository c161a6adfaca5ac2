//! `query-migrate`: QEMU's fields; what is ours alone begins with `x-`.

use std::time::Duration;

use serde_json::{Map, Value, json};
use whimbrel_postcopy::ram::PAGE_SIZE;
use whimbrel_postcopy::stats::{
    LatencyReport, PageMap, RamReport, Report, Status, Throttling, Whereabouts, XbzrleReport,
};

use crate::migration::Side;
use crate::migration::uri::Uri;

/// The whole object; empty before the first migration, as in QEMU. `listening` is where this
/// process waits for a guest, or for the source of one.
pub fn query_migrate(report: Option<&(Side, Report)>, listening: Option<&Uri>) -> Value {
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| {
        fields.insert(name.to_owned(), value);
    };
    let Some((side, report)) = report else {
        return Value::Object(fields);
    };
    if let Some(uri) = listening.filter(|_| waits(*side, report.status)) {
        set("socket-address", json!(socket_address(uri).into_iter().collect::<Vec<_>>()));
    }
    set("status", report.status.name().into());
    match report.whereabouts {
        Whereabouts::WrittenDown => set("x-guest", "written-down".into()),
        Whereabouts::Here => set("x-guest", "here".into()),
        Whereabouts::There => {}
    }
    if let Some(error) = &report.error {
        set("error-desc", error.as_str().into());
    }
    if !has_figures(*side, report.status) {
        return Value::Object(fields);
    }
    figures(&mut set, *side, report);
    details(&mut set, report);
    Value::Object(fields)
}

/// Times, and what is on its way.
fn figures(set: &mut impl FnMut(&str, Value), side: Side, report: &Report) {
    set("total-time", ms(report.total_time));
    set("setup-time", ms(report.setup_time));
    match (shows_downtime(report.status), report.downtime, report.expected_downtime) {
        (true, Some(time), _) => set("downtime", ms(time)),
        (false, _, Some(time)) if side == Side::Source => set("expected-downtime", ms(time)),
        _ => {}
    }
    set("ram", ram(&report.ram));
    if shows_remaining(side, report.status) {
        set("remaining", report.ram.remaining.into());
    }
}

/// What capabilities add, and what is ours.
fn details(set: &mut impl FnMut(&str, Value), report: &Report) {
    match report.throttling {
        Some(Throttling::AutoConverge(percent)) => set("cpu-throttle-percentage", percent.into()),
        Some(Throttling::DirtyLimit(rest)) => set("dirty-limit-throttle-time-per-round", integer(rest.as_micros())),
        None => {}
    }
    if let Some(deltas) = &report.deltas {
        set("xbzrle-cache", xbzrle(deltas));
    }
    if let Some(time) = report.blocktime {
        set("postcopy-blocktime", ms(time));
    }
    if !report.vcpu_blocktime.is_empty() {
        let times: Vec<Value> = report.vcpu_blocktime.iter().copied().map(ms).collect();
        set("postcopy-vcpu-blocktime", times.into());
    }
    if let Some(demand) = report.demand.as_ref().filter(|demand| demand.count > 0) {
        set("x-demand-pages", demand_pages(demand));
    }
    if let (Some(_), Some(demand)) = (report.blocktime, &report.demand) {
        set("postcopy-latency", ns(demand.mean));
        set("postcopy-latency-dist", demand.distribution.into());
        set("postcopy-vcpu-latency", demand.vcpus.iter().copied().map(ns).collect::<Vec<_>>().into());
        set("postcopy-non-vcpu-latency", ns(demand.others));
    }
    if !report.steps.is_empty() {
        let steps = report.steps.iter();
        let steps: Vec<Value> =
            steps.map(|step| json!({"name": step.name, "at-us": integer(step.at.as_micros())})).collect();
        set("x-switchover-steps", steps.into());
    }
}

/// Whether a source may still come to where this side listens.
pub fn waits(side: Side, status: Status) -> bool {
    side == Side::Destination && !matches!(status, Status::Failed | Status::Cancelled)
}

/// Whether there is more to say than how it stands: a source that has nothing under way, and did
/// not bring anything to its end, has no figures.
pub fn has_figures(side: Side, status: Status) -> bool {
    use Status::{Cancelled, Cancelling, Failed, Failing, Setup};
    let nothing = matches!(status, Setup | Cancelling | Cancelled | Failing | Failed);
    !matches!((side, nothing), (Side::Source, true)) && !matches!((side, status), (Side::Destination, Setup))
}

/// Whether the guest's standstill is over, or has begun for good.
pub fn shows_downtime(status: Status) -> bool {
    use Status::{Completed, PostcopyActive, PostcopyDevice, PostcopyPaused, PostcopyRecover, PostcopyRecoverSetup};
    matches!(
        status,
        Completed | PostcopyActive | PostcopyDevice | PostcopyPaused | PostcopyRecover | PostcopyRecoverSetup
    )
}

/// Whether something is still on its way from here.
pub fn shows_remaining(side: Side, status: Status) -> bool {
    side == Side::Source && !status.is_ended()
}

/// `x-query-migrate-pages`; empty before the first migration, as `query-migrate` is.
pub fn query_pages(map: Option<&(Side, PageMap)>) -> Value {
    let Some((side, map)) = map else { return json!({}) };
    json!({
        "side": side.name(),
        "page-size": PAGE_SIZE,
        "pages": map.pages,
        "arrived": map.arrived.iter().sum::<u64>(),
        "buckets": map.arrived,
    })
}

fn ram(ram: &RamReport) -> Value {
    json!({
        "transferred": ram.transferred,
        "remaining": ram.remaining,
        "total": ram.total,
        "duplicate": ram.duplicate,
        "skipped": ram.skipped,
        "normal": ram.normal,
        "normal-bytes": ram.normal.saturating_mul(PAGE_SIZE as u64),
        "dirty-pages-rate": ram.dirty_pages_rate,
        // JSON has no infinity and no NaN.
        "mbps": if ram.mbps.is_finite() { ram.mbps } else { 0.0 },
        "dirty-sync-count": ram.dirty_sync_count,
        "postcopy-requests": ram.postcopy_requests,
        "page-size": PAGE_SIZE,
        "multifd-bytes": ram.multifd_bytes,
        "pages-per-second": ram.pages_per_second,
        "precopy-bytes": ram.precopy_bytes,
        "downtime-bytes": ram.downtime_bytes,
        "postcopy-bytes": ram.postcopy_bytes,
        "dirty-sync-missed-zero-copy": 0,
    })
}

fn xbzrle(deltas: &XbzrleReport) -> Value {
    json!({
        "cache-size": deltas.cache_size,
        "bytes": deltas.bytes,
        "pages": deltas.pages,
        "cache-miss": deltas.cache_miss,
        "cache-miss-rate": deltas.cache_miss_rate,
        "encoding-rate": deltas.encoding_rate,
        "overflow": deltas.overflow,
    })
}

fn demand_pages(demand: &LatencyReport) -> Value {
    json!({
        "count": demand.count,
        "mean-ns": ns(demand.mean),
        "p50-ns": ns(demand.p50),
        "p99-ns": ns(demand.p99),
        "max-ns": ns(demand.max),
    })
}

/// QEMU's `SocketAddress`: its port is a string. A stream has none.
fn socket_address(uri: &Uri) -> Option<Value> {
    match uri {
        Uri::Tcp { host, port } => Some(json!({"type": "inet", "host": host, "port": port.to_string()})),
        Uri::Unix(path) => Some(json!({"type": "unix", "path": path.to_string_lossy()})),
        Uri::Stream(_) => None,
    }
}

fn ms(time: Duration) -> Value {
    integer(time.as_millis())
}

fn ns(time: Duration) -> Value {
    integer(time.as_nanos())
}

fn integer(value: u128) -> Value {
    u64::try_from(value).unwrap_or(u64::MAX).into()
}

#[cfg(test)]
mod tests;
