//! The table of cases: every kind of fault, on every channel, in both directions, at every message,
//! in every mode.

use std::fmt;
use std::time::Duration;

use whimbrel_postcopy::wire::tag;

use super::journey::Stand;
use crate::support::faulty_link::{At, Channel, Direction, Fault, GREETING, Place, Plan};

/// How the guest moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Precopy,
    /// Postcopy at once.
    AtOnce,
    /// After one pass.
    Hybrid,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Precopy, Self::AtOnce, Self::Hybrid];

    /// The value of `x-postcopy-after`.
    pub fn passes(self) -> i32 {
        match self {
            Self::Precopy => -1,
            Self::AtOnce => 0,
            Self::Hybrid => 1,
        }
    }
}

/// When the fault comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At its place in the stream.
    There(Plan),
    /// The same, but of the link that joins both sides again.
    Recovering(Plan),
    /// At its place from when the source's status is this one.
    From(&'static str, Plan),
    /// When the source's status is this one.
    Status(&'static str, Channel, Fault),
}

/// What the guest's place may be right after the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The hand-over has not been sent: the guest stays on the source, or the fault did no harm.
    Before,
    /// The same, and the fault is one that nobody can get over.
    Closed,
    /// In between: each half may end up without knowing of the other.
    Between,
    /// It was handed over: it never runs on the source again.
    After,
    /// The same, and the fault is one that nobody can get over without joining both halves again.
    Broken,
    /// The fault only costs time.
    Harmless,
}

impl Door {
    /// Whether the case may come to stand so.
    pub fn allows(self, stand: Stand) -> bool {
        match self {
            Self::Before => matches!(stand, Stand::Source | Stand::Destination),
            Self::Closed => stand == Stand::Source,
            Self::Between => true,
            Self::After => matches!(stand, Stand::Halves | Stand::LastWordLost | Stand::Destination),
            Self::Broken => matches!(stand, Stand::Halves | Stand::LastWordLost),
            Self::Harmless => stand == Stand::Destination,
        }
    }
}

/// One way to break a migration.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Counted from 0; the seed of whatever is chosen for it.
    pub number: usize,
    pub mode: Mode,
    pub multifd: bool,
    /// Whether its channels are encrypted.
    pub tls: bool,
    pub when: When,
    pub door: Door,
}

impl Case {
    /// Most guests have one vCPU.
    pub fn cpus(&self) -> u8 {
        if self.number % 7 == 3 { 2 } else { 1 }
    }

    pub fn fault(&self) -> Fault {
        match self.when {
            When::There(plan) | When::Recovering(plan) | When::From(_, plan) => plan.fault,
            When::Status(_, _, fault) => fault,
        }
    }

    fn channel(&self) -> Channel {
        match self.when {
            When::There(plan) | When::Recovering(plan) | When::From(_, plan) => plan.channel,
            When::Status(_, channel, _) => channel,
        }
    }

    /// What one of each is in the short form.
    pub fn sort(&self) -> String {
        let fault = format!("{:?}", self.fault());
        let fault = fault.split('(').next().unwrap_or_default();
        let channel = format!("{:?}", self.channel());
        let channel = channel.split('(').next().unwrap_or_default();
        let when = match self.when {
            When::There(_) => "there",
            When::Recovering(_) => "rejoining",
            When::Status(..) => "status",
            When::From(..) => "from",
        };
        format!("{when} {fault} {channel}")
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spread = if self.multifd { "+multifd" } else { "" };
        let tls = if self.tls { "+tls" } else { "" };
        write!(f, "{:03} {:?}{spread}{tls} x{}: ", self.number, self.mode, self.cpus())?;
        let place = |plan: Plan| {
            let place = match plan.place {
                Place::Message { tag: GREETING, at, .. } => format!("{at:?} of the greeting"),
                Place::Message { tag, nth, at } => format!("{at:?} of {} {nth}", tag::name(tag)),
                Place::Offset(bytes) => format!("after {bytes} bytes"),
                Place::Record { nth, at } => format!("{at:?} of record {nth}"),
                Place::Next(at) => format!("{at:?} of a record"),
            };
            format!("{:?} of {:?} {:?}, {place}", plan.fault, plan.channel, plan.direction)
        };
        match self.when {
            When::There(plan) => f.write_str(&place(plan)),
            When::Recovering(plan) => write!(f, "{} (rejoining)", place(plan)),
            When::From(status, plan) => write!(f, "{} while {status}", place(plan)),
            When::Status(status, channel, fault) => write!(f, "{fault:?} of {channel:?} while {status}"),
        }
    }
}

