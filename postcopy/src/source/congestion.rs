//! How fast the background may go on a network link, so that no queue stands there before a
//! demanded page. Reads no clock, does no I/O.
//!
//! A demanded page has a connection of its own, but it shares the link with the background, and
//! whatever the background has in the link's queue (a switch's, a network card's) goes first.
//! Congestion control is content with milliseconds of that. So in postcopy the background is paced
//! a little below what the link carries: the queue stays empty, and the link nearly full.
//!
//! ```text
//! Free      -- a queue stands ----------------------------> Draining
//! Draining  -- the queue should be gone ------------------> Cruising
//! Cruising  -- a queue stands ----------------------------> Draining
//!           -- long enough without a queue ---------------> Probing
//! Probing   -- it carries more ---------------------------> Probing, faster
//!           -- it carries no more than before ------------> Cruising
//!           -- a queue stands ----------------------------> Draining
//! Draining, Cruising, Probing -- faster than any pace is good for --> Free
//! ```
//!
//! What speaks for a queue is the round trip: longer than the shortest known, twice in a row. Where
//! it does not grow, for instance because the processors are slower than the link, the state stays
//! `Free` and nothing is ever set.

use std::collections::VecDeque;
use std::time::Duration;

/// A queue that is left alone: what a demanded page takes anyway on its way through both hosts is
/// about as long. Shorter would mistake the time slices of a busy host for a queue.
const TOLERATED: Duration = Duration::from_micros(300);
/// How many looks in a row must show a queue. A single one may be a host that had no time for an
/// acknowledgement.
const LOOKS: u32 = 2;
/// The same where none is to be expected: hosts are late for longer, too.
const LOOKS_CRUISING: u32 = 3;
/// How often to look. A queue grows by at most about as much between two looks while nothing is
/// paced yet.
const EVERY: Duration = Duration::from_millis(1);
/// Over how long the rate is measured: what is acknowledged at once takes 0.5 ms at 1 Gb/s.
const WINDOW: Duration = Duration::from_millis(5);
/// The shortest that says anything about the rate.
const SHORTEST_WINDOW: Duration = Duration::from_millis(2);
/// What the background and the demanded pages together may take of the link, in percent. The rest
/// is what lets a queue shrink again.
const CRUISE: u64 = 97;
/// How long a queue may take to shrink, if the link allows. Meanwhile the background has less of
/// the link: at least this share, or the time without it would cost more than the queue, and at
/// most that, or a short queue would take too long. In percent.
const DRAIN: Duration = Duration::from_millis(4);
const DRAIN_LEAST: u32 = 25;
const DRAIN_MOST: u32 = 70;
/// Whoever finds a queue so soon after the last one was drained believes in too fast a link. Later
/// it is rather a burst of others, or a host without time, and costs no more than a little of the
/// rate, in percent.
const SOON: Duration = Duration::from_millis(20);
const A_LITTLE_LESS: u64 = 98;
/// After so long without a queue the link may have become faster. Together with a probe's length
/// this is how late that is noticed.
const PROBE_AFTER: Duration = Duration::from_millis(60);
/// A probe's step: how long, and how much more than before, in percent. A link that carries no more
/// gets a queue of 0.2 ms by it.
const PROBE_STEP: Duration = Duration::from_millis(4);
const PROBE_MORE: u64 = 105;
/// From this step of a probe on the link is much faster than believed, and steps are large.
const LARGE_STEPS_FROM: u32 = 7;
const LARGE_STEP_MORE: u64 = 130;
/// Which share of a rate that was carried before is as good as that, in percent.
const NEAR: u64 = 90;
/// After what looked like a queue and was none, nothing is looked for so long.
const HOLD_OFF: Duration = Duration::from_millis(200);
/// How many steps of a probe do not count yet: a link that lets a burst through (a token bucket of
/// a millisecond) pretends so much.
const STEPS_ON_CREDIT: usize = 2;
/// A step was carried if so much of it arrived, in percent, or would have with one acknowledgement
/// more, of so many bytes.
const CARRIED: u64 = 93;
const AT_ONCE: u64 = 64 * 1024;
/// Above this rate nothing is paced, in bytes per second: one stream keeps no such link busy, and a
/// switch's whole buffer is gone within a millisecond.
const FASTEST: u64 = 1_100_000_000;
/// Below this rate nothing is paced either: the estimate must not end in a standstill, whatever the
/// samples say.
const SLOWEST: u64 = 100_000;
/// The demanded pages' own share of the link is taken from this time.
const SHARE_WINDOW: Duration = Duration::from_millis(10);
/// The largest segment of a real link is a jumbo frame's. Loopback's are 64 KiB.
const LARGEST_SEGMENT: u32 = 16 * 1024;
/// Which change of the pace is worth a system call: one in so many parts.
const WORTHWHILE: u64 = 100;

