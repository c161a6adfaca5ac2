//! The table: what each mode cost, side by side; and the raw heartbeats as CSV.

use std::fmt::Write;
use std::time::Duration;

use super::journey::Journey;
use super::live::thousands;

/// What stands where there is nothing to tell.
const NOTHING: &str = "-";

/// One column a mode, one row a figure.
pub fn table(journeys: &[Journey]) -> String {
    let column = |journey: &Journey| figures(journey).map(|(_, figure)| figure);
    let columns: Vec<_> = journeys.iter().map(|journey| (journey.mode.name(), column(journey))).collect();
    let names = match journeys.first() {
        Some(journey) => figures(journey).map(|(name, _)| name),
        None => return String::new(),
    };
    layout(&names, &columns)
}

fn layout<const ROWS: usize>(names: &[&str; ROWS], columns: &[(&str, [String; ROWS])]) -> String {
    let widest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let width =
        columns.iter().flat_map(|(mode, figures)| figures.iter().map(|it| it.chars().count()).chain([mode.len()]));
    let width = width.max().unwrap_or(0) + 3;
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(text, "{:widest$}", "");
    for (mode, _) in columns {
        let _ = write!(text, "{mode:>width$}");
    }
    let _ = writeln!(text, "\n{}", "─".repeat(widest + width * columns.len()));
    for (row, name) in names.iter().enumerate() {
        let _ = write!(text, "{name:widest$}");
        for (_, figures) in columns {
            let _ = write!(text, "{:>width$}", figures[row]);
        }
        text.push('\n');
    }
    text
}

fn figures(journey: &Journey) -> [(&'static str, String); 13] {
    let Journey { report, demand, measured, .. } = journey;
    let demand = |part: fn(&super::journey::Demand) -> Duration, show: fn(Duration) -> String| {
        demand.as_ref().map_or(NOTHING.to_owned(), |demand| show(part(demand)))
    };
    let count = |count: u64| thousands(count as f64);
    let slow = ms(measured.slow_time());
    [
        ("blackout, last to first sign of life   ms", ms(measured.blackout.length())),
        ("downtime as the machine says           ms", report.downtime_ms.map_or(NOTHING.to_owned(), count)),
        ("total time                             ms", count(report.total_ms)),
        ("brownout, guest below 80% of its speed ms", if measured.recovered { slow } else { format!(">{slow}") }),
        ("guest work lost, in guest time         ms", ms(measured.lost)),
        ("pages sent whole", count(report.normal)),
        ("pages sent as zero", count(report.zero)),
        ("pages demanded", count(report.requests)),
        ("demanded page, p50                     µs", demand(|it| it.p50, us)),
        ("demanded page, p99                     µs", demand(|it| it.p99, us)),
        ("demanded page, slowest                 ms", demand(|it| it.max, ms)),
        ("pages verified inside the guest", count(journey.verdict.pages)),
        ("errors", count(journey.errors())),
    ]
}

/// Milliseconds, with a decimal where it says something.
pub fn ms(time: Duration) -> String {
    match time.as_secs_f64() * 1e3 {
        ms if ms < 99.95 => format!("{ms:.1}"),
        ms => thousands(ms),
    }
}

fn us(time: Duration) -> String {
    thousands(time.as_secs_f64() * 1e6)
}

/// Seconds since the migration began, visits so far.
pub fn heartbeats(journey: &Journey) -> String {
    let mut text = "seconds,visits\n".to_owned();
    for beat in &journey.trace.beats {
        let seconds = beat.at.as_secs_f64() - journey.marks.start.as_secs_f64();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{seconds:.6},{}", beat.visits);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let columns = [
            ("precopy", ["1,234".to_owned(), "-".to_owned()]),
            ("postcopy", ["5".to_owned(), "1,234,567,890".to_owned()]),
        ];
        let text = layout(&["first µs", "second"], &columns);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0], "                 precopy        postcopy");
        assert_eq!(lines[2], "first µs           1,234               5");
        assert_eq!(lines[3], "second                 -   1,234,567,890");
        assert!(lines.iter().all(|line| line.chars().count() == 40), "{text}");
    }

    #[test]
    fn milliseconds_have_a_decimal_while_they_are_few() {
        let texts = [1_234, 99_949, 99_960, 2_500_000].map(|us| ms(Duration::from_micros(us)));
        assert_eq!(texts, ["1.2", "99.9", "100", "2,500"]);
    }
}
