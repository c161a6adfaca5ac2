//! The picture: the guest's throughput around the migration, a panel for each mode, and beside it
//! the moment of the switchover enlarged.

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
const TOP: f64 = 100.0;
const PITCH: f64 = 282.0;
/// Left edge, width and height of the wide panels, and how far they are below their row's top.
const PLOT: (f64, f64, f64) = (78.0, 740.0, 160.0);
const BELOW: f64 = 48.0;
/// Left edge and width of the panels beside them.
const ZOOM: (f64, f64) = (876.0, 280.0);
/// What is shown before the migration and after the longest, as a share of that one, and at least
/// in seconds.
const BEFORE: (f64, f64) = (0.15, 0.1);
const BEYOND: (f64, f64) = (0.25, 0.12);

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
    let longest = journeys.iter().map(disturbed_until).fold(0.0, f64::max);
    let beside = |(share, least): (f64, f64)| (longest * share).max(least);
    let time = (-beside(BEFORE), longest + beside(BEYOND));
    let top = journeys.iter().map(|journey| fastest(journey, time)).fold(1.0, f64::max) * 1.08;
    let darkest = journeys.iter().map(|journey| journey.measured.blackout.length()).max().unwrap_or_default();
    // A margin on each side in which the heartbeats can be told from each other.
    let reach = darkest.as_secs_f64() + 0.02;

    for (row, journey) in journeys.iter().enumerate() {
        let y = TOP + PITCH * row as f64;
        let (x, w, h) = PLOT;
        header(&mut svg, journey, y);
        throughput(&mut svg, journey, Scale { plot: Rect { x, y: y + BELOW, w, h }, time, top });
        let (x, w) = ZOOM;
        switch(&mut svg, journey, Scale { plot: Rect { x, y: y + BELOW, w, h }, time: (-0.02, reach), top: 1.0 });
    }
    let built = if cfg!(debug_assertions) { ", development build" } else { "" };
    let from = format!("Whimbrel {}{built}; {host}", env!("CARGO_PKG_VERSION"));
    svg.text((PLOT.0, height - 16.0), r#"class="sub""#, &from);
    svg.finish()
}

/// When the migration no longer disturbs the guest, in seconds since its begin: every page has
/// come, and the guest has its speed again.
fn disturbed_until(journey: &Journey) -> f64 {
    let marks = &journey.marks;
    let recovered = journey.measured.brownouts.last().map_or(marks.end, |brownout| brownout.to);
    since(marks.start, recovered.max(marks.end).min(marks.until))
}

/// The highest speed in a picture of this time.
fn fastest(journey: &Journey, (from, to): (f64, f64)) -> f64 {
    let seconds = |at| since(journey.marks.start, at);
    let shown = journey.measured.curve.iter().filter(|bin| seconds(bin.span.to) > from && seconds(bin.span.from) < to);
    shown.map(|bin| bin.speed).fold(0.0, f64::max)
}