/// What a connection says about its way at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Counted from any fixed moment.
    pub at: Duration,
    /// Smoothed round trip: each acknowledgement counts for an eighth.
    pub round_trip: Duration,
    /// The shortest round trip seen lately.
    pub shortest: Duration,
    /// Bytes of the background that have arrived, ever.
    pub arrived: u64,
    /// Bytes that were sent because a page was demanded, ever: they take the same link.
    pub demanded: u64,
    /// Segments that came from the peer, ever: acknowledgements.
    pub acknowledgements: u64,
    /// Time that the receiver allowed no more, ever.
    pub receiver_limited: Duration,
    /// The largest segment, in bytes.
    pub segment: u32,
    /// Bytes of the background on their way.
    pub in_flight: u64,
    /// Whether the socket had nothing left to send: the host, not the link, is late.
    pub dry: bool,
}

/// What the background is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacingRate {
    /// Nothing: as fast as the connection goes.
    Unpaced,
    /// Bytes per second.
    To(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// No queue was found: nothing is paced, and until then none is looked for.
    Free { until: Duration },
    /// A queue is to disappear.
    Draining(Drain),
    /// A little below `rate`, since then.
    Cruising { rate: u64, since: Duration },
    /// Above what is known: `rates` are the last steps', oldest first, the newest is being tried.
    Probing { rates: VecDeque<u64>, step: u32, since: Duration, before: u64 },
}

/// A queue that is to disappear, on a link of `rate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Drain {
    rate: u64,
    /// What both kinds together go at meanwhile.
    pace: u64,
    since: Duration,
    until: Duration,
    /// The round trip at the begin, and the shortest since.
    before: Duration,
    lowest: Duration,
    /// The pace was halved because the queue did not shrink.
    halved: bool,
    /// What to go back to if it was no queue: this rate, or none.
    known: Option<u64>,
}

/// Chooses the background's pace on one connection.
#[derive(Debug)]
pub struct CongestionControl {
    state: State,
    /// The round trip without any queue.
    base: Duration,
    last: Option<Sample>,
    /// The latest samples, oldest first; without a gap.
    history: VecDeque<Sample>,
    /// The highest rate that the link carried and has not refused since.
    best: u64,
    /// How many looks in a row showed a queue.
    above: u32,
    set: PacingRate,
}

impl Default for CongestionControl {
    fn default() -> Self {
        Self {
            state: State::Free { until: Duration::ZERO },
            base: Duration::MAX,
            last: None,
            history: VecDeque::new(),
            best: 0,
            above: 0,
            set: PacingRate::Unpaced,
        }
    }
}

/// Bytes per second.
fn rate_of(bytes: u64, time: Duration) -> u64 {
    (u128::from(bytes) * 1_000_000_000 / time.as_nanos().max(1)) as u64
}

fn percent(rate: u64, share: u64) -> u64 {
    rate.saturating_mul(share) / 100
}

impl CongestionControl {
    /// Whether it is time for a look.
    pub fn is_due(&self, now: Duration) -> bool {
        self.last.is_none_or(|last| now.saturating_sub(last.at) >= EVERY)
    }

    /// The background stops sending for a while: what follows does not measure the link.
    pub fn idle(&mut self) {
        self.history.clear();
        self.above = 0;
    }

    /// What a look showed; returns what to set from now on, if that changes.
    pub fn looked(&mut self, sample: Sample) -> Option<PacingRate> {
        if sample.segment > LARGEST_SEGMENT {
            return None;
        }
        let Some(last) = self.last.replace(sample) else {
            self.note(sample);
            self.base = sample.shortest;
            return None;
        };
        self.note(sample);
        let round_trip = round_trip_since(&last, &sample)?;
        self.base = self.base.min(round_trip.max(sample.shortest));
        let queue = round_trip.saturating_sub(self.base);
        let time = sample.at.saturating_sub(last.at);
        let receiver = sample.receiver_limited.saturating_sub(last.receiver_limited) > time / 2;
        let ours = self.is_ours(&sample, queue);
        self.above = if queue > TOLERATED && ours && !receiver && !sample.dry { self.above + 1 } else { 0 };
        self.step(&sample, round_trip, queue);
        self.set_pace()
    }

    fn note(&mut self, sample: Sample) {
        self.history.push_back(sample);
        while self.history.get(1).is_some_and(|old| sample.at.saturating_sub(old.at) >= SHARE_WINDOW) {
            self.history.pop_front();
        }
    }

