//! After each precopy pass: another one, or the switch? Measurements in, a verdict out.

use std::time::Duration;

use super::auto_converge::ThrottlePolicy;
use crate::encoding::Encoding;

/// When a migration turns to postcopy by itself. It does at once, whatever it says, when it is told
/// to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Never.
    #[default]
    Manual,
    /// After so many passes, however little is left; 0: no page goes before.
    AfterPasses(u32),
    /// Where another pass would not bring it nearer to its end: what remains is at a minimum.
    Stalled,
    /// So long after its begin, also in the middle of a pass.
    After(Duration),
}

impl Policy {
    /// Whether its time has come, `now` being counted from the begin of the migration.
    pub(super) fn is_due(self, now: Duration) -> bool {
        matches!(self, Self::After(time) if now >= time)
    }
}

impl From<Option<u32>> for Policy {
    /// After so many passes, or never.
    fn from(passes: Option<u32>) -> Self {
        passes.map_or(Self::Manual, Self::AfterPasses)
    }
}

/// What the user allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest time the vCPUs may stand still at the end of a precopy.
    pub downtime: Duration,
    /// Bytes per second in precopy; 0: no limit.
    pub bandwidth: u64,
    /// Bytes per second for background pages in postcopy; 0: no limit.
    pub postcopy_bandwidth: u64,
    /// Bytes per second to count on during the switchover; 0: what was measured.
    pub switchover_bandwidth: u64,
    /// When to switch to postcopy without being told.
    pub policy: Policy,
    /// What is done about a guest that writes faster than its pages can be sent.
    pub throttling: ThrottlePolicy,
    /// The guest that was paused for the switchover waits there until it is told to go on.
    pub hold: bool,
    /// RAM is not sent: the destination, on the same host, maps it. Does not change on the way.
    pub ignore_shared: bool,
    /// In postcopy the host gets each page back once the destination has it. Does not change on the
    /// way.
    pub release: bool,
    /// For so long a postcopy whose link broke tries by itself to reach the destination again;
    /// zero: not at all.
    pub reconnect: Duration,
    /// How pages go. That is settled when the migration begins, but for the room that sent pages
    /// are kept in.
    pub encoding: Encoding,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            downtime: Duration::from_millis(300),
            bandwidth: 0,
            postcopy_bandwidth: 0,
            switchover_bandwidth: 0,
            policy: Policy::Manual,
            throttling: ThrottlePolicy::Off,
            hold: false,
            ignore_shared: false,
            release: false,
            reconnect: Duration::ZERO,
            encoding: Encoding::default(),
        }
    }
}

/// One pass that has ended.
#[derive(Clone, Copy, Debug)]
pub struct PassFigures {
    /// Its number, from 1.
    pub number: u32,
    /// Bytes of RAM that it was to send: what had been dirty at its begin.
    pub begin: u64,
    /// Bytes that it put on the wire.
    pub sent: u64,
    /// Bytes of pages that these stood for, zero pages apart: more than were sent, where pages go
    /// compressed or as their changes.
    pub moved: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Bytes of RAM dirtied meanwhile: what another pass would send.
    pub remaining: u64,
    /// When it ended, counted from the begin of the migration.
    pub ended: Duration,
}

