//! [`Measured`]: what a move cost the guest, from what it said and when.

use std::time::Duration;

use super::trace::{Beat, Trace};

/// The grain in which throughput is looked at. Some heartbeats fall into each.
const BIN: Duration = Duration::from_millis(50);
/// The same for the picture. A heartbeat takes 14 ms to be sent, so less would show nothing more.
const FINE: Duration = Duration::from_millis(20);
/// Below this share of its undisturbed speed the guest is in a brownout.
const SLOW: f64 = 0.8;
/// After this many bins without a slow stretch the guest has recovered.
const RECOVERED: usize = 10;
/// An undisturbed guest is steady if this share of its bins is within [`SWAY`] of its mean speed.
const STEADY: f64 = 0.8;
/// How far the speed of a steady guest sways, as a share of its mean.
const SWAY: f64 = 0.3;
/// A guest that was this slow for one bin only was not disturbed by the migration.
const NOISE: usize = 1;

/// A stretch of time, counted from the beginning of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its beginning.
    pub from: Duration,
    /// Its end.
    pub to: Duration,
}

impl Span {
    /// How long it is.
    pub fn length(self) -> Duration {
        self.to.saturating_sub(self.from)
    }

    /// How much of it lies in `other`.
    pub fn overlap(self, other: Span) -> Duration {
        self.to.min(other.to).saturating_sub(self.from.max(other.from))
    }
}

/// The throughput in one bin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bin {
    /// When.
    pub span: Span,
    /// Visits per second.
    pub speed: f64,
}

/// When what happened to the migration.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    /// The guest is warm and nothing disturbs it.
    pub calm: Duration,
    /// The migration was asked for.
    pub start: Duration,
    /// It was completed.
    pub end: Duration,
    /// The last moment looked at.
    pub until: Duration,
}

/// What a move cost the guest.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Visits per second before the migration.
    pub speed: f64,
    /// Whether that speed was steady. If not, other load on the host makes everything but the
    /// blackout a rough figure.
    pub steady: bool,
    /// No sign of life.
    pub blackout: Span,
    /// Signs of life, but slow; the blackout may lie within one.
    pub brownouts: Vec<Span>,
    /// Whether the guest recovered before the last moment looked at.
    pub recovered: bool,
    /// Work that the guest would have done undisturbed and has not, as time of an undisturbed
    /// guest.
    pub lost: Duration,
    /// The guest's throughput over all the time looked at, in the grain of the picture.
    pub curve: Vec<Bin>,
}

impl Measured {
    /// Measures; `None` if the guest said too little, before or after the move.
    pub fn of(trace: &Trace, marks: &Marks) -> Option<Self> {
        let (from, to) = trace.blackout()?;
        let blackout = Span { from, to };
        let before: Vec<&Beat> =
            trace.beats.iter().filter(|beat| (marks.calm..=marks.start).contains(&beat.at)).collect();
        let (first, last) = (before.first()?, before.last()?);
        let speed = (last.visits - first.visits) as f64 / (last.at.checked_sub(first.at)?).as_secs_f64();
        if !speed.is_normal() || trace.beats.last()?.at <= to {
            return None;
        }
        let work = Work::new(&trace.beats, blackout, speed);
        let whole = Span { from: marks.calm, to: marks.until };
        let (bins, curve) = (work.curve(whole, BIN), work.curve(whole, FINE));
        let slow: Vec<bool> = bins.iter().map(|bin| bin.speed < SLOW * speed).collect();
        let begin = bins.partition_point(|bin| bin.span.to <= marks.start);
        let end = bins.partition_point(|bin| bin.span.to <= marks.end);
        let slow = slow_stretches(&slow, begin, end);
        let span = |(first, last): &(usize, usize)| Span {
            from: bins[*first].span.from.max(marks.start),
            to: bins[*last].span.to,
        };
        let brownouts = slow.iter().map(span).collect();
        let done = work.at(marks.until) - work.at(marks.start);
        let lost = (marks.until - marks.start).as_secs_f64() - done / speed;
        Some(Self {
            speed,
            steady: is_steady(&bins[..begin], speed),
            blackout,
            brownouts,
            recovered: slow.last().is_none_or(|(_, last)| last + 1 < bins.len()),
            lost: Duration::from_secs_f64(lost.max(0.0)),
            curve,
        })
    }

    /// How long the guest was slow but not silent.
    pub fn slow_time(&self) -> Duration {
        self.brownouts.iter().map(|span| span.length().saturating_sub(span.overlap(self.blackout))).sum()
    }
}

fn is_steady(calm: &[Bin], speed: f64) -> bool {
    let near = calm.iter().filter(|bin| (bin.speed - speed).abs() <= SWAY * speed).count();
    near as f64 >= STEADY * calm.len() as f64
}

/// The stretches of slow bins, first and last bin of each, that a migration from bin `begin` to bin
/// `end` caused: those in between, and those after it until the guest has recovered.
fn slow_stretches(slow: &[bool], begin: usize, end: usize) -> Vec<(usize, usize)> {
    let mut stretches: Vec<(usize, usize)> = Vec::new();
    let mut at = begin;
    while at < slow.len() {
        let length = slow[at..].iter().take_while(|slow| **slow).count();
        let bad_until = stretches.last().map_or(end, |(_, last)| end.max(last + 1));
        if at > bad_until + RECOVERED {
            break;
        }
        if length > NOISE {
            stretches.push((at, at + length - 1));
        }
        at += length.max(1);
    }
    stretches
}

/// The work done so far at any moment.
struct Work {
    /// When, in seconds, and how many visits; both only grow.
    knots: Vec<(f64, f64)>,
}

impl Work {
    /// From heartbeats. None is done in the blackout: the heartbeats on both sides of it say how
    /// much was done, and the guest ran undisturbed until it began.
    fn new(beats: &[Beat], blackout: Span, speed: f64) -> Self {
        let mut knots: Vec<(f64, f64)> = Vec::with_capacity(beats.len() + 2);
        for beat in beats {
            let (at, visits) = (beat.at.as_secs_f64(), beat.visits as f64);
            if let Some((before, so_far)) = knots.last().copied()
                && beat.at > blackout.to
                && before <= blackout.from.as_secs_f64()
            {
                let from = blackout.from.as_secs_f64();
                let frozen = visits.min(so_far + speed * (from - before));
                knots.extend([(from, frozen), (blackout.to.as_secs_f64(), frozen)]);
            }
            knots.push((at, visits));
        }
        Self { knots }
    }

    fn at(&self, at: Duration) -> f64 {
        let at = at.as_secs_f64();
        let next = self.knots.partition_point(|(time, _)| *time <= at);
        match (next.checked_sub(1).map(|last| self.knots[last]), self.knots.get(next)) {
            (Some((from, low)), Some((to, high))) => low + (high - low) * (at - from) / (to - from),
            (Some((_, visits)), None) | (None, Some(&(_, visits))) => visits,
            (None, None) => 0.0,
        }
    }

    fn curve(&self, whole: Span, grain: Duration) -> Vec<Bin> {
        let count = whole.length().as_millis() / grain.as_millis();
        let bin = |index: u32| {
            let span = Span { from: whole.from + grain * index, to: whole.from + grain * (index + 1) };
            Bin { span, speed: (self.at(span.to) - self.at(span.from)) / grain.as_secs_f64() }
        };
        (0..u32::try_from(count).unwrap_or(u32::MAX)).map(bin).collect()
    }
}

#[cfg(test)]
mod tests;