    /// Whether a queue of that length can be made of the background's bytes: then about as many are
    /// on their way. Where fewer are, a host is late, or the queue is another's.
    fn is_ours(&self, sample: &Sample, queue: Duration) -> bool {
        let Some((both, demanded)) = self.rates(Duration::ZERO) else { return false };
        let needed = u128::from(both.saturating_sub(demanded)) * queue.as_nanos() / 1_000_000_000;
        u128::from(sample.in_flight) >= needed / 2
    }

    /// Bytes per second of both kinds that arrived lately, but not before `since`, and of demanded
    /// ones.
    fn rates(&self, since: Duration) -> Option<(u64, u64)> {
        let now = self.history.back()?;
        let age = |then: &Sample| now.at.saturating_sub(then.at);
        let mut recent = self.history.iter().filter(|then| then.at >= since);
        let then = recent.clone().rev().find(|then| age(then) >= WINDOW).or_else(|| recent.next())?;
        let rate = |bytes: u64, before: u64| rate_of(bytes.saturating_sub(before), age(then));
        let both = |sample: &Sample| sample.arrived + sample.demanded;
        (age(then) >= SHORTEST_WINDOW).then(|| (rate(both(now), both(then)), rate(now.demanded, then.demanded)))
    }

    /// What the link carries, if the background kept it busy since then.
    fn measured(&self, since: Duration) -> Option<u64> {
        let dry = self.history.iter().any(|sample| sample.at >= since && sample.dry);
        self.rates(since).map(|(both, _)| both).filter(|_| !dry)
    }

    /// Bytes per second that demanded pages take.
    fn demanded(&self) -> u64 {
        match (self.history.front(), self.history.back()) {
            (Some(then), Some(now)) if now.at.saturating_sub(then.at) >= SHORTEST_WINDOW => {
                rate_of(now.demanded.saturating_sub(then.demanded), now.at.saturating_sub(then.at))
            }
            _ => 0,
        }
    }

    fn step(&mut self, sample: &Sample, round_trip: Duration, queue: Duration) {
        let now = sample.at;
        let arrived = sample.arrived + sample.demanded;
        let nothing = State::Free { until: Duration::ZERO };
        self.state = match std::mem::replace(&mut self.state, nothing) {
            State::Free { until } if self.above >= LOOKS && now >= until => match self.measured(Duration::ZERO) {
                Some(rate) if (SLOWEST..=FASTEST).contains(&rate) => {
                    State::Draining(self.drain(rate, None, now, queue))
                }
                _ => State::Free { until },
            },
            State::Draining(drain) => self.drain_on(drain, now, round_trip, queue),
            State::Cruising { rate, since } if self.above >= LOOKS_CRUISING => {
                let little = percent(rate, A_LITTLE_LESS);
                let soon = now.saturating_sub(since) < SOON;
                // Not less than half: what was measured may be a moment without time for either
                // host.
                let lower = self.measured(since).filter(|_| soon).map_or(little, |less| less.clamp(rate / 2, little));
                self.best = self.best.max(rate);
                State::Draining(self.drain(lower.max(SLOWEST), Some(rate), now, queue))
            }
            State::Cruising { rate, since } if now.saturating_sub(since) >= self.patience(rate) && self.above == 0 => {
                let rates = [rate, self.more(rate, 0)].into();
                State::Probing { rates, step: 1, since: now, before: arrived }
            }
            State::Probing { rates, .. } if self.above > 0 => {
                let known = rates.front().copied().unwrap_or(SLOWEST);
                let carried = rates.iter().rev().nth(1).copied().unwrap_or(known);
                let rate = self.measured(Duration::ZERO).map_or(known, |rate| rate.clamp(known, carried));
                self.best = rate;
                State::Draining(self.drain(rate, Some(known), now, queue))
            }
            State::Probing { mut rates, step, since, before } => {
                let time = now.saturating_sub(since);
                let tried = rates.back().copied().unwrap_or(SLOWEST);
                if time < PROBE_STEP {
                    State::Probing { rates, step, since, before }
                } else if sample.dry {
                    // Nothing was tried. The next time is another step's.
                    State::Probing { rates, step, since: now, before: arrived }
                } else if rate_of(arrived.saturating_sub(before) + AT_ONCE, time) < percent(tried, CARRIED) {
                    // No queue, and yet not more: something else is slower than the link.
                    State::Cruising { rate: rates.front().copied().unwrap_or(SLOWEST), since: now }
                } else if tried > FASTEST {
                    State::Free { until: Duration::ZERO }
                } else {
                    rates.push_back(self.more(tried, step));
                    while rates.len() > STEPS_ON_CREDIT + 1 {
                        rates.pop_front();
                    }
                    State::Probing { rates, step: step + 1, since: now, before: arrived }
                }
            }
            state => state,
        };
        if !matches!(self.state, State::Free { .. } | State::Cruising { .. }) {
            self.above = 0;
        }
    }