/// A message that a migration has for certain.
struct Spot {
    channel: Channel,
    direction: Direction,
    tag: u16,
    nth: u32,
    door: Door,
}

fn spots(mode: Mode, multifd: bool) -> Vec<Spot> {
    use Direction::{Back, Forth};
    let mut spots = Vec::new();
    let mut add = |channel, direction, door, tags: &[u16]| {
        spots.extend(tags.iter().map(|&tag| Spot { channel, direction, tag, nth: 1, door }));
    };
    let (control, demand) = (Channel::Control, Channel::Demand);
    add(control, Forth, Door::Closed, &[GREETING, tag::CONFIGURATION, tag::RAM, tag::DESCRIPTION]);
    add(control, Back, Door::Closed, &[GREETING, tag::ACCEPTED]);
    add(demand, Forth, Door::Closed, &[GREETING]);
    add(demand, Back, Door::Closed, &[GREETING]);
    if multifd {
        for number in 0..2 {
            add(Channel::Multifd(number), Forth, Door::Closed, &[GREETING]);
            add(Channel::Multifd(number), Back, Door::Closed, &[GREETING]);
        }
    }
    if mode != Mode::AtOnce {
        add(control, Forth, Door::Closed, &[tag::PASS_BEGIN, tag::PASS_END, tag::BARRIER]);
        add(control, Back, Door::Closed, &[tag::BARRIER_ACK]);
        if multifd {
            add(control, Forth, Door::Closed, &[tag::MULTIFD_START, tag::MULTIFD_FLUSH]);
            add(Channel::Multifd(0), Forth, Door::Closed, &[tag::PAGES, tag::MULTIFD_FLUSH]);
            add(Channel::Multifd(1), Forth, Door::Closed, &[tag::PAGES, tag::MULTIFD_FLUSH]);
        } else {
            add(control, Forth, Door::Closed, &[tag::PAGES, tag::ZEROS]);
        }
    }
    if mode == Mode::Hybrid {
        add(control, Forth, Door::Closed, &[tag::DISCARD]);
    }
    if mode != Mode::Precopy {
        add(control, Forth, Door::Closed, &[tag::LISTEN]);
        add(control, Back, Door::Closed, &[tag::LISTENING]);
    }
    add(control, Forth, Door::Closed, &[tag::STATE]);
    add(control, Back, Door::Between, &[tag::READY]);
    add(control, Forth, Door::Between, &[tag::HAND_OVER]);
    let after = if mode == Mode::Precopy { Door::Between } else { Door::After };
    add(control, Back, after, &[tag::RUNNING, tag::ALL_RECEIVED]);
    add(control, Forth, after, &[tag::COMPLETE]);
    if mode != Mode::Precopy {
        // What the vCPUs touch first goes unasked, before the hand-over.
        add(demand, Forth, Door::Between, &[tag::PAGES]);
        add(demand, Back, Door::Between, &[tag::REQUEST]);
    }
    if mode == Mode::AtOnce {
        add(control, Forth, Door::After, &[tag::PAGES, tag::ZEROS]);
        spots.push(Spot { channel: control, direction: Forth, tag: tag::PAGES, nth: 3, door: Door::After });
        spots.push(Spot { channel: demand, direction: Back, tag: tag::REQUEST, nth: 3, door: Door::Between });
    }
    spots
}