impl PassFigures {
    /// Whether it gained less than a tenth of what there was to do. What there was is what the pass
    /// before it left; before the first, all of RAM.
    fn has_stalled(&self) -> bool {
        u128::from(self.remaining) * 10 > u128::from(self.begin) * 9
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Another pass.
    Continue,
    /// Pause the guest and send the rest.
    Switchover,
    /// Let the destination run and send the rest afterwards.
    Postcopy,
}

/// How long the vCPUs would stand still to send `remaining` bytes.
pub fn expected_downtime(remaining: u64, bandwidth: u64) -> Duration {
    match bandwidth {
        0 if remaining == 0 => Duration::ZERO,
        0 => Duration::MAX,
        rate => Duration::from_nanos((u128::from(remaining) * 1_000_000_000 / u128::from(rate)) as u64),
    }
}

/// Bytes per second to reckon the switchover with.
pub fn bandwidth(pass: &PassFigures, limits: &Limits) -> u64 {
    if limits.switchover_bandwidth > 0 {
        return limits.switchover_bandwidth;
    }
    // A pass that sent almost nothing measures the wake-ups, not the link.
    let nanos = pass.elapsed.as_nanos().max(1);
    (u128::from(pass.sent.max(pass.moved)) * 1_000_000_000 / nanos) as u64
}

/// The verdict.
///
/// Being within the downtime limit is permission to switch, not a reason: while passes still shrink
/// what remains by a half, another short one costs little total time and makes the blackout shorter
/// by as much. So the switch comes once it is allowed *and* either passes stopped paying or there
/// is next to nothing left.
pub fn decide(pass: &PassFigures, limits: &Limits) -> Verdict {
    let is_due = match limits.policy {
        Policy::AfterPasses(passes) => pass.number >= passes,
        policy => policy.is_due(pass.ended),
    };
    if is_due {
        return Verdict::Postcopy;
    }
    let expected = expected_downtime(pass.remaining, bandwidth(pass, limits));
    let negligible = expected <= (limits.downtime / 100).min(Duration::from_millis(1));
    let shrinking = pass.remaining * 2 <= pass.begin;
    if pass.remaining == 0 || negligible || (expected <= limits.downtime && !shrinking) {
        Verdict::Switchover
    } else if limits.policy == Policy::Stalled && pass.has_stalled() {
        Verdict::Postcopy
    } else {
        Verdict::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A link of 1 GiB/s.
    fn pass(number: u32, begin: u64, remaining: u64) -> PassFigures {
        let elapsed = Duration::from_nanos(begin * 1_000_000_000 / (1024 * MIB));
        PassFigures { number, begin, sent: begin, moved: 0, elapsed, remaining, ended: elapsed }
    }

    #[test]
    fn a_clean_guest_switches_at_once() {
        assert_eq!(decide(&pass(1, 1024 * MIB, 0), &Limits::default()), Verdict::Switchover);
    }

    #[test]
    fn passes_go_on_while_they_pay_even_within_the_limit() {
        let limits = Limits::default();
        assert_eq!(decide(&pass(1, 1024 * MIB, 200 * MIB), &limits), Verdict::Continue);
        assert_eq!(decide(&pass(2, 200 * MIB, 120 * MIB), &limits), Verdict::Switchover);
        assert_eq!(decide(&pass(2, 2 * MIB, MIB / 2), &limits), Verdict::Switchover);
    }

    #[test]
    fn over_the_limit_it_never_switches_by_itself() {
        assert_eq!(decide(&pass(50, 1024 * MIB, 1000 * MIB), &Limits::default()), Verdict::Continue);
        let patient = Limits { downtime: Duration::from_secs(2), ..Limits::default() };
        assert_eq!(decide(&pass(2, 1024 * MIB, 1000 * MIB), &patient), Verdict::Switchover);
    }

    #[test]
    fn a_given_switchover_bandwidth_is_believed() {
        let limits = Limits { switchover_bandwidth: 100 * MIB, ..Limits::default() };
        assert_eq!(decide(&pass(2, 200 * MIB, 120 * MIB), &limits), Verdict::Continue);
    }

    #[test]
    fn postcopy_comes_after_the_passes_asked_for_however_little_is_left() {
        let limits = Limits { policy: Policy::AfterPasses(2), ..Limits::default() };
        assert_eq!(decide(&pass(1, 1024 * MIB, 1000 * MIB), &limits), Verdict::Continue);
        assert_eq!(decide(&pass(2, 1024 * MIB, 1000 * MIB), &limits), Verdict::Postcopy);
        assert_eq!(decide(&pass(2, 1024 * MIB, 0), &limits), Verdict::Postcopy);
    }

    #[test]
    fn postcopy_comes_where_passes_stall_unless_the_rest_may_be_sent_at_once() {
        let limits = Limits { policy: Policy::Stalled, ..Limits::default() };
        for (begin, remaining, verdict) in [
            (1024, 900, Verdict::Continue),
            (1000, 900, Verdict::Continue),
            (1000, 901, Verdict::Postcopy),
            (900, 900, Verdict::Postcopy),
            (900, 1000, Verdict::Postcopy),
            // 300 ms allow 307 MiB.
            (300, 300, Verdict::Switchover),
            (1024, 0, Verdict::Switchover),
        ] {
            assert_eq!(decide(&pass(2, begin * MIB, remaining * MIB), &limits), verdict, "{begin} {remaining}");
        }
        assert_eq!(
            decide(&pass(1, 1024 * MIB, 1024 * MIB), &limits),
            Verdict::Postcopy,
            "there is nothing to wait for"
        );
    }

    #[test]
    fn postcopy_comes_when_its_time_has_come_however_little_is_left() {
        let limits = Limits { policy: Policy::After(Duration::from_secs(5)), ..Limits::default() };
        let ended =
            |ended, remaining| PassFigures { ended: Duration::from_millis(ended), ..pass(9, 1024 * MIB, remaining) };
        assert_eq!(decide(&ended(4999, 1024 * MIB), &limits), Verdict::Continue);
        assert_eq!(decide(&ended(4999, 0), &limits), Verdict::Switchover);
        assert_eq!(decide(&ended(5000, 1024 * MIB), &limits), Verdict::Postcopy);
        assert_eq!(decide(&ended(5000, 0), &limits), Verdict::Postcopy);
        assert_eq!(decide(&ended(5000, 1024 * MIB), &Limits::default()), Verdict::Continue);
    }

    /// What remains will go like what went: compressed, or as its changes.
    #[test]
    fn a_link_is_as_fast_as_the_pages_that_came_over_it() {
        let limits = Limits { downtime: Duration::from_millis(10), ..Limits::default() };
        let figures = pass(2, 64 * MIB, 64 * MIB);
        assert_eq!(decide(&PassFigures { sent: MIB, ..figures }, &limits), Verdict::Continue);
        let moved = PassFigures { sent: MIB, moved: 64 * MIB, elapsed: Duration::from_millis(9), ..figures };
        assert_eq!(decide(&moved, &limits), Verdict::Switchover);
    }

    #[test]
    fn no_measured_bandwidth_is_no_permission() {
        assert_eq!(expected_downtime(1, 0), Duration::MAX);
        assert_eq!(expected_downtime(0, 0), Duration::ZERO);
    }
}