fn title(svg: &mut Svg, options: &Options) {
    svg.text((PLOT.0, 40.0), r#"class="title""#, "A running guest moves: what it notices");
    let about = format!(
        "{} of RAM, {} of it written at random and at full speed; two Whimbrel processes on one machine, tcp loopback",
        format_size(options.memory.size),
        format_size(options.working_set()),
    );
    svg.text((PLOT.0, 62.0), r#"class="sub""#, &about);
    let words = "dotted: its undisturbed speed; brownout: it runs below 80% of that; blackout: no sign of life";
    svg.text((PLOT.0, 80.0), r#"class="sub""#, words);
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
    svg.text((ZOOM.0, y + 20.0), r#"class="sub""#, "the switchover: each line is a sign of life");
}

/// The wide panel.
fn throughput(svg: &mut Svg, journey: &Journey, scale: Scale) {
    let zero = journey.marks.start;
    let measured = &journey.measured;
    let seconds = |span: Span| (since(zero, span.from), since(zero, span.to));
    svg.rect(scale.plot, r##"fill="#fff""##);
    axes(svg, &scale, "ms since the command");
    speeds(svg, &scale);
    let shown = |span: &&Span| since(zero, span.from) < scale.time.1;
    for brownout in measured.brownouts.iter().filter(shown) {
        svg.rect(scale.band(seconds(*brownout), 2.0), &format!(r#"fill="{BROWNOUT}" fill-opacity="0.45""#));
    }
    curve(svg, journey, &scale);
    svg.rect(scale.band(seconds(measured.blackout), 2.5), &format!(r#"fill="{BLACKOUT}""#));
    let undisturbed = scale.y(measured.speed);
    let dashes = r##"stroke="#6d7a84" stroke-width="1" stroke-dasharray="2 3""##;
    svg.line((scale.plot.x, undisturbed), (scale.plot.right(), undisturbed), dashes);
    let end = since(zero, journey.marks.end);
    let arrived = format!("all pages there: {} ms", ms(Duration::from_secs_f64(end.max(0.0))));
    for (at, text) in [(0.0, "migrate"), (end, arrived.as_str())] {
        let x = scale.x(at);
        svg.line((x, scale.plot.y - 4.0), (x, scale.plot.bottom()), r##"stroke="#16222b" stroke-dasharray="5 3""##);
        let (x, anchor) = match at > 0.0 {
            true if x + 160.0 > scale.plot.right() => (x + 3.0, "end"),
            true => (x - 3.0, "start"),
            false => (x, "middle"),
        };
        svg.text((x, scale.plot.y - 8.0), &format!(r#"class="note" text-anchor="{anchor}""#), text);
    }
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
            if from < to && since(zero, to) > scale.time.0 && since(zero, from) < scale.time.1 {
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

/// What the curves and bands are, beside them.
fn notes(svg: &mut Svg, journey: &Journey, scale: &Scale) {
    let zero = journey.marks.start;
    let measured = &journey.measured;
    let low = scale.plot.bottom() - 9.0;
    named(svg, (scale.plot.x + 6.0, low), SOURCE, "start", "on the source");
    named(svg, (scale.plot.right() - 6.0, low), DESTINATION, "end", "on the destination");
    let mut lines = vec![format!("blackout {} ms", ms(measured.blackout.length()))];
    if !measured.brownouts.is_empty() {
        let more = if measured.recovered { "" } else { "more than " };
        lines.push(format!("brownout {more}{} ms", ms(measured.slow_time())));
    }
    // To the right of the bands, where the curve has its height again.
    let dark = since(zero, measured.blackout.to);
    let slow = measured.brownouts.last().map_or(dark, |brownout| since(zero, brownout.to)).max(dark);
    for (row, text) in lines.iter().enumerate() {
        let y = scale.plot.y + 58.0 + 20.0 * row as f64;
        let at = scale.x(if row == 0 { dark } else { slow });
        let x = scale.x(slow) + 14.0;
        svg.line((at, y - 4.0), (x - 3.0, y - 4.0), r##"stroke="#16222b" stroke-width="0.8""##);
        svg.text((x, y), r#"class="note""#, text);
    }
}

/// Whose curve it is, in its colour.
fn named(svg: &mut Svg, at: (f64, f64), colour: &str, anchor: &str, text: &str) {
    svg.text(at, &format!(r#"class="note" text-anchor="{anchor}" style="fill:{colour};font-weight:600""#), text);
}

/// The narrow panel: when bytes arrived, around the switch.
fn switch(svg: &mut Svg, journey: &Journey, scale: Scale) {
    let Span { from: zero, to } = journey.measured.blackout;
    svg.rect(scale.plot, r##"fill="#fff""##);
    axes(svg, &scale, "ms since the source's last sign of life");
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
    let above = scale.plot.bottom() - scale.plot.h * 0.45 - 7.0;
    named(svg, (scale.plot.x + 5.0, above), SOURCE, "start", "source");
    named(svg, (scale.plot.right() - 5.0, above), DESTINATION, "end", "destination");
    // In the band where there is room, beside it otherwise.
    let length = format!("{} ms", ms(journey.measured.blackout.length()));
    let (x, kind) = match band.w > 66.0 {
        true => (band.x + band.w / 2.0, r##"text-anchor="middle" style="fill:#fff;font-weight:600""##),
        false => (band.right() + 6.0, r#"class="note""#),
    };
    svg.text((x, scale.plot.y + 36.0), kind, "blackout");
    svg.text((x, scale.plot.y + 52.0), kind, &length);
    svg.rect(scale.plot, FRAME);
}

/// The time axis, in milliseconds, with its title.
fn axes(svg: &mut Svg, scale: &Scale, name: &str) {
    let Rect { x, y, w, .. } = scale.plot;
    let low = scale.plot.bottom();
    for at in ticks(scale.time.0 * 1e3, scale.time.1 * 1e3, w / 90.0) {
        let x = scale.x(at / 1e3);
        svg.line((x, y), (x, low), GRID);
        svg.text((x, low + 16.0), r#"class="tick" text-anchor="middle""#, &format!("{at}"));
    }
    svg.text((x + w / 2.0, low + 34.0), r#"class="tick" text-anchor="middle""#, name);
}

/// The axis of throughput, with its title.
fn speeds(svg: &mut Svg, scale: &Scale) {
    let Rect { x, y, h, .. } = scale.plot;
    for at in ticks(0.0, scale.top, 5.0) {
        svg.line((x, scale.y(at)), (scale.plot.right(), scale.y(at)), GRID);
        svg.text((x - 7.0, scale.y(at) + 4.0), r#"class="tick" text-anchor="end""#, &number(at));
    }
    let middle = y + h / 2.0;
    let turned = format!(r#"class="tick" text-anchor="middle" transform="rotate(-90 26 {middle:.1})""#);
    svg.text((26.0, middle), &turned, "page visits per second");
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
    use crate::client::Progress;
    use crate::config::MemoryConfig;
    use crate::demo::measure::{Marks, Measured};
    use crate::demo::trace::{Beat, Trace, Verdict};

    /// A guest that is watched for 3.5 s and moves from 1.5 s to 1.7 s, with a blackout of 4 ms.
    fn journey() -> Journey {
        let ms = Duration::from_millis;
        let mut trace = Trace::default();
        for at in (0..3600).filter(|at| !(1601..1604).contains(at)) {
            let side = if at <= 1600 { Side::Source } else { Side::Destination };
            trace.arrivals.push((side, ms(at)));
            let visits = 1000 * if at < 1500 { at } else { 1500 + at.saturating_sub(1700) };
            trace.beats.push(Beat { at: ms(at), visits });
        }
        let marks = Marks { calm: ms(0), start: ms(1500), end: ms(1700), until: ms(3500) };
        let measured = Measured::of(&trace, &marks).unwrap();
        let verdict = Verdict { pages: 1, errors: 0 };
        Journey { mode: Mode::Postcopy, report: Progress::default(), demand: None, verdict, trace, marks, measured }
    }

    #[test]
    fn the_axis_shows_the_migration_and_not_the_seconds_around_it() {
        let memory = MemoryConfig { size: 64 << 20, shared: false };
        let options = Options { memory, modes: vec![Mode::Postcopy], out: "x.svg".into(), keep: false };
        let drawn = picture(&options, &[journey()], "a host");
        assert!((0.19..0.26).contains(&disturbed_until(&journey())), "{}", disturbed_until(&journey()));
        for text in ["ms since the command", "page visits per second", "ms since the source's last sign of life"] {
            assert!(drawn.contains(text), "no axis says '{text}'");
        }
        for text in
            ["on the source", "on the destination", "blackout 4.0 ms", "brownout 196 ms", "all pages there: 200 ms"]
        {
            assert!(drawn.contains(text), "nothing is called '{text}'");
        }
        assert!(drawn.contains(">300<") && !drawn.contains(">500<"), "the axis ends soon after the last page");
    }

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
