//! The panels in the middle of the screen: rates, latencies, vCPUs.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Stylize;
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph, Sparkline, Widget};

use super::history::Rates;
use super::model::Model;
use crate::client::Phase;

/// What a panel holds, inside a frame with this title.
fn framed(title: &'static str, area: Rect, buffer: &mut Buffer) -> Rect {
    let frame = Block::bordered().title(title);
    let inside = frame.inner(area);
    frame.render(area, buffer);
    inside
}

/// Two curves: what moves, and what it is up against: the guest's writes, or in a postcopy its
/// touches.
pub fn rates(model: &Model, area: Rect, buffer: &mut Buffer) {
    let inside = framed(" rates ", area, buffer);
    let [moved_text, moved, other_text, other] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1), Constraint::Fill(1)])
            .areas(inside);
    let now = model.history.now();
    let curve = |which: fn(&Rates) -> f64| model.history.last(usize::from(inside.width), which);
    let sent = curve(|it| it.mbps);
    let most = sent.iter().copied().max().unwrap_or(0).max(1);
    Line::from(format!("moved {:.0} Mbps", now.mbps)).render(moved_text, buffer);
    Sparkline::default().data(&sent).max(most).blue().render(moved, buffer);
    let runs_there = matches!(model.snapshot.progress().phase(), Phase::Committed | Phase::Paused | Phase::Completed);
    if runs_there {
        Line::from(format!("asked for {:.0} pages/s", now.demands)).render(other_text, buffer);
        Sparkline::default().data(curve(|it| it.demands)).cyan().render(other, buffer);
    } else {
        Line::from(dirtied(now)).render(other_text, buffer);
        // On the scale of what is moved: higher than that does not converge.
        Sparkline::default().data(curve(|it| it.dirty_mbps)).max(most).yellow().render(other, buffer);
    }
}

/// The guest's writes against the link.
fn dirtied(now: Rates) -> String {
    let text = format!("dirtied {:.0} Mbps", now.dirty_mbps);
    match now.mbps {
        moved if moved < 1.0 || now.dirty_mbps < 1.0 => text,
        moved if now.dirty_mbps >= moved => text + ", more than moves",
        moved => format!("{text}, {:.0}% of that", now.dirty_mbps / moved * 100.0),
    }
}

/// How long touched pages took to come, by powers of two.
pub fn latency(model: &Model, area: Rect, buffer: &mut Buffer) {
    let inside = framed(" touched pages: time to come ", area, buffer);
    let Some(latency) = model.snapshot.latency() else {
        return Paragraph::new("none measured here").render(inside, buffer);
    };
    let [_, p50, p99, max] = latency.ns.map(time);
    let mut lines = vec![Line::from(format!("{}: p50 {p50}, p99 {p99}, max {max}", latency.count))];
    lines.extend(histogram(&latency.distribution, inside.height.saturating_sub(1).into(), inside.width.into()));
    Paragraph::new(lines).render(inside, buffer);
}

/// At most `rows` lines of at most `width` columns; what is quickest is put together where there
/// are more.
fn histogram(distribution: &[u64], rows: usize, width: usize) -> Vec<Line<'static>> {
    let first = distribution.iter().position(|count| *count > 0).unwrap_or(0);
    let from = first.max(distribution.len().saturating_sub(rows));
    let rows: Vec<(usize, u64)> = (from..distribution.len())
        .map(|n| (n, if n == from { distribution[..=n].iter().sum() } else { distribution[n] }))
        .collect();
    let most = rows.iter().map(|row| row.1).max().unwrap_or(0);
    let line = |(n, count): (usize, u64)| {
        let label = format!("<{:>7} {count:>8} ", time(2000u64.checked_shl(n as u32).unwrap_or(u64::MAX)));
        let bar = bar(count, most, width.saturating_sub(label.len()));
        Line::from(vec![label.into(), bar.cyan()])
    };
    rows.into_iter().map(line).collect()
}

/// How long each vCPU waited for pages; those that waited longest where there are too many.
pub fn vcpus(model: &Model, area: Rect, buffer: &mut Buffer) {
    let inside = framed(" vCPUs: time blocked ", area, buffer);
    let times = model.snapshot.vcpu_blocktime_ms();
    let Some(all) = model.snapshot.blocktime_ms().filter(|_| !times.is_empty()) else {
        return Paragraph::new("not known here").render(inside, buffer);
    };
    let most = times.iter().copied().max().unwrap_or(0);
    let mut worst: Vec<(usize, u64)> = times.into_iter().enumerate().collect();
    worst.sort_by_key(|(_, ms)| std::cmp::Reverse(*ms));
    worst.truncate(inside.height.saturating_sub(1).into());
    worst.sort_unstable();
    let mut lines = vec![Line::from(format!("all at once {all} ms"))];
    lines.extend(worst.into_iter().map(|(vcpu, ms)| {
        let label = format!("{vcpu:>3} {ms:>6} ms ");
        let bar = bar(ms, most, usize::from(inside.width).saturating_sub(label.len()));
        Line::from(vec![label.into(), bar.yellow()])
    }));
    Paragraph::new(lines).render(inside, buffer);
}

/// A bar of `width` columns for `most`; whatever is not nothing can be seen.
fn bar(value: u64, most: u64, width: usize) -> String {
    let length = (value as f64 / most.max(1) as f64 * width as f64).round() as usize;
    "█".repeat(length.max(usize::from(value > 0)).min(width))
}

/// Nanoseconds, short.
fn time(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{} us", ns / 1000),
        1_000_000..10_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        10_000_000..1_000_000_000 => format!("{} ms", ns / 1_000_000),
        _ => format!("{} s", ns / 1_000_000_000),
    }
}
