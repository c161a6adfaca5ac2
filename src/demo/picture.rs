//! The picture: the guest's throughput over time, a panel a mode, and beside it the moment of the
//! switch enlarged.

use std::time::Duration;

use super::Options;
use super::journey::Journey;
use super::measure::Span;
use super::svg::{Rect, Svg};
use super::table::ms;
use super::trace::Side;
use crate::client::Mode;
use crate::size::format_size;

const STYLE: &str = "\
    text{font-family:'DejaVu Sans','Segoe UI',Helvetica,Arial,sans-serif;font-size:12px;fill:#33404a}\
    .title{font-size:21px;font-weight:600;fill:#16222b}.sub{font-size:13px;fill:#5d6b76}\
    .mode{font-size:16px;font-weight:600;fill:#16222b}.tick{font-size:11px;fill:#6d7a84}\
    .note{font-size:12px;fill:#16222b;paint-order:stroke;stroke:#fff;stroke-width:3px;stroke-linejoin:round}";
const BACKGROUND: &str = "#f7f8f6";
const BLACKOUT: &str = "#b3261e";
const BROWNOUT: &str = "#f3c46b";
const SOURCE: &str = "#1f6f8b";
const DESTINATION: &str = "#3c8d40";
const GRID: &str = r##"stroke="#e3e6e4" stroke-width="1""##;
const FRAME: &str = r##"fill="none" stroke="#c9cfcc" stroke-width="1""##;

const WIDTH: f64 = 1180.0;
const TOP: f64 = 122.0;
const PITCH: f64 = 248.0;
const PLOT: (f64, f64, f64) = (70.0, 740.0, 160.0);
const ZOOM: (f64, f64) = (868.0, 286.0);

/// Two of seconds and values to drawing units.
#[derive(Clone, Copy)]
struct Scale {
    plot: Rect,
    /// Seconds at the left and the right edge.
    time: (f64, f64),
    /// The value at the upper edge.
    top: f64,
}

impl Scale {
    fn x(&self, seconds: f64) -> f64 {
        let share = (seconds - self.time.0) / (self.time.1 - self.time.0);
        self.plot.x + self.plot.w * share.clamp(0.0, 1.0)
    }

    fn y(&self, value: f64) -> f64 {
        self.plot.bottom() - self.plot.h * (value / self.top).clamp(0.0, 1.0)
    }

    /// The full height between two moments, at least `least` wide so that it can be seen.
    fn band(&self, (from, to): (f64, f64), least: f64) -> Rect {
        let (x, right) = (self.x(from), self.x(to));
        let w = (right - x).max(least);
        Rect { x: x.min(self.plot.right() - w), y: self.plot.y, w, h: self.plot.h }
    }
}

/// Seconds since `zero`, negative before it.
fn since(zero: Duration, at: Duration) -> f64 {
    at.as_secs_f64() - zero.as_secs_f64()
}

