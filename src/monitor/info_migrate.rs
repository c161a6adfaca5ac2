//! `info migrate`, in the rows of QEMU 11.1, with rows of our own for what QEMU does not measure.

use std::fmt::Write;
use std::time::Duration;

use whimbrel_postcopy::ram::PAGE_SIZE;
use whimbrel_postcopy::stats::{LatencyReport, RamReport, Report, Throttling, XbzrleReport};

use super::query_migrate::{has_figures, shows_downtime, shows_remaining, waits};
use crate::migration::Side;
use crate::migration::uri::Uri;
use crate::size::format_size;

/// The whole text; `all` adds the rows that fill a screen.
pub fn info_migrate(report: Option<&(Side, Report)>, listening: Option<&Uri>, all: bool) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_report(&mut text, report, listening, all);
    text
}

fn write_report(
    out: &mut String,
    report: Option<&(Side, Report)>,
    listening: Option<&Uri>,
    all: bool,
) -> std::fmt::Result {
    let Some((side, report)) = report else {
        return Ok(());
    };
    write!(out, "Status: \t\t{}", report.status.name())?;
    match &report.error {
        Some(error) => writeln!(out, " ({error})")?,
        None => writeln!(out)?,
    }
    if let Some(uri) = listening.filter(|_| waits(*side, report.status)) {
        writeln!(out, "Sockets: [\n\t{uri}\n]")?;
    }
    if !has_figures(*side, report.status) {
        return Ok(());
    }
    write_times(out, *side, report)?;
    if shows_remaining(*side, report.status) {
        writeln!(out, "Remaining: \t\t{}", format_size(report.ram.remaining))?;
    }
    write_ram(out, &report.ram)?;
    if let Some(demand) = report.demand.as_ref().filter(|demand| demand.count > 0) {
        write_demand(out, demand)?;
    }
    if all {
        if let Some(deltas) = &report.deltas {
            write_deltas(out, deltas)?;
        }
        match report.throttling {
            Some(Throttling::AutoConverge(percent)) => writeln!(out, "CPU Throttle (%): {percent}")?,
            Some(Throttling::DirtyLimit(rest)) => writeln!(out, "Dirty-limit Throttle (us): {}", rest.as_micros())?,
            None => {}
        }
        write_blocktime(out, report)?;
        write_steps(out, report)?;
    }
    Ok(())
}

fn write_times(out: &mut String, side: Side, report: &Report) -> std::fmt::Result {
    let ms = |time: Duration| time.as_millis();
    write!(out, "Time (ms): \t\ttotal={}, setup={}", ms(report.total_time), ms(report.setup_time))?;
    match (shows_downtime(report.status), report.downtime, report.expected_downtime) {
        (true, Some(time), _) => write!(out, ", down={}", ms(time))?,
        (false, _, Some(time)) if side == Side::Source => write!(out, ", exp_down={}", ms(time))?,
        _ => {}
    }
    writeln!(out)
}

fn write_ram(out: &mut String, ram: &RamReport) -> std::fmt::Result {
    let page = format_size(PAGE_SIZE as u64);
    writeln!(out, "RAM info:")?;
    writeln!(out, "  Throughput (Mbps): \t{:.2}", ram.mbps)?;
    writeln!(out, "  Sizes: \t\tpagesize={page}, total={}", format_size(ram.total))?;
    writeln!(
        out,
        "  Transfers: \t\ttransferred={}, remain={}",
        format_size(ram.transferred),
        format_size(ram.remaining)
    )?;
    writeln!(
        out,
        "    Channels: \t\tprecopy={}, multifd={}, postcopy={}",
        format_size(ram.precopy_bytes),
        format_size(ram.multifd_bytes),
        format_size(ram.postcopy_bytes)
    )?;
    writeln!(out, "    Page Types: \tnormal={}, zero={}", ram.normal, ram.duplicate)?;
    write!(out, "  Page Rates (pps): \ttransfer={}", ram.pages_per_second)?;
    if ram.dirty_pages_rate > 0 {
        write!(out, ", dirty={}", ram.dirty_pages_rate)?;
    }
    write!(out, "\n  Others: \t\tdirty_syncs={}", ram.dirty_sync_count)?;
    if ram.postcopy_requests > 0 {
        write!(out, ", postcopy_req={}", ram.postcopy_requests)?;
    }
    if ram.downtime_bytes > 0 {
        write!(out, ", downtime_bytes={}", ram.downtime_bytes)?;
    }
    writeln!(out)
}