/// A message that is missing, or comes twice, without anybody being able to know: TCP does neither,
/// and nothing else would notice.
fn is_unnoticed(spot: &Spot, fault: Fault) -> bool {
    // A second end of a stretch is the end of the next one, before its pages.
    if fault == Fault::Duplicate && matches!(spot.channel, Channel::Multifd(_)) && spot.tag == tag::MULTIFD_FLUSH {
        return true;
    }
    let precopied = spot.channel != Channel::Demand && spot.door == Door::Closed;
    let is_data = matches!(spot.tag, tag::PAGES | tag::ZEROS | tag::DISCARD | tag::LISTEN | tag::STATE);
    fault == Fault::Drop && precopied && is_data
}

/// Whether the first four bytes of the body are a number that the other side judges.
fn is_judged(tag: u16) -> bool {
    use tag::{BARRIER, BARRIER_ACK, CONFIGURATION, DISCARD, HAND_OVER, PAGES, RAM, RECEIVED, REQUEST, STATE, ZEROS};
    [GREETING, CONFIGURATION, RAM, PAGES, ZEROS, DISCARD, STATE, HAND_OVER, BARRIER, BARRIER_ACK, RECEIVED, REQUEST]
        .contains(&tag)
}

fn is_empty(tag: u16) -> bool {
    use tag::{
        ACCEPTED, ALL_RECEIVED, COMPLETE, LISTEN, LISTENING, MULTIFD_FLUSH, MULTIFD_START, READY, RECEIVED_END, RUNNING,
    };
    [LISTEN, COMPLETE, MULTIFD_START, MULTIFD_FLUSH, ACCEPTED, LISTENING, READY, RUNNING, ALL_RECEIVED, RECEIVED_END]
        .contains(&tag)
}

/// What can be done to a message. The place within it goes round where any would do.
fn faults(spot: &Spot, round: &mut usize) -> Vec<(Fault, At)> {
    let mut any = || {
        *round += 1;
        [At::Begin, At::Inside, At::End][*round % 3]
    };
    let mut faults = vec![(Fault::Cut, At::Begin), (Fault::Cut, At::Inside), (Fault::Cut, At::End)];
    faults.extend([Fault::Reset, Fault::HalfClose, Fault::Stall].map(|fault| (fault, any())));
    let mut whole = vec![Fault::CorruptNumber, Fault::DropBytes];
    if spot.tag == GREETING {
        whole.push(Fault::CorruptFields);
    } else {
        *round += 1;
        whole.push([Fault::CorruptFlags, Fault::CorruptLength][*round % 2]);
        whole.extend([Fault::DuplicateBytes, Fault::Drop, Fault::Duplicate]);
        if is_judged(spot.tag) && !is_empty(spot.tag) {
            whole.push(Fault::CorruptFields);
        }
    }
    if round.is_multiple_of(2) {
        whole.push(Fault::Delay(Duration::from_millis(3)));
    }
    faults.extend(whole.into_iter().filter(|fault| !is_unnoticed(spot, *fault)).map(|fault| (fault, At::Begin)));
    faults
}

/// How strict a case can be.
fn door(mode: Mode, spot: &Spot, fault: Fault, at: At) -> Door {
    let ends =
        matches!(fault, Fault::Cut | Fault::Reset | Fault::CorruptNumber | Fault::CorruptFlags | Fault::CorruptLength);
    match spot.door {
        _ if matches!(fault, Fault::Delay(_)) => Door::Harmless,
        // It can be loaded, and that be said, before the end of the link is seen.
        Door::Closed if (spot.tag, at) == (tag::STATE, At::End) => Door::Between,
        // Until the guest runs there nobody may miss these channels, and a person who does is past
        // the door.
        Door::Closed if mode != Mode::Precopy && spot.channel != Channel::Control => Door::Between,
        Door::Closed if mode != Mode::Precopy && !ends => Door::Between,
        // Nobody needs these channels' backward direction, nor, in a precopy, the demand channel
        // once it is open.
        Door::Closed if !ends || spot.channel != Channel::Control => Door::Before,
        // The destination reads no further than the end of the last pass before it looks at what
        // comes.
        Door::Closed if mode == Mode::Precopy && spot.direction == Direction::Back => Door::Before,
        other => other,
    }
}

