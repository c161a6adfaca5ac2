//! When a machine announces where it is: rounds and their delays. Time is an argument.
//!
//! Names, defaults and ranges are those of QEMU's parameters `announce-*`: the first round is made
//! at once; the time until the next is `initial`, and `step` longer from each to the next, but
//! never more than `max`.

use std::time::{Duration, Instant};

/// How many announcements may be under way at once; each has a name that a monitor client chose.
const MAX_NAMED: usize = 64;

/// How many rounds, and how far apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// From the first round to the second.
    pub initial: Duration,
    /// The longest from one round to the next.
    pub max: Duration,
    /// How many rounds; 0 announces nothing.
    pub rounds: u32,
    /// By how much longer each delay is than the one before.
    pub step: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self { initial: ms(50), max: ms(550), rounds: 5, step: ms(100) }
    }
}

/// A field of [`Schedule`], as monitors set it: a number, of milliseconds but for the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// See [`Schedule::initial`].
    Initial,
    /// See [`Schedule::max`].
    Max,
    /// See [`Schedule::rounds`].
    Rounds,
    /// See [`Schedule::step`].
    Step,
}

/// A number outside a field's range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

impl Timing {
    /// All of them, in QEMU's order.
    pub const ALL: [Self; 4] = [Self::Initial, Self::Max, Self::Rounds, Self::Step];

    /// The name it has as an argument of `announce-self`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Max => "max",
            Self::Rounds => "rounds",
            Self::Step => "step",
        }
    }

    /// Which values it takes, for messages.
    pub const fn expected(self) -> &'static str {
        match self {
            Self::Initial | Self::Max => "a value between 0 and 100000",
            Self::Rounds => "a value between 0 and 1000",
            Self::Step => "a value between 1 and 10000",
        }
    }

    const fn takes(self, value: u32) -> bool {
        match self {
            Self::Initial | Self::Max => value <= 100_000,
            Self::Rounds => value <= 1000,
            Self::Step => value >= 1 && value <= 10_000,
        }
    }
}

impl Schedule {
    /// One field as a number.
    pub fn get(&self, timing: Timing) -> i64 {
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        match timing {
            Timing::Initial => ms(self.initial),
            Timing::Max => ms(self.max),
            Timing::Rounds => self.rounds.into(),
            Timing::Step => ms(self.step),
        }
    }

    /// Sets one field.
    pub fn set(&mut self, timing: Timing, value: i64) -> Result<(), OutOfRange> {
        let value = u32::try_from(value).ok().filter(|it| timing.takes(*it)).ok_or(OutOfRange)?;
        let ms = Duration::from_millis(value.into());
        match timing {
            Timing::Initial => self.initial = ms,
            Timing::Max => self.max = ms,
            Timing::Rounds => self.rounds = value,
            Timing::Step => self.step = ms,
        }
        Ok(())
    }

    /// How long after round `round` (the first is 1) the next one is made; `None` if it was the
    /// last.
    pub fn delay_after(&self, round: u32) -> Option<Duration> {
        if round >= self.rounds {
            return None;
        }
        let growth = self.step.saturating_mul(round.saturating_sub(1));
        Some(self.initial.saturating_add(growth).min(self.max))
    }
}

/// One announcement under way.
#[derive(Clone, Copy, Debug)]
pub struct Announcement {
    schedule: Schedule,
    /// Rounds made.
    made: u32,
    next: Option<Instant>,
}

impl Announcement {
    /// Begins one: its first round is due `now`.
    pub fn begin(schedule: Schedule, now: Instant) -> Self {
        Self { schedule, made: 0, next: (schedule.rounds > 0).then_some(now) }
    }

    /// When the next round is due; `None` once all were made.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Whether a round is due `now`. If so it counts as made, and the next is due its delay from
    /// now: rounds that come late are not crowded together.
    pub fn take(&mut self, now: Instant) -> bool {
        if self.next.is_none_or(|at| at > now) {
            return false;
        }
        self.made += 1;
        self.next = self.schedule.delay_after(self.made).map(|delay| now + delay);
        true
    }
}

/// Too many announcements at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_NAMED} announcements are under way already; use an id again, or wait until some have ended")]
pub struct TooManyAnnouncements;

/// A card's announcements under way, each with a name (QEMU's `id`).
#[derive(Debug, Default)]
pub struct Announcements(Vec<(String, Announcement)>);

impl Announcements {
    /// Begins one. It takes the place of one with the same name; with no rounds it ends that one.
    pub fn start(&mut self, id: &str, schedule: Schedule, now: Instant) -> Result<(), TooManyAnnouncements> {
        let room = self.0.len() < MAX_NAMED || self.0.iter().any(|(name, _)| name == id);
        if !room {
            return Err(TooManyAnnouncements);
        }
        self.0.retain(|(name, _)| name != id);
        if schedule.rounds > 0 {
            self.0.push((id.to_owned(), Announcement::begin(schedule, now)));
        }
        Ok(())
    }

    /// When the next round of any is due.
    pub fn next(&self) -> Option<Instant> {
        self.0.iter().filter_map(|(_, it)| it.next()).min()
    }

    /// Whether a round is due `now`; those of several announcements are made together.
    pub fn take(&mut self, now: Instant) -> bool {
        let mut due = false;
        for (_, announcement) in &mut self.0 {
            due |= announcement.take(now);
        }
        self.0.retain(|(_, it)| it.next().is_some());
        due
    }

    /// Ends all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests;