fn write_demand(out: &mut String, demand: &LatencyReport) -> std::fmt::Result {
    let us = |time: Duration| time.as_micros();
    writeln!(out, "Demand pages: \t\tcount={}", demand.count)?;
    writeln!(
        out,
        "  Latency (us): \tmean={}, p50={}, p99={}, max={}",
        us(demand.mean),
        us(demand.p50),
        us(demand.p99),
        us(demand.max)
    )
}

fn write_deltas(out: &mut String, deltas: &XbzrleReport) -> std::fmt::Result {
    let XbzrleReport { cache_size, bytes, pages, cache_miss, cache_miss_rate, encoding_rate, overflow } = deltas;
    writeln!(out, "XBZRLE: size={cache_size}, transferred={bytes}, pages={pages}, miss={cache_miss}")?;
    writeln!(out, "  miss_rate={cache_miss_rate:.2}, encode_rate={encoding_rate:.2}, overflow={overflow}")
}

fn write_blocktime(out: &mut String, report: &Report) -> std::fmt::Result {
    if let Some(time) = report.blocktime {
        writeln!(out, "Postcopy Blocktime (ms): {}", time.as_millis())?;
    }
    if !report.vcpu_blocktime.is_empty() {
        let times = report.vcpu_blocktime.iter();
        let times: Vec<String> = times.map(|it| it.as_millis().to_string()).collect();
        writeln!(out, "Postcopy vCPU Blocktime (ms):")?;
        writeln!(out, " [{}]", times.join(", "))?;
    }
    let (Some(_), Some(demand)) = (report.blocktime, &report.demand) else {
        return Ok(());
    };
    writeln!(out, "Postcopy Latency (ns): {}", demand.mean.as_nanos())?;
    writeln!(out, "Postcopy non-vCPU Latency (ns): {}", demand.others.as_nanos())?;
    let latencies: Vec<String> = demand.vcpus.iter().map(|it| it.as_nanos().to_string()).collect();
    writeln!(out, "Postcopy vCPU Latencies (ns):\n [{}]", latencies.join(", "))?;
    writeln!(out, "Postcopy Latency Distribution:")?;
    for (n, count) in demand.distribution.iter().enumerate() {
        writeln!(out, "  [ {:>8} - {:>8} ]: {count:>10}", bucket_edge(n), bucket_edge(n + 1))?;
    }
    Ok(())
}

/// `2^n` microseconds in the largest unit that leaves a whole number before the point.
fn bucket_edge(n: usize) -> String {
    let us = 1u64.checked_shl(n as u32).unwrap_or(u64::MAX);
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{} sec", us / 1_000_000),
    }
}

fn write_steps(out: &mut String, report: &Report) -> std::fmt::Result {
    if !report.steps.is_empty() {
        writeln!(out, "Switchover (us from its start):")?;
    }
    for step in &report.steps {
        writeln!(out, "  {:<20} {:>10}", step.name, step.at.as_micros())?;
    }
    Ok(())
}

/// Characters between the ends of the bar: the whole of it fits a terminal of 80.
const BAR: usize = 20;

/// The same as a bar, for a terminal.
pub fn progress_bar(report: &Report) -> String {
    let ram = &report.ram;
    let there = ram.total.saturating_sub(ram.remaining) as f64 / ram.total.max(1) as f64;
    let full = (there * BAR as f64) as usize;
    format!(
        "{} [{:<BAR$}] {:>3}%, {} left, {:.0} Mbps",
        report.status.name(),
        "#".repeat(full.min(BAR)),
        (there * 100.0) as u64,
        format_size(ram.remaining),
        ram.mbps
    )
}

/// One line for who waits for a migration.
pub fn progress_line(report: &Report) -> String {
    let ram = &report.ram;
    format!(
        "{}: {:.1} s, {} of {} left, {} sent, {:.0} Mbps\n",
        report.status.name(),
        report.total_time.as_secs_f64(),
        format_size(ram.remaining),
        format_size(ram.total),
        format_size(ram.transferred),
        ram.mbps
    )
}

#[cfg(test)]
mod tests;