/// All cases, in an order that never changes.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut round = 0;
    let mut add = |mode, multifd, when, door| {
        let number = cases.len();
        cases.push(Case { number, mode, multifd, tls: false, when, door });
    };
    for (mode, multifd) in Mode::ALL.into_iter().flat_map(|mode| [(mode, false), (mode, true)]) {
        for spot in spots(mode, multifd) {
            // With multifd only what is different then, and a fault of each kind that ends the
            // link.
            let own = matches!(spot.channel, Channel::Multifd(_))
                || matches!(spot.tag, tag::MULTIFD_START | tag::MULTIFD_FLUSH);
            for (fault, at) in faults(&spot, &mut round) {
                if multifd && !own && (fault, at) != (Fault::Cut, At::Inside) {
                    continue;
                }
                let place = Place::Message { tag: spot.tag, nth: spot.nth, at };
                let plan = Plan { channel: spot.channel, direction: spot.direction, place, fault };
                add(mode, multifd, When::There(plan), door(mode, &spot, fault, at));
            }
        }
        // In the middle of whatever it is.
        for (offset, fault) in
            [(300_000, Fault::Cut), (1_000_001, Fault::Reset), (4_000_000, Fault::Stall), (20, Fault::Cut)]
        {
            let channel = if multifd && mode != Mode::AtOnce { Channel::Multifd(0) } else { Channel::Control };
            let plan = Plan { channel, direction: Direction::Forth, place: Place::Offset(offset), fault };
            let early = mode != Mode::AtOnce || offset == 20;
            add(mode, multifd, When::There(plan), if early { Door::Before } else { Door::After });
        }
        let channels = [Channel::Control, Channel::Demand].into_iter().chain(multifd.then_some(Channel::Multifd(1)));
        for channel in channels {
            for fault in [Fault::Cut, Fault::Reset, Fault::Stall] {
                if mode != Mode::AtOnce {
                    let door = if mode == Mode::Hybrid { Door::Between } else { Door::Before };
                    add(mode, multifd, When::Status("active", channel, fault), door);
                }
                if mode != Mode::Precopy {
                    add(mode, multifd, When::Status("postcopy-active", channel, fault), Door::After);
                }
            }
        }
        if mode == Mode::Precopy {
            continue;
        }
        for spot in rejoining(multifd) {
            for (fault, at) in faults(&spot, &mut round) {
                if multifd && fault != Fault::Cut {
                    continue;
                }
                let place = Place::Message { tag: spot.tag, nth: spot.nth, at };
                let plan = Plan { channel: spot.channel, direction: spot.direction, place, fault };
                let door = if matches!(fault, Fault::Delay(_)) { Door::Harmless } else { Door::After };
                add(mode, multifd, When::Recovering(plan), door);
            }
        }
    }
    cases
}

/// What the second link of a postcopy has.
fn rejoining(multifd: bool) -> Vec<Spot> {
    use Direction::{Back, Forth};
    let spot = |channel, direction, tag| Spot { channel, direction, tag, nth: 1, door: Door::After };
    let (control, demand) = (Channel::Control, Channel::Demand);
    let mut spots = vec![
        spot(control, Forth, GREETING),
        spot(control, Back, GREETING),
        spot(demand, Forth, GREETING),
        spot(demand, Back, GREETING),
        spot(control, Back, tag::RECEIVED),
        spot(control, Back, tag::RECEIVED_END),
        spot(control, Forth, tag::PAGES),
        spot(control, Forth, tag::COMPLETE),
        spot(control, Back, tag::ALL_RECEIVED),
    ];
    if multifd {
        spots.push(spot(Channel::Multifd(1), Forth, GREETING));
        spots.push(spot(Channel::Multifd(1), Back, GREETING));
    }
    spots
}

/// Of every kind of fault one on every channel, at first and while both sides are joined again; the
/// modes take turns.
pub fn short() -> Vec<Case> {
    let mut cases = all();
    // Not always the first message: which of its sort a case is chosen by is its number, the same
    // every time.
    cases.sort_by_key(|case| case.number.wrapping_mul(0x9E37_79B9) % 4096);
    let mut seen = std::collections::HashSet::new();
    cases.retain(|case| seen.insert(case.sort()));
    cases.sort_by_key(|case| case.number);
    cases
}
