//! The whole screen, a pure function of the [`Model`].

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Gauge, Paragraph, Widget};

use super::map::Fill;
use super::model::Model;
use super::panels;
use crate::client::{Phase, Progress};
use crate::size::format_size;

/// Rows of the panels between progress and map, with their frames.
const PANELS: u16 = 10;
/// A screen with fewer rows has no panels.
const PANELS_FROM: u16 = 20;

/// Draws it. Whatever does not fit into `area` is left out.
pub fn draw(model: &Model, area: Rect, buffer: &mut Buffer) {
    let panels = if area.height >= PANELS_FROM { PANELS } else { 0 };
    let [head, bar, facts, middle, map, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(2),
        Constraint::Length(panels),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    let progress = model.snapshot.progress();
    header(model, &progress).render(head, buffer);
    gauge(&progress).render(bar, buffer);
    Paragraph::new(vec![times(model, &progress), pages(&progress)]).render(facts, buffer);
    let [rates, latency, vcpus] =
        Layout::horizontal([Constraint::Fill(4), Constraint::Fill(4), Constraint::Fill(3)]).areas(middle);
    panels::rates(model, rates, buffer);
    panels::latency(model, latency, buffer);
    panels::vcpus(model, vcpus, buffer);
    draw_map(model, map, buffer);
    footer(model).render(foot, buffer);
}

/// Cells that the map has on a screen of this size.
pub fn map_cells(area: Rect) -> u32 {
    // The map has what is left; that it is a little less costs nothing.
    u32::from(area.width.saturating_sub(2)) * u32::from(area.height)
}

fn header(model: &Model, progress: &Progress) -> Line<'static> {
    let snapshot = &model.snapshot;
    let name = snapshot.name().unwrap_or("unnamed").to_owned();
    let side = snapshot.side().map_or(String::new(), |side| format!("{side}, "));
    let colour = match progress.phase() {
        Phase::Completed => Color::Green,
        Phase::Failed | Phase::Cancelled | Phase::Paused => Color::Red,
        Phase::Committed => Color::Cyan,
        Phase::Revocable => Color::Reset,
    };
    Line::from(vec![
        Span::from(progress.status.clone()).fg(colour).add_modifier(Modifier::BOLD),
        Span::from(format!("  {name} ({side}guest {})  {}", snapshot.run_state(), model.place)),
    ])
}

fn gauge(progress: &Progress) -> Gauge<'static> {
    let there = progress.total.saturating_sub(progress.remaining);
    let share = if progress.total == 0 { 0.0 } else { there as f64 / progress.total as f64 };
    let label = match progress.total {
        0 => "no migration yet".to_owned(),
        total => format!(
            // Not 100% before it is all.
            "{}% of {}, {} left",
            (share * 100.0) as u64,
            format_size(total),
            format_size(progress.remaining)
        ),
    };
    Gauge::default()
        .ratio(share.clamp(0.0, 1.0))
        .label(label)
        .gauge_style(Style::new().fg(Color::Blue))
        .use_unicode(true)
}

fn times(model: &Model, progress: &Progress) -> Line<'static> {
    let mut text = format!("time {}", seconds(progress.total_ms));
    if let Some(ms) = progress.downtime_ms {
        text += &format!("   downtime {ms} ms");
    } else if let Some(ms) = model.snapshot.expected_downtime_ms() {
        text += &format!("   expected downtime {ms} ms");
    }
    if let Some(why) = &progress.error {
        text += &format!("   {why}");
    }
    Line::from(text)
}

fn pages(progress: &Progress) -> Line<'static> {
    Line::from(format!(
        "moved {}   pages {} whole, {} zero, {} on demand   dirty syncs {}",
        format_size(progress.transferred),
        progress.normal,
        progress.zero,
        progress.requests,
        progress.syncs
    ))
}

fn seconds(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1e3)
}

fn draw_map(model: &Model, area: Rect, buffer: &mut Buffer) {
    let title = match model.snapshot.side() {
        Some("source") => " pages that have been sent ",
        _ => " pages that have arrived ",
    };
    let frame = Block::bordered().title(title);
    let inside = frame.inner(area);
    frame.render(area, buffer);
    let Some(pages) = model.snapshot.pages() else {
        return Paragraph::new("no map of the pages: there was no migration yet, or this monitor has none")
            .render(inside, buffer);
    };
    let cells = usize::from(inside.width) * usize::from(inside.height);
    for (position, fill) in inside.positions().zip(pages.cells(cells)) {
        buffer[position].set_symbol(fill.symbol()).set_fg(colour(fill));
    }
}

const fn colour(fill: Fill) -> Color {
    match fill {
        Fill::Empty => Color::DarkGray,
        Fill::Little | Fill::Half | Fill::Much => Color::Cyan,
        Fill::Full => Color::Green,
    }
}

fn footer(model: &Model) -> Line<'static> {
    match model.trouble() {
        Some(trouble) => Line::from(trouble).red(),
        None => Line::from("q quits   · nothing  ░▒▓ part  █ all of it there").dark_gray(),
    }
}
