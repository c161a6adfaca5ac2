//! Slows down a guest that writes faster than its pages can be sent: by how much, decided from what
//! was measured. No clock, no vCPU.
//!
//! Both ways begin alike: where what the guest dirtied is more than a part of what was sent
//! meanwhile, twice, it will not converge by itself. Then *auto-converge* takes time from the vCPUs
//! step by step for as long as that stays so; *dirty-limit* measures the guest's dirty rate at
//! short intervals and takes what time keeps it at a limit.

use std::time::Duration;

use crate::stats::Throttling;
use crate::throttle::Throttle;

/// What is done about a guest that does not converge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThrottlePolicy {
    /// Nothing.
    #[default]
    Off,
    /// Its vCPUs get less and less time.
    AutoConverge(AutoConverge),
    /// It dirties no more than so much.
    DirtyLimit(DirtyLimit),
}

/// QEMU's `auto-converge`. All numbers are percentages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoConverge {
    /// Of what was sent: who dirties more does not converge.
    pub threshold: u8,
    /// The first throttle.
    pub initial: u8,
    /// What is added to it each time.
    pub increment: u8,
    /// Adds less where less seems to do: what would bring the dirty rate down to the threshold.
    pub tailslow: bool,
    /// The most.
    pub most: u8,
}

/// QEMU's `dirty-limit`, for all vCPUs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyLimit {
    /// As with [`AutoConverge::threshold`]: from then on the limit holds.
    pub threshold: u8,
    /// Bytes per second that the guest may dirty, every page counting once an interval.
    pub rate: u64,
    /// How long an interval is.
    pub period: Duration,
}

/// Verdicts are made of no less: what happens within a second says little.
const WINDOW: Duration = Duration::from_secs(1);
/// In a long pass the dirty log is looked at so often, or the verdict would come with the end of a
/// pass that may take minutes.
const LOOK: Duration = Duration::from_secs(5);
/// So many windows above the threshold are a verdict. They need not follow each other.
const HIGH: u32 = 2;

impl ThrottlePolicy {
    /// How often the dirty log is to be read in the middle of a pass.
    pub fn period(&self) -> Option<Duration> {
        match self {
            Self::Off => None,
            Self::AutoConverge(_) => Some(LOOK),
            Self::DirtyLimit(limit) => Some(limit.period),
        }
    }

    fn threshold(&self) -> Option<u8> {
        match self {
            Self::Off => None,
            Self::AutoConverge(converge) => Some(converge.threshold),
            Self::DirtyLimit(limit) => Some(limit.threshold),
        }
    }
}

/// What was seen between two readings of the dirty log, or several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Bytes of RAM that became dirty.
    pub dirtied: u64,
    /// Bytes put on the wire.
    pub sent: u64,
    /// How long it was.
    pub elapsed: Duration,
}

impl Window {
    fn add(&mut self, other: Self) {
        self.dirtied += other.dirtied;
        self.sent += other.sent;
        self.elapsed += other.elapsed;
    }

    /// The part of what was sent that counts as too much.
    fn allowed(&self, threshold: u8) -> u64 {
        (u128::from(self.sent) * u128::from(threshold) / 100) as u64
    }
}

/// By how much the guest is throttled now, and why.
#[derive(Debug, Default)]
pub struct Slowdown {
    throttle: Throttle,
    window: Window,
    high: u32,
    /// The limit holds.
    limited: bool,
}

impl Slowdown {
    /// The throttle.
    pub fn throttle(&self) -> Throttle {
        self.throttle
    }

    /// What users are told of it.
    pub fn report(&self, policy: &ThrottlePolicy) -> Option<Throttling> {
        match policy {
            ThrottlePolicy::AutoConverge(_) if !self.throttle.is_none() => {
                Some(Throttling::AutoConverge(self.throttle.as_percent()))
            }
            ThrottlePolicy::DirtyLimit(_) if self.limited => {
                Some(Throttling::DirtyLimit(self.throttle.rest(self.throttle.run())))
            }
            _ => None,
        }
    }

    /// The log was read: this is what came since it was read before.
    pub fn seen(&mut self, seen: Window, policy: &ThrottlePolicy) {
        match policy {
            ThrottlePolicy::DirtyLimit(limit) if self.limited => {
                self.throttle = regulate(self.throttle, seen.dirtied, seen.elapsed, limit.rate);
            }
            // Nobody wants it any more.
            ThrottlePolicy::Off => *self = Self::default(),
            _ => {}
        }
        self.window.add(seen);
        if let Some(threshold) = policy.threshold()
            && self.window.elapsed >= WINDOW
        {
            let window = std::mem::take(&mut self.window);
            self.judge(window, window.allowed(threshold), policy);
        }
    }

    fn judge(&mut self, window: Window, allowed: u64, policy: &ThrottlePolicy) {
        if window.dirtied <= allowed {
            return;
        }
        self.high += 1;
        if self.high < HIGH {
            return;
        }
        self.high = 0;
        match policy {
            ThrottlePolicy::Off => {}
            ThrottlePolicy::AutoConverge(converge) => {
                self.throttle = Throttle::percent(converge.step(self.throttle.as_percent(), window.dirtied, allowed));
            }
            ThrottlePolicy::DirtyLimit(limit) if !self.limited => {
                self.limited = true;
                self.throttle = regulate(self.throttle, window.dirtied, window.elapsed, limit.rate);
            }
            ThrottlePolicy::DirtyLimit(_) => {}
        }
    }
}

impl AutoConverge {
    /// The next throttle after `now`, in percent.
    fn step(&self, now: u8, dirtied: u64, allowed: u64) -> u8 {
        if now == 0 {
            return self.initial.min(self.most);
        }
        let left = 100u8.saturating_sub(now);
        let ideal = (u128::from(left) * u128::from(allowed) / u128::from(dirtied.max(1))) as u8;
        let more = if self.tailslow { self.increment.min(left.saturating_sub(ideal)) } else { self.increment };
        // If the user lowered the maximum meanwhile, the guest speeds up to that.
        now.saturating_add(more).min(self.most)
    }
}

/// So near to the limit is at it.
const TOLERANCE: f64 = 0.05;
/// Changes of the time that vCPUs get, from one interval to the next: a guest changes what it is
/// at, and one interval is one sample.
const SLOWER: f64 = 0.25;
const FASTER: f64 = 1.5;

/// The throttle that brings a guest which dirtied so many bytes in `elapsed` under `throttle`
/// nearer to `rate` bytes per second.
///
/// The rate is taken to go with the time that vCPUs get. A guest that writes pages again and again
/// dirties fewer the longer an interval is; then a step does too little, and the next ones do the
/// rest.
pub fn regulate(throttle: Throttle, dirtied: u64, elapsed: Duration, rate: u64) -> Throttle {
    let seconds = elapsed.as_secs_f64();
    if seconds <= 0.0 {
        return throttle;
    }
    let ratio = rate as f64 * seconds / dirtied.max(1) as f64;
    if (1.0 - TOLERANCE..=1.0 + TOLERANCE).contains(&ratio) {
        return throttle;
    }
    let next = Throttle::leaving(throttle.share() * ratio.clamp(SLOWER, FASTER));
    // Where a step is less than the smallest there is, it is that.
    match next == throttle {
        true if ratio < 1.0 => Throttle::leaving(throttle.share() - 0.001),
        true => Throttle::leaving(throttle.share() + 0.001),
        false => next,
    }
}

#[cfg(test)]
mod tests;
