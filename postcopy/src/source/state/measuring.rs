//! How fast the guest dirties its RAM while passes go, and what is done about that.

use std::time::Duration;

use super::super::auto_converge::Window;
use super::{Pass, Since, Source, State};
use crate::ram::PAGE_SIZE;
use crate::stats::Throttling;
use crate::throttle::Throttle;

impl Source {
    /// Whether the guest is still at work here, and may be slowed down. It is not once it was
    /// paused, and never again after that.
    fn may_be_slowed(&self) -> bool {
        matches!(
            self.state,
            State::Precopy(_)
                | State::EndOfPass(_)
                | State::Deciding(_)
                | State::Dropping(_)
                | State::AwaitDropped(_)
                | State::Pausing(_)
        )
    }

    /// By how much the guest is to be throttled now.
    pub fn throttle(&self) -> Throttle {
        if self.may_be_slowed() { self.slowdown.throttle() } else { Throttle::NONE }
    }

    /// What users are told of it.
    pub fn throttling(&self) -> Option<Throttling> {
        self.slowdown.report(&self.limits.throttling).filter(|_| self.may_be_slowed())
    }

    /// Whether the pass is over: what the log says now decides what comes next.
    pub fn is_deciding(&self) -> bool {
        matches!(self.state, State::Deciding(_))
    }

    /// When the log is to be measured in the middle of this pass. Not in the first: then most of
    /// what is written was not sent before. Something must have been sent since, or a short
    /// interval would leave no time for that.
    pub(super) fn next_measuring(&self, pass: &Pass) -> Option<Duration> {
        let period = self.limits.throttling.period().filter(|_| pass.number > 1 && self.since.sent > 0)?;
        Some(self.since.at + period)
    }

    /// The log was measured: so many pages were dirtied since the last time. The answer to
    /// `Action::Measure`.
    pub fn measured(&mut self, pages: u64, now: Duration) {
        self.figures.syncs += 1;
        let since = std::mem::replace(&mut self.since, Since { at: now, sent: 0 });
        let elapsed = now.saturating_sub(since.at);
        self.figures.dirty_rate = (u128::from(pages) * 1_000_000_000 / elapsed.as_nanos().max(1)) as u64;
        let seen = Window { dirtied: pages * PAGE_SIZE as u64, sent: since.sent, elapsed };
        self.slowdown.seen(seen, &self.limits.throttling);
        match self.take() {
            State::Deciding(pass) => self.end_pass(pass, now),
            other => self.state = other,
        }
    }
}
