//! What a schedule is drawn from.

use std::time::Duration;

use whimbrel_postcopy::encoding::{Compression, Encoding, PageEncoding, ZeroPages};
use whimbrel_postcopy::host::{Cut, Line, Random};
use whimbrel_postcopy::source::{AutoConverge, DirtyLimit, Limits, Multifd, Policy, ThrottlePolicy};
use whimbrel_postcopy::stats::Status;

use crate::memory::Forgets;

/// What the user or the world does to the migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Cut(Cut),
    Cancel,
    StartPostcopy,
    NewLimits,
    BreakAtSource,
    BreakAtDestination,
    /// The host has no memory for the guest's pages for a while.
    OutOfMemory(Duration),
    /// A thread of either side panics in the guest's hands.
    Panic(Panic),
    /// The user joins both sides again.
    Recover,
    GoOn,
    /// The destination's process ends.
    AbandonDestination,
}

/// A call of the engine's that panics, once: of this method, on a thread whose name begins so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panic {
    pub source: bool,
    pub thread: &'static str,
    pub method: &'static str,
}

/// An event so long after the source's status is this for the first time.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    pub event: Event,
    pub status: Status,
    pub after: Duration,
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
    Adopt,
}

/// One schedule's circumstances.
#[derive(Clone, Debug)]
pub struct Plan {
    pub blocks: Vec<u64>,
    pub running: bool,
    pub lines: Vec<Line>,
    /// Both sides are on one host.
    pub local: bool,
    /// RAM is shared memory.
    pub shared: bool,
    pub scale: u64,
    pub multifd: Multifd,
    pub limits: Limits,
    pub forgets: Forgets,
    pub refusal: Refusal,
    /// Connects that are refused when the migration begins.
    pub refused_connects: u64,
    pub events: Vec<Planned>,
    /// From then on nothing is disturbed any more and the guest on the source stops writing.
    pub calm: Duration,
    /// How long a vCPU rests between two touches, about.
    pub pace: Duration,
    /// So many touches of a vCPU write, in percent.
    pub writes: u64,
    /// So many touches a vCPU makes, at most.
    pub touches: u64,
    /// The destination listens again by itself.
    pub reconnects: bool,
}

impl Plan {
    pub fn draw(random: &mut Random) -> Self {
        let large = random.percent(3);
        let shared = random.percent(12);
        let ignore_shared = shared && random.percent(70);
        let blocks = match (large, random.below(3)) {
            (true, 0) => vec![3000 + random.below(200), 70],
            (true, _) => vec![520 + random.below(600), 7],
            (_, 0) => vec![1 + random.below(20)],
            (_, 1) => vec![64, 1 + random.below(64)],
            _ => vec![1 + random.below(100), 1 + random.below(40), 1],
        };
        let (first, second) = (line(random), line(random));
        let lines = if random.percent(30) { vec![first, second] } else { vec![first] };
        let multifd = Multifd { channels: random.pick(&[0, 0, 1, 2, 3]), postcopy: random.percent(70) };
        let refusals = [
            Refusal::Check,
            Refusal::Load,
            Refusal::Load,
            Refusal::Run,
            Refusal::Pause,
            Refusal::Save,
            Refusal::Postcopy,
            Refusal::Adopt,
        ];
        let refusal = if random.percent(20) { random.pick(&refusals) } else { Refusal::Nothing };
        let reconnect = random.pick(&[Duration::ZERO, Duration::ZERO, Duration::from_secs(2)]);
        let calm = Duration::from_micros(500 + random.spread(20));
        Self {
            blocks,
            running: !random.percent(10),
            lines,
            local: ignore_shared || random.percent(30),
            shared,
            scale: random.pick(&[1, 64, 512, 1024, 4096]),
            multifd,
            limits: Limits { ignore_shared, reconnect, ..limits(random) },
            forgets: random.pick(&[Forgets::WhenRead, Forgets::WhenCleared]),
            refusal,
            refused_connects: if random.percent(3) { 1 } else { 0 },
            events: events(random),
            calm,
            pace: Duration::from_micros(random.pick(&[5, 50, 500])),
            writes: random.pick(&[5, 50, 95]),
            touches: random.pick(&[20, 60, 150]),
            reconnects: random.percent(50),
        }
    }

