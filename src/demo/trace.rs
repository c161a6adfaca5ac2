//! [`Trace`]: what the guest said on its serial ports, and when. Times count from the beginning of
//! the demo.

use std::time::Duration;

/// Which process the guest spoke through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where it was.
    Source,
    /// Where it went.
    Destination,
}

/// A heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// When it began to be sent, which is when the guest counted.
    pub at: Duration,
    /// Visits since the first heartbeat.
    pub visits: u64,
}

/// The guest's answer to a full verification of its working set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Pages looked at.
    pub pages: u64,
    /// Pages that were wrong.
    pub errors: u64,
}

/// What the guest said through both serial ports. The destination goes on where the source stopped,
/// in the middle of a line most often, so both make one stream of bytes.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    line: Vec<u8>,
    line_began: Duration,
    /// The counter of the last heartbeat, which has 32 bits only.
    counter: Option<u32>,
    /// When bytes arrived, and from where.
    pub arrivals: Vec<(Side, Duration)>,
    /// All heartbeats.
    pub beats: Vec<Beat>,
    /// Whether the guest has filled its working set and begun its visits.
    pub begun: bool,
    /// Damaged pages met by visits, as the guest counts them (at most 255).
    pub errors: u64,
    /// The guest's first complaint: the first damaged page, or why it gave up.
    pub complaint: Option<String>,
    /// The answer to the last verification.
    pub verdict: Option<Verdict>,
}

impl Trace {
    /// Takes bytes that arrived at `at`.
    pub fn hear(&mut self, side: Side, at: Duration, bytes: &[u8]) {
        self.arrivals.push((side, at));
        for byte in bytes {
            if self.line.is_empty() {
                self.line_began = at;
            }
            match byte {
                b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    self.understand(&String::from_utf8_lossy(&line));
                }
                byte => self.line.push(*byte),
            }
        }
    }

    fn understand(&mut self, line: &str) {
        if let Some((visits, errors)) = heartbeat(line) {
            let step = self.counter.map_or(0, |before| visits.wrapping_sub(before));
            let before = self.beats.last().map_or(0, |beat| beat.visits);
            self.counter = Some(visits);
            self.beats.push(Beat { at: self.line_began, visits: before + u64::from(step) });
            self.errors = errors;
        } else if line.starts_with("B ") {
            self.begun = true;
        } else if line.starts_with("E ") || line.starts_with("X ") {
            self.complaint.get_or_insert_with(|| line[2..].to_owned());
        } else if let Some(verdict) = verdict(line) {
            self.verdict = Some(verdict);
        }
    }

    /// From the last byte of the source to the first of the destination; `None` as long as only one
    /// of them spoke.
    pub fn blackout(&self) -> Option<(Duration, Duration)> {
        let at = |wanted| move |(side, at): &(Side, Duration)| (*side == wanted).then_some(*at);
        let last = self.arrivals.iter().rev().find_map(at(Side::Source))?;
        let first = self.arrivals.iter().find_map(at(Side::Destination))?;
        // Two threads take the times: the later one may have been held up.
        Some((last, first.max(last)))
    }

    /// Visits per second between the heartbeats of the last `window`; zero if there was at most
    /// one.
    pub fn recent_speed(&self, window: Duration) -> f64 {
        let Some(last) = self.beats.last() else { return 0.0 };
        let recent = self.beats.iter().rev().take_while(|beat| last.at - beat.at <= window).last();
        match recent.filter(|first| first.at < last.at) {
            Some(first) => (last.visits - first.visits) as f64 / (last.at - first.at).as_secs_f64(),
            None => 0.0,
        }
    }
}

/// `H VVVVVVVV EE`.
fn heartbeat(line: &str) -> Option<(u32, u64)> {
    let (visits, errors) = line.strip_prefix("H ")?.split_once(' ')?;
    match (visits.len(), errors.len()) {
        (8, 2) => Some((u32::from_str_radix(visits, 16).ok()?, u64::from_str_radix(errors, 16).ok()?)),
        // Half a line.
        _ => None,
    }
}

/// `V pages=P errors=N`.
fn verdict(line: &str) -> Option<Verdict> {
    let (pages, errors) = line.strip_prefix("V pages=")?.split_once(" errors=")?;
    Some(Verdict { pages: pages.parse().ok()?, errors: errors.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_line_that_began_on_the_source_ends_on_the_destination() {
        let mut trace = Trace::default();
        trace.hear(Side::Source, MS(1), b"B whimbrel-guest 1 cpus=1\nH 00000010 00\n");
        trace.hear(Side::Source, MS(5), b"H 0000");
        trace.hear(Side::Destination, MS(20), b"0030 02\nE vcpu=0 page=7\nE vcpu=0 page=8\n");
        assert!(trace.begun);
        assert_eq!(trace.beats, [Beat { at: MS(1), visits: 0 }, Beat { at: MS(5), visits: 0x20 }]);
        assert_eq!((trace.errors, trace.complaint.as_deref()), (2, Some("vcpu=0 page=7")));
        assert_eq!(trace.blackout(), Some((MS(5), MS(20))));
    }

    #[test]
    fn the_counter_wraps_and_halves_of_lines_do_not_count() {
        let mut trace = Trace::default();
        trace.hear(Side::Source, MS(0), b"0000 00\nH fffffff0 00\nH 1 00\nH 0000000g 00\nH 00000010 00\n");
        assert_eq!(trace.beats.iter().map(|beat| beat.visits).collect::<Vec<_>>(), [0, 0x20]);
    }

    #[test]
    fn there_is_no_blackout_before_the_destination_speaks() {
        let mut trace = Trace::default();
        trace.hear(Side::Source, MS(3), b"H");
        assert_eq!(trace.blackout(), None);
        trace.hear(Side::Destination, MS(2), b" ");
        assert_eq!(trace.blackout(), Some((MS(3), MS(3))), "never negative");
    }

    #[test]
    fn the_verdict_is_read() {
        let mut trace = Trace::default();
        trace.hear(Side::Destination, MS(0), b"V pages=98304 errors=3\n");
        assert_eq!(trace.verdict, Some(Verdict { pages: 98304, errors: 3 }));
    }

    #[test]
    fn recent_speed_looks_at_the_window_only() {
        let mut trace = Trace::default();
        assert_eq!(trace.recent_speed(MS(100)), 0.0);
        for (at, line) in [(0, "H 00000000 00\n"), (900, "H 00000000 00\n"), (1000, "H 00000064 00\n")] {
            trace.hear(Side::Source, MS(at), line.as_bytes());
        }
        assert_eq!(trace.recent_speed(MS(100)), 1000.0);
        assert_eq!(trace.recent_speed(MS(2000)), 100.0);
    }
}