    /// How long to go at this rate before more is tried. Not long if the link has carried more:
    /// then a late host looked like a queue.
    fn patience(&self, rate: u64) -> Duration {
        if rate < percent(self.best, NEAR) { SOON } else { PROBE_AFTER }
    }

    /// The rate to try after this one.
    fn more(&self, rate: u64, step: u32) -> u64 {
        if rate < percent(self.best, NEAR) {
            percent(rate, LARGE_STEP_MORE).min(self.best)
        } else {
            percent(rate, if step >= LARGE_STEPS_FROM { LARGE_STEP_MORE } else { PROBE_MORE })
        }
    }

    fn drain_on(&mut self, mut drain: Drain, now: Duration, round_trip: Duration, queue: Duration) -> State {
        drain.lowest = drain.lowest.min(round_trip);
        let measured = self.measured(drain.since).filter(|_| now.saturating_sub(drain.since) >= WINDOW);
        if queue <= TOLERATED / 3 {
            // What left it as it was and made it shrink when halved is what the link carries.
            let rate = if drain.halved { drain.rate.min(drain.pace * 2) } else { drain.rate };
            return State::Cruising { rate, since: now };
        }
        if let Some(less) = measured.filter(|less| *less < percent(drain.pace, CARRIED)) {
            // It does not even carry that: it is much slower than believed.
            return State::Draining(self.drain(less.max(drain.rate / 8).max(SLOWEST), drain.known, now, queue));
        }
        if now < drain.until {
            return State::Draining(drain);
        }
        let shrinks = drain.lowest < drain.before / 4 * 3;
        if drain.halved && !shrinks {
            // What is left at half the pace and does not shrink is no queue of ours: the way has
            // become longer, or 64 KiB take so long.
            self.base = drain.lowest;
            return match drain.known {
                Some(rate) => State::Cruising { rate, since: now },
                None => State::Free { until: now + HOLD_OFF },
            };
        }
        if !shrinks {
            // If it is a queue, then just so much left it as came.
            drain.halved = true;
            drain.pace /= 2;
        }
        let until = now + (queue * 2).max(WINDOW) + EVERY * 3;
        State::Draining(Drain { since: now, until, before: drain.lowest, lowest: Duration::MAX, ..drain })
    }

    /// A queue shrinks by what the background leaves of the link. It has as long as that takes, but
    /// so long that it shows whether the link carries so much, and a few looks more.
    fn drain(&self, rate: u64, known: Option<u64>, now: Duration, queue: Duration) -> Drain {
        let wanted = (queue.as_nanos() * 100 / DRAIN.as_nanos()).min(100) as u32;
        let share = (100 - wanted).clamp(DRAIN_LEAST, DRAIN_MOST);
        let until = now + (queue * 100 / (100 - share)).max(WINDOW) + EVERY * 3;
        let (before, lowest) = (self.base.saturating_add(queue), Duration::MAX);
        Drain { rate, pace: percent(rate, share.into()), since: now, until, before, lowest, halved: false, known }
    }

    /// What the state calls for, if that is not set yet.
    fn set_pace(&mut self) -> Option<PacingRate> {
        let whole = match &self.state {
            State::Free { .. } => None,
            State::Draining(drain) => Some(drain.pace),
            State::Cruising { rate, .. } => Some(percent(*rate, CRUISE)),
            State::Probing { rates, .. } => rates.back().copied(),
        };
        let wanted = match whole {
            None => PacingRate::Unpaced,
            // Demanded pages go anyway; the background takes what they leave, but never stands
            // still.
            Some(rate) => PacingRate::To(rate.saturating_sub(self.demanded()).max(rate / 4)),
        };
        let same = match (self.set, wanted) {
            (PacingRate::To(set), PacingRate::To(wanted)) => set.abs_diff(wanted) < set / WORTHWHILE,
            (set, wanted) => set == wanted,
        };
        (!same).then(|| {
            self.set = wanted;
            wanted
        })
    }
}

/// The mean of the round trips between two samples. The smoothed one lags eight acknowledgements
/// behind, which are 4 ms at 1 Gb/s, and that is most of what a queue may take. `None` if nothing
/// was acknowledged.
fn round_trip_since(last: &Sample, sample: &Sample) -> Option<Duration> {
    let count = sample.acknowledgements.saturating_sub(last.acknowledgements);
    if count == 0 {
        return None;
    }
    let kept = 0.875_f64.powi(count.min(100) as i32);
    let (before, after) = (last.round_trip.as_secs_f64(), sample.round_trip.as_secs_f64());
    Some(Duration::from_secs_f64(((after - before * kept) / (1.0 - kept)).clamp(1e-6, 60.0)))
}

#[cfg(test)]
mod tests;