    /// A plan in which nothing goes wrong.
    pub fn calm(policy: Policy) -> Self {
        let line = Line { latency: Duration::from_micros(50), bytes_per_second: 100_000_000 };
        Self {
            blocks: vec![40, 9],
            running: true,
            lines: vec![line],
            local: false,
            shared: false,
            scale: 1,
            multifd: Multifd::default(),
            limits: Limits { policy, ..Limits::default() },
            forgets: Forgets::WhenCleared,
            refusal: Refusal::Nothing,
            refused_connects: 0,
            events: Vec::new(),
            calm: Duration::from_millis(3),
            pace: Duration::from_micros(50),
            writes: 50,
            touches: 100,
            reconnects: false,
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

fn throttling(random: &mut Random) -> ThrottlePolicy {
    let converge = AutoConverge { threshold: 10, initial: 20, increment: 30, tailslow: random.percent(50), most: 99 };
    let limit = DirtyLimit { threshold: 10, rate: 100_000, period: Duration::from_millis(random.pick(&[1, 50, 1000])) };
    random.pick(&[
        ThrottlePolicy::Off,
        ThrottlePolicy::Off,
        ThrottlePolicy::AutoConverge(converge),
        ThrottlePolicy::DirtyLimit(limit),
    ])
}

fn encoding(random: &mut Random) -> Encoding {
    let contents = [
        PageEncoding::Whole,
        PageEncoding::Whole,
        PageEncoding::Whole,
        PageEncoding::Compressed(Compression::Zlib(1)),
        PageEncoding::Compressed(Compression::Zstd(1)),
        PageEncoding::Xbzrle { cache: 64 << 10 },
        PageEncoding::Xbzrle { cache: 1 << 20 },
    ];
    let zero_pages = [ZeroPages::Unseen, ZeroPages::ByMigration, ZeroPages::BySender];
    Encoding { contents: random.pick(&contents), zero_pages: random.pick(&zero_pages) }
}

pub fn limits(random: &mut Random) -> Limits {
    Limits {
        bandwidth: random.pick(&[0, 0, 1_000_000, 30_000_000]),
        postcopy_bandwidth: random.pick(&[0, 0, 1_000_000, 30_000_000]),
        downtime: Duration::from_millis(random.pick(&[1, 20, 300])),
        switchover_bandwidth: random.pick(&[0, 0, 0, 10_000_000]),
        policy: policy(random),
        throttling: throttling(random),
        hold: random.percent(25),
        release: random.percent(30),
        encoding: encoding(random),
        ..Limits::default()
    }
}

fn events(random: &mut Random) -> Vec<Planned> {
    use Status::{Active, Device, PostcopyActive, PostcopyDevice, PostcopyRecover, PreSwitchover, Setup};
    let mut events = Vec::new();
    let mut plan = |event, statuses: &[Status], random: &mut Random| {
        let after = Duration::from_micros(random.spread(14));
        events.push(Planned { event, status: random.pick(statuses), after });
    };
    let late = [
        Setup,
        Active,
        PreSwitchover,
        Device,
        PostcopyDevice,
        PostcopyActive,
        PostcopyActive,
        PostcopyActive,
        PostcopyActive,
        PostcopyRecover,
    ];
    for _ in 0..random.pick(&[0, 0, 1, 1, 2, 3]) {
        let time = Duration::from_micros(random.spread(20));
        let event = random.pick(&[
            Event::Cut(Cut::All),
            Event::Cut(Cut::All),
            Event::Cut(Cut::One(0)),
            Event::Cut(Cut::One(1)),
            Event::Cut(Cut::One(2)),
            Event::Cut(Cut::Silent(time)),
            Event::BreakAtSource,
            Event::BreakAtDestination,
        ]);
        plan(event, &late, random);
    }
    if random.percent(15) {
        let panics = [
            (true, "migration", "sync_dirty"),
            (true, "migration", "pause"),
            (true, "migration", "save"),
            (true, "migration", "ram"),
            (true, "mig-demand", "ram"),
            (true, "mig-demand", "first_pages"),
            (true, "mig-fd", "ram"),
            (false, "incoming", "ram"),
            (false, "incoming", "load"),
            (false, "incoming", "run"),
            (false, "incoming", "adopt_ram"),
            (false, "faults", "vcpu_of_thread"),
            (false, "in-fd", "ram"),
        ];
        let (source, thread, method) = random.pick(&panics);
        plan(Event::Panic(Panic { source, thread, method }), &late, random);
    }
    if random.percent(8) {
        let time = Duration::from_micros(random.spread(22));
        plan(Event::OutOfMemory(time), &[PostcopyDevice, PostcopyActive, PostcopyActive], random);
    }
    if random.percent(2) {
        plan(Event::AbandonDestination, &[Setup, Active, PreSwitchover, Device, PostcopyDevice], random);
    }
    for (event, share) in [(Event::Cancel, 12), (Event::StartPostcopy, 40), (Event::NewLimits, 30)] {
        if random.percent(share) {
            plan(event, &[Setup, Active, Active, PreSwitchover, Device, PostcopyDevice, PostcopyActive], random);
        }
    }
    events
}
