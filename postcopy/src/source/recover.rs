//! A source without its destination: keeps the guest's pages and waits until both sides are joined
//! again, or tries to by itself.

use std::time::Duration;

use super::connection::Connection;
use super::control::SourceCommand;
use super::driver::{Driver, SOURCE};
use super::state::Source;
use crate::error::{MigrationError, PauseNote, sentence};
use crate::logging as log;
use crate::panics::catch;
use crate::wire::Token;

/// The pause before the first attempt; each one that fails doubles the next. A link that flaps is
/// back after some of these.
const FIRST: Duration = Duration::from_millis(100);
/// But a pause is never longer.
const LONGEST: Duration = Duration::from_secs(5);

/// The attempts since the link broke. Times are counted from any fixed moment.
#[derive(Clone, Copy, Debug)]
struct Attempts {
    begun: Duration,
    pause: Duration,
    next: Duration,
}

impl Attempts {
    /// The link broke just now.
    pub fn begin(now: Duration) -> Self {
        Self { begun: now, pause: FIRST, next: now + FIRST }
    }

    /// How long until the next attempt, zero if it is due; `None` if `limit` after the break has
    /// passed: then only a user's word helps.
    pub fn next(&self, limit: Duration, now: Duration) -> Option<Duration> {
        (!limit.is_zero() && self.next <= self.begun + limit).then(|| self.next.saturating_sub(now))
    }

    /// An attempt failed.
    pub fn failed(&mut self, now: Duration) {
        self.pause = (self.pause * 2).min(LONGEST);
        self.next = now + self.pause;
    }
}

impl Driver {
    /// The link is gone after the hand-over: keeps everything and waits for a new one, by the same
    /// connector or another that a user gives. `None`: the process gives up.
    pub(super) fn await_recovery(
        &mut self,
        source: &mut Source,
        token: Token,
        mut link: Connection,
    ) -> Option<Connection> {
        link.close();
        self.outgoing.renew();
        let shared = self.shared.clone();
        let text = source.lost_because().map(|error| sentence(error)).unwrap_or_default();
        let in_doubt = source.is_in_doubt();
        let with_doubt = |text: String| if in_doubt { sentence(&PauseNote::InDoubt(text)) } else { text };
        let text = with_doubt(text);
        log::error!("the migration is paused, the guest's pages are kept: {text}");
        shared.progress.fail(text);
        let by_hand = matches!(source.lost_because(), Some(MigrationError::PausedByUser));
        let mut attempts = Attempts::begin(shared.progress.now());
        loop {
            self.take_commands_unlinked();
            self.tell(source);
            if shared.commands.is_abandoned() {
                return None;
            }
            let reconnect = if by_hand { Duration::ZERO } else { self.limits.reconnect };
            let next = attempts.next(reconnect, shared.progress.now());
            let given = self.next_connector.take();
            if given.is_some() || next == Some(Duration::ZERO) {
                if let Some(connector) = given {
                    self.connector = connector;
                }
                source.opening(true);
                self.tell(source);
                let connected = catch(SOURCE, || self.connect(&*self.connector, Some(token)));
                source.opening(false);
                match connected {
                    Ok((_, _, link)) => {
                        source.recover();
                        shared.progress.clear_error();
                        return Some(link);
                    }
                    Err(error) => {
                        let text = sentence(&error);
                        log::error!("the migration stays paused: {text}");
                        shared.progress.fail(with_doubt(text));
                        attempts.failed(shared.progress.now());
                    }
                }
                continue;
            }
            match next {
                Some(time) => shared.wake.wait_for(time),
                None => shared.wake.wait(),
            }
        }
    }
}

impl Driver {
    /// While no link is there. Nothing of it can be broken, and its end is no news; nor can a guest
    /// that was handed over switch.
    fn take_commands_unlinked(&mut self) {
        while let Some(command) = self.shared.commands.next() {
            match command {
                SourceCommand::SetLimits(limits) => self.limits = limits,
                SourceCommand::Recover(connector) => self.next_connector = Some(connector),
                SourceCommand::StartPostcopy | SourceCommand::GoOn => {}
                SourceCommand::BreakLink | SourceCommand::DemandLost(_) => {}
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_end_with_the_limit() {
        let limit = Duration::from_secs(60);
        let mut now = ms(1000);
        let mut attempts = Attempts::begin(now);
        let mut pauses = Vec::new();
        while let Some(pause) = attempts.next(limit, now) {
            pauses.push(pause.as_millis());
            now += pause;
            assert_eq!(attempts.next(limit, now), Some(Duration::ZERO));
            attempts.failed(now);
        }
        assert_eq!(pauses[..7], [100, 200, 400, 800, 1600, 3200, 5000]);
        assert!(pauses[7..].iter().all(|&pause| pause == 5000));
        assert!(now <= ms(1000) + limit && now > ms(1000) + limit - LONGEST, "{now:?}");
    }

    #[test]
    fn without_a_limit_nothing_happens_by_itself_and_one_set_later_counts_from_the_break() {
        let attempts = Attempts::begin(ms(5));
        assert_eq!(attempts.next(Duration::ZERO, ms(500)), None);
        assert_eq!(attempts.next(Duration::from_secs(1), ms(500)), Some(Duration::ZERO));
    }
}
