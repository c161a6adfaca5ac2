//! What a schedule is drawn from: a pseudo-random sequence, and what is to go wrong when.

use std::time::Duration;

use whimbrel_postcopy::encoding::{Compression, PageEncoding};
use whimbrel_postcopy::source::{AutoConverge, DirtyLimit, Limits, Policy, ThrottlePolicy};
use whimbrel_postcopy::stats::Status;

use crate::link::Line;
use crate::memory::Forgets;

/// A small pseudo-random sequence.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Small numbers as often as large ones.
    pub fn start_multifd(&mut self, doublings: u64) -> u64 {
        let limit = 1 << self.below(doublings + 1);
        self.below(limit)
    }
}

/// What the user or the world does to the migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Cut,
    Cancel,
    StartPostcopy,
    NewLimits,
    SourceThreadDies(Thread),
    DestinationThreadDies(Thread),
}

/// A thread of either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// The one that has the control channel.
    Driver,
    /// One of those that have the multifd channels.
    Multifd,
    /// The one that answers page requests, or the fault loop.
    Demand,
}

/// An event `after` steps from the moment that the source's status is this for the first time.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    pub event: Event,
    pub status: Status,
    pub after: u64,
}

/// What the destination or the guest will not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Nothing,
    Check,
    Load,
    Run,
    Pause,
    Save,
    Postcopy,
}

/// One schedule's circumstances.
#[derive(Debug)]
pub struct Plan {
    pub blocks: Vec<u64>,
    pub running: bool,
    pub line: Line,
    /// The demand channel's way through the network.
    pub demand_line: Line,
    /// The multifd channels', if there are any.
    pub multifd_lines: Vec<Line>,
    /// From so many pages on they are used.
    pub many: u64,
    pub multifd_background: bool,
    pub limits: Limits,
    /// How pages go, for the whole of the migration.
    pub contents: PageEncoding,
    pub forgets: Forgets,
    pub refusal: Refusal,
    pub events: Vec<Planned>,
    /// From this step on nothing is disturbed any more and the guest on the source stops writing.
    pub calm: u64,
    pub writes_percent: u64,
}

impl Plan {
    pub fn draw(random: &mut Random) -> Self {
        let large = random.percent(1);
        let blocks = match (large, random.below(3)) {
            (true, _) => vec![9000 + random.below(200), 70],
            (_, 0) => vec![1 + random.below(20)],
            (_, 1) => vec![64, 1 + random.below(64)],
            _ => vec![1 + random.below(100), 1 + random.below(80), 1],
        };
        let (line, other) = (line(random), line(random));
        let demand_line = if random.percent(30) { other } else { line };
        let multifd = random.pick(&[0, 0, 1, 2, 3]);
        let multifd_lines = (0..multifd).map(|_| self::line(random)).collect();
        let many = random.pick(&[0, 1, 1, 30]);
        let contents = random.pick(&[
            PageEncoding::Whole,
            PageEncoding::Whole,
            PageEncoding::Compressed(Compression::Zlib(1)),
            PageEncoding::Compressed(Compression::Zstd(1)),
            PageEncoding::Xbzrle { cache: 0 },
            PageEncoding::Xbzrle { cache: 0 },
        ]);
        let multifd_background = random.percent(70);
        let refusals = [
            Refusal::Check,
            Refusal::Load,
            Refusal::Load,
            Refusal::Run,
            Refusal::Pause,
            Refusal::Save,
            Refusal::Postcopy,
        ];
        let refusal = if random.percent(20) { random.pick(&refusals) } else { Refusal::Nothing };
        Self {
            blocks,
            running: !random.percent(10),
            line,
            demand_line,
            multifd_lines,
            many,
            multifd_background,
            limits: limits(random),
            contents,
            forgets: random.pick(&[Forgets::WhenRead, Forgets::WhenCleared]),
            refusal,
            events: events(random),
            calm: 200 + random.start_multifd(11),
            writes_percent: random.pick(&[5, 50, 95]),
        }
    }
}

fn line(random: &mut Random) -> Line {
    Line {
        latency: Duration::from_micros(random.pick(&[1, 20, 300, 5000])),
        bytes_per_second: random.pick(&[2_000_000, 50_000_000, 5_000_000_000]),
    }
}

fn policy(random: &mut Random) -> Policy {
    let time = Duration::from_micros(1 << random.below(20));
    let passes = Policy::AfterPasses;
    random.pick(&[
        Policy::Manual,
        Policy::Manual,
        passes(0),
        passes(0),
        passes(1),
        passes(2),
        Policy::Stalled,
        Policy::After(time),
    ])
}

fn slowing(random: &mut Random) -> ThrottlePolicy {
    let converge = AutoConverge { threshold: 10, initial: 20, increment: 30, tailslow: random.percent(50), most: 99 };
    let limit = DirtyLimit { threshold: 10, rate: 100_000, period: Duration::from_millis(random.pick(&[1, 50, 1000])) };
    random.pick(&[
        ThrottlePolicy::Off,
        ThrottlePolicy::Off,
        ThrottlePolicy::AutoConverge(converge),
        ThrottlePolicy::DirtyLimit(limit),
    ])
}

pub fn limits(random: &mut Random) -> Limits {
    Limits {
        bandwidth: random.pick(&[0, 0, 1_000_000, 30_000_000]),
        postcopy_bandwidth: random.pick(&[0, 0, 1_000_000, 30_000_000]),
        downtime: Duration::from_millis(random.pick(&[1, 20, 300])),
        switchover_bandwidth: random.pick(&[0, 0, 0, 10_000_000]),
        policy: policy(random),
        throttling: slowing(random),
        hold: random.percent(25),
        // The user joins both sides again.
        reconnect: Duration::ZERO,
        ..Limits::default()
    }
}

fn events(random: &mut Random) -> Vec<Planned> {
    use Status::{Active, Device, PostcopyActive, PostcopyDevice, PostcopyRecover, PreSwitchover, Setup};
    let mut events = Vec::new();
    let mut plan = |event, statuses: &[Status], random: &mut Random| {
        events.push(Planned { event, status: random.pick(statuses), after: random.start_multifd(9) });
    };
    for _ in 0..random.pick(&[0, 0, 0, 1, 2, 3]) {
        let late = [
            Setup,
            Active,
            PreSwitchover,
            Device,
            PostcopyDevice,
            PostcopyActive,
            PostcopyActive,
            PostcopyActive,
            PostcopyRecover,
        ];
        plan(Event::Cut, &late, random);
    }
    if random.percent(15) {
        let thread = random.pick(&[Thread::Driver, Thread::Driver, Thread::Multifd, Thread::Demand]);
        let death = random.pick(&[Event::SourceThreadDies(thread), Event::DestinationThreadDies(thread)]);
        plan(
            death,
            &[Setup, Active, PreSwitchover, Device, PostcopyDevice, PostcopyActive, PostcopyActive, PostcopyRecover],
            random,
        );
    }
    for (event, share) in [(Event::Cancel, 12), (Event::StartPostcopy, 40), (Event::NewLimits, 30)] {
        if random.percent(share) {
            plan(event, &[Setup, Active, Active, PreSwitchover, Device, PostcopyDevice, PostcopyActive], random);
        }
    }
    events
}