/// The whole SVG file.
pub fn picture(options: &Options, journeys: &[Journey], host: &str) -> String {
    let height = TOP + PITCH * journeys.len() as f64 + 26.0;
    let mut svg = Svg::new(WIDTH, height, BACKGROUND, STYLE);
    title(&mut svg, options);
    let first = |journey: &Journey| since(journey.marks.start, journey.marks.calm);
    let last = |journey: &Journey| since(journey.marks.start, journey.marks.until);
    let time =
        (journeys.iter().map(first).fold(0.0, f64::min).max(-1.0), journeys.iter().map(last).fold(1.0, f64::max));
    let top = journeys.iter().map(|journey| fastest(journey, time.0)).fold(1.0, f64::max) * 1.08;
    let longest = journeys.iter().map(|journey| journey.measured.blackout.length()).max().unwrap_or_default();
    // A margin on each side in which the heartbeats can be told from each other.
    let reach = longest.as_secs_f64() + 0.02;

    for (row, journey) in journeys.iter().enumerate() {
        let y = TOP + PITCH * row as f64;
        let (x, w, h) = PLOT;
        header(&mut svg, journey, y);
        throughput(&mut svg, journey, Scale { plot: Rect { x, y: y + 32.0, w, h }, time, top });
        let (x, w) = ZOOM;
        switch(&mut svg, journey, Scale { plot: Rect { x, y: y + 32.0, w, h }, time: (-0.02, reach), top: 1.0 });
    }
    let built = if cfg!(debug_assertions) { ", development build" } else { "" };
    let from = format!("Whimbrel {}{built}; {host}", env!("CARGO_PKG_VERSION"));
    svg.text((PLOT.0, height - 16.0), r#"class="sub""#, &from);
    svg.finish()
}

/// The highest speed that will be seen when the picture begins at `from`, in seconds before the
/// migration.
fn fastest(journey: &Journey, from: f64) -> f64 {
    let seen = journey.measured.curve.iter().filter(|bin| since(journey.marks.start, bin.span.to) > from);
    seen.map(|bin| bin.speed).fold(0.0, f64::max)
}

fn title(svg: &mut Svg, options: &Options) {
    svg.text((PLOT.0, 40.0), r#"class="title""#, "A running guest moves: what it notices");
    let about = format!(
        "{} of RAM, {} of it written at random and at full speed; two Whimbrel processes on one machine, tcp loopback",
        format_size(options.memory.size),
        format_size(options.working_set()),
    );
    svg.text((PLOT.0, 62.0), r#"class="sub""#, &about);
    let entries = [
        (SOURCE, "on the source"),
        (DESTINATION, "on the destination"),
        (BROWNOUT, "brownout: below 80% of its speed"),
        (BLACKOUT, "blackout: no sign of life"),
    ];
    let mut x = PLOT.0;
    for (colour, text) in entries {
        svg.rect(Rect { x, y: 79.0, w: 12.0, h: 12.0 }, &format!(r#"rx="2" fill="{colour}""#));
        svg.text((x + 18.0, 89.5), "", text);
        x += 44.0 + 6.7 * text.len() as f64;
    }
}

fn header(svg: &mut Svg, journey: &Journey, y: f64) {
    let what = match journey.mode {
        Mode::Precopy => "all memory first, then the CPUs",
        Mode::Postcopy => "the CPUs first; memory follows, touched pages before all others",
        Mode::Hybrid { .. } => "one pass over memory, then as postcopy",
    };
    let name = journey.mode.name();
    svg.text((PLOT.0, y + 20.0), r#"class="mode""#, name);
    svg.text((PLOT.0 + 12.0 + 10.2 * name.len() as f64, y + 20.0), r#"class="sub""#, what);
    let lost = format!("guest work lost: {} ms, errors: {}", ms(journey.measured.lost), journey.errors());
    svg.text((PLOT.0 + PLOT.1, y + 20.0), r#"text-anchor="end""#, &lost);
    svg.text((ZOOM.0, y + 20.0), r#"class="sub""#, "the switch: each line a sign of life");
}

/// The wide panel.
fn throughput(svg: &mut Svg, journey: &Journey, scale: Scale) {
    let zero = journey.marks.start;
    let measured = &journey.measured;
    let seconds = |span: Span| (since(zero, span.from), since(zero, span.to));
    svg.rect(scale.plot, r##"fill="#fff""##);
    axes(svg, &scale, true);
    for brownout in &measured.brownouts {
        svg.rect(scale.band(seconds(*brownout), 2.0), &format!(r#"fill="{BROWNOUT}" fill-opacity="0.45""#));
    }
    curve(svg, journey, &scale);
    svg.rect(scale.band(seconds(measured.blackout), 2.5), &format!(r#"fill="{BLACKOUT}""#));
    let undisturbed = scale.y(measured.speed);
    let dashes = r##"stroke="#6d7a84" stroke-width="1" stroke-dasharray="2 3""##;
    svg.line((scale.plot.x, undisturbed), (scale.plot.right(), undisturbed), dashes);
    let end = since(zero, journey.marks.end);
    for (at, text, side, anchor) in [(0.0, "start", -5.0, "end"), (end, "all pages there", 5.0, "start")] {
        let x = scale.x(at);
        svg.line((x, scale.plot.y), (x, scale.plot.bottom()), r##"stroke="#16222b" stroke-dasharray="5 3""##);
        svg.text((x + side, scale.plot.y + 15.0), &format!(r#"class="note" text-anchor="{anchor}""#), text);
    }
    let unseen = Rect { x: scale.x(since(zero, journey.marks.until)), ..scale.plot };
    svg.rect(Rect { w: scale.plot.right() - unseen.x, ..unseen }, &format!(r#"fill="{BACKGROUND}""#));
    notes(svg, journey, &scale);
    svg.rect(scale.plot, FRAME);
}

/// The curve, a colour for each host: the area under it is work done.
fn curve(svg: &mut Svg, journey: &Journey, scale: &Scale) {
    let zero = journey.marks.start;
    let Span { from, to } = journey.measured.blackout;
    for (colour, here) in
        [(SOURCE, Span { from: Duration::ZERO, to: from }), (DESTINATION, Span { from: to, to: Duration::MAX })]
    {
        let mut points = Vec::new();
        for bin in &journey.measured.curve {
            let (from, to) = (bin.span.from.max(here.from), bin.span.to.min(here.to));
            if from < to && since(zero, to) > scale.time.0 {
                let y = scale.y(bin.speed);
                points.extend([(scale.x(since(zero, from)), y), (scale.x(since(zero, to)), y)]);
            }
        }
        if let (Some(first), Some(last)) = (points.first().copied(), points.last().copied()) {
            let bottom = scale.plot.bottom();
            let area = [&[(first.0, bottom)][..], &points, &[(last.0, bottom)]].concat();
            svg.polygon(&area, &format!(r#"fill="{colour}" fill-opacity="0.22""#));
            svg.polyline(
                &points,
                &format!(r#"fill="none" stroke="{colour}" stroke-width="1.6" stroke-linejoin="round""#),
            );
        }
    }
}

/// What the bands mean, in milliseconds.
fn notes(svg: &mut Svg, journey: &Journey, scale: &Scale) {
    let zero = journey.marks.start;
    let measured = &journey.measured;
    let mut lines = vec![format!("blackout {} ms", ms(measured.blackout.length()))];
    if !measured.brownouts.is_empty() {
        let more = if measured.recovered { "" } else { "more than " };
        lines.push(format!("brownout {more}{} ms", ms(measured.slow_time())));
    }
    // To the right of the blackout, or to its left where there is no room.
    let dark = scale.x(since(zero, measured.blackout.to));
    let (x, anchor) = if dark + 200.0 < scale.plot.right() { (dark + 7.0, "start") } else { (dark - 7.0, "end") };
    for (row, text) in lines.iter().enumerate() {
        let y = scale.plot.y + 46.0 + 17.0 * row as f64;
        svg.text((x, y), &format!(r#"class="note" text-anchor="{anchor}""#), text);
    }
}

/// The narrow panel: when bytes arrived, around the switch.
fn switch(svg: &mut Svg, journey: &Journey, scale: Scale) {
    let Span { from: zero, to } = journey.measured.blackout;
    svg.rect(scale.plot, r##"fill="#fff""##);
    axes(svg, &scale, false);
    let band = scale.band((0.0, since(zero, to)), 1.0);
    svg.rect(band, &format!(r#"fill="{BLACKOUT}" fill-opacity="0.85""#));
    for (side, at) in &journey.trace.arrivals {
        let at = since(zero, *at);
        if (scale.time.0..=scale.time.1).contains(&at) {
            let colour = if *side == Side::Source { SOURCE } else { DESTINATION };
            let (x, low) = (scale.x(at), scale.plot.bottom());
            svg.line((x, low - scale.plot.h * 0.45), (x, low), &format!(r#"stroke="{colour}" stroke-width="1""#));
        }
    }
    let text = format!("{} ms", ms(journey.measured.blackout.length()));
    let (x, anchor) = match band.w > 60.0 {
        true => (band.x + band.w / 2.0, r##"text-anchor="middle" style="fill:#fff;font-weight:600""##),
        false => (band.right() + 6.0, r#"class="note""#),
    };
    svg.text((x, scale.plot.y + 46.0), anchor, &text);
    svg.rect(scale.plot, FRAME);
}

/// Grid and labels; throughput and seconds in the `wide` panel, milliseconds in the other.
fn axes(svg: &mut Svg, scale: &Scale, wide: bool) {
    let Rect { x, y, h, .. } = scale.plot;
    let (low, right) = (scale.plot.bottom(), scale.plot.right());
    let (unit, name) = if wide { (1.0, "s") } else { (1e-3, "ms") };
    for at in ticks(scale.time.0 / unit, scale.time.1 / unit, if wide { 10.0 } else { 5.0 }) {
        let x = scale.x(at * unit);
        svg.line((x, y), (x, low), GRID);
        svg.text((x, low + 16.0), r#"class="tick" text-anchor="middle""#, &format!("{at} {name}"));
    }
    if wide {
        for at in ticks(0.0, scale.top, 5.0) {
            svg.line((x, scale.y(at)), (right, scale.y(at)), GRID);
            svg.text((x - 7.0, scale.y(at) + 4.0), r#"class="tick" text-anchor="end""#, &number(at));
        }
        let middle = y + h / 2.0;
        let turned = format!(r#"class="tick" text-anchor="middle" transform="rotate(-90 22 {middle:.1})""#);
        svg.text((22.0, middle), &turned, "page visits per second");
    }
}

/// About `count` round numbers from `low` to `high`.
fn ticks(low: f64, high: f64, count: f64) -> Vec<f64> {
    let raw = ((high - low) / count).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|it| it * power).find(|step| *step >= raw).unwrap_or(raw);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    // Rounded to what the step can tell, so that no 0.30000000000000004 is written.
    let decimals = usize::try_from(-step.log10().floor() as i64).unwrap_or(0);
    let round = |at: f64| format!("{at:.decimals$}").parse().unwrap_or(at);
    (first..=last).map(|at| round(at as f64 * step) + 0.0).collect()
}

/// A round number, short.
fn number(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{} M", v / 1e6),
        v if v >= 1e3 => format!("{} k", v / 1e3),
        v => format!("{v}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(-1.0, 4.2, 6.0), [-1.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(ticks(0.0, 1.0, 5.0), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        assert_eq!(ticks(0.0, 2_300_000.0, 4.0), [0.0, 1_000_000.0, 2_000_000.0]);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 500.0, 1500.0, 2e6].map(number), ["0", "500", "1.5 k", "2 M"]);
    }

    #[test]
    fn a_band_can_always_be_seen() {
        let plot = Rect { x: 10.0, y: 0.0, w: 100.0, h: 50.0 };
        let scale = Scale { plot, time: (0.0, 10.0), top: 2.0 };
        assert_eq!(scale.band((1.0, 3.0), 2.0), Rect { x: 20.0, w: 20.0, ..plot });
        assert_eq!(scale.band((1.0, 1.01), 2.0), Rect { x: 20.0, w: 2.0, ..plot });
        assert_eq!(scale.band((10.0, 11.0), 2.0).right(), 110.0, "never outside");
        assert_eq!((scale.y(1.0), scale.y(9.0)), (25.0, 0.0));
    }
}
