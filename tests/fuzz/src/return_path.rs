//! What the source reads: replies in every state, with a driver that does what it is told, and page
//! requests.

use std::sync::Arc;
use std::time::Duration;

use whimbrel_postcopy::bitmap::RamBitmap;
use whimbrel_postcopy::error::{MigrationError, sentence};
use whimbrel_postcopy::guest::{GuestError, PausableGuest, PauseLock, PausedGuest, Pausing, Section};
use whimbrel_postcopy::ram::{BlockId, PageIndex, PageRun};
use whimbrel_postcopy::source::{Action, Hint, Limits, MultifdThresholds, Outcome, Source, answer};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::wire::{Features, Forward, Header, Reply, Request, decode_reply};

use crate::input::{Input, counted};
use crate::{Seed, decoder};

/// Pages of the two blocks.
const PAGES: [u64; 2] = [700, 3];
/// The driver does so much before it listens again.
const TURN: usize = 64;

/// What the next byte asks for.
mod step {
    /// The driver goes on until it waits.
    pub const GO_ON: u8 = 0;
    /// The destination says something on the control channel.
    pub const REPLY: u8 = 1;
    /// On the demand channel.
    pub const REQUEST: u8 = 2;
    /// The user wants postcopy.
    pub const POSTCOPY: u8 = 3;
    pub const CANCEL: u8 = 4;
    /// The link breaks.
    pub const FAIL: u8 = 5;
    pub const REJOIN: u8 = 6;
    /// The guest writes pages.
    pub const WRITE: u8 = 7;
    /// The user lets a switchover that is held go on.
    pub const CONTINUE: u8 = 8;
    /// How many there are.
    pub const COUNT: u8 = 9;
}

/// Where the guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Source,
    Paused,
    Destination,
}

/// The guest as its lock sees it: it ran, and where it is says `Owner`.
struct Stands;

impl PausableGuest for Stands {
    fn pause(&self, pausing: Pausing) -> Result<PausedGuest, GuestError> {
        Ok(pausing.paused(true))
    }
    fn resume(&self, _: PausedGuest) -> Result<(), GuestError> {
        Ok(())
    }
}

struct World {
    source: Source,
    pending: Arc<RamBitmap>,
    answered: RamBitmap,
    hint: Arc<Hint>,
    now: Duration,
    owner: Owner,
    lock: PauseLock,
    /// The destination said that it did not start the guest, in the state where that counts.
    not_started: bool,
    all_received: bool,
    written: Vec<PageRun>,
    over: bool,
}

pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let Some(setup) = input.u8() else { return };
    let (pending, hint) = (Arc::new(RamBitmap::with_pages(PAGES)), Arc::new(Hint::default()));
    let limits = Limits {
        policy: [None, Some(0), Some(1), Some(2)][usize::from(setup & 3)].into(),
        hold: setup & 32 != 0,
        bandwidth: if setup & 4 == 0 { 0 } else { 1 << 20 },
        ..Limits::default()
    };
    let features = if setup & 8 == 0 { Features::POSTCOPY } else { Features::default() };
    let many = if setup & 16 == 0 {
        MultifdThresholds::default()
    } else {
        MultifdThresholds { precopy: Some(8), postcopy: Some(8) }
    };
    let introduction = vec![Forward::Configuration(Vec::new())];
    let mut world = World {
        source: Source::new(introduction, features, limits, pending.clone(), hint.clone(), many),
        pending,
        answered: RamBitmap::with_pages(PAGES),
        hint,
        now: Duration::ZERO,
        owner: Owner::Source,
        lock: PauseLock::default(),
        not_started: false,
        all_received: false,
        written: Vec::new(),
        over: false,
    };
    while !world.over && world.step(&mut input).is_some() {
        world.judge();
    }
    if let Some(outcome) = world.source.into_outcome() {
        match outcome {
            Outcome::Completed => assert!(world.owner == Owner::Destination && world.all_received),
            Outcome::Failed(error) => assert!(!sentence(&error).is_empty()),
            Outcome::Cancelled => assert_ne!(world.owner, Owner::Destination),
        }
    }
}

impl World {
    fn step(&mut self, input: &mut Input) -> Option<()> {
        self.now += Duration::from_millis(1);
        match input.u8()? % step::COUNT {
            step::GO_ON => self.go_on(),
            step::REPLY => {
                let bytes = input.counted()?;
                match decoded(bytes) {
                    Some(reply) => self.hear(reply),
                    None => self.source.fail(MigrationError::OutOfOrder("nonsense")),
                }
            }
            step::REQUEST => {
                if let Some(request) = requested(input.counted()?) {
                    self.ask(&request);
                }
            }
            step::POSTCOPY => drop(self.source.start_postcopy()),
            step::CANCEL => self.source.cancel(),
            step::FAIL => self.source.fail(MigrationError::OutOfOrder("link")),
            step::CONTINUE => {
                let held = self.source.status() == Status::PreSwitchover;
                assert_eq!(self.source.go_on(), held);
                assert!(!held || self.owner == Owner::Paused);
            }
            step::REJOIN => {
                if self.source.recover() {
                    assert_eq!(self.owner, Owner::Destination);
                    self.answered = RamBitmap::with_pages(PAGES);
                }
            }
            _ => {
                let (start, count) = (u64::from(input.u16()? % 700), u32::from(input.u8()?) + 1);
                let count = count.min((PAGES[0] - start) as u32);
                if self.owner == Owner::Source {
                    self.written.push(PageRun { block: BlockId(0), start: PageIndex(start), count });
                }
            }
        }
        Some(())
    }

    fn hear(&mut self, reply: Reply) {
        let before = self.source.status();
        self.not_started |= matches!(reply, Reply::NotStarted(_)) && self.owner == Owner::Destination;
        let all = reply == Reply::AllReceived;
        self.source.reply(reply, self.now);
        self.all_received |= all && self.source.status() == Status::Completed && before != Status::Completed;
    }

    fn ask(&mut self, request: &Request) {
        let asked: u64 = request.0.iter().map(|run| u64::from(run.count)).sum();
        let mut given = 0;
        let before = self.answered.count();
        match answer(&self.pending, &self.answered, request, |run| given += u64::from(run.count)) {
            Ok(()) => {
                for run in &request.0 {
                    for page in run.pages() {
                        assert!(self.answered.block(run.block).expect("it is there").test(page));
                        assert!(!self.pending.block(run.block).expect("it is there").test(page), "sent twice");
                    }
                }
                if let Some(last) = request.0.last() {
                    self.hint.demanded(*last);
                }
            }
            Err(error) => drop(sentence(&error)),
        }
        assert!(given <= asked);
        assert_eq!(self.answered.count(), before + given, "each page is given once");
    }

    /// What the driver does until it waits, or for its turn.
    fn go_on(&mut self) {
        for _ in 0..TURN {
            match self.source.next(self.now) {
                Action::SendRun(run) => {
                    assert!(self.pending.holds(run), "{run} is no RAM");
                    self.source.sent(run.bytes(), self.now);
                }
                Action::ClearLog(run) => assert_eq!(run.start.0 % 64, 0),
                Action::Sync => {
                    self.written.drain(..).for_each(|run| {
                        self.pending.set_run(run);
                    });
                    self.source.synced(self.now);
                }
                Action::Measure => {
                    let pages = self.written.drain(..).map(|run| self.pending.set_run(run)).sum();
                    self.source.measured(pages, self.now);
                }
                Action::Pause => {
                    assert_eq!(self.owner, Owner::Source, "paused twice");
                    self.owner = Owner::Paused;
                    self.source.paused(self.lock.pause(&Stands).unwrap_or_else(|_| unreachable!("it stands")));
                }
                Action::Save => {
                    assert_eq!(self.owner, Owner::Paused);
                    let section = Section { name: "test".into(), instance: 0, version: 1, bytes: Vec::new() };
                    self.source.saved(vec![section]);
                }
                Action::Resume(door) => {
                    // What matters most of all: never in two places.
                    assert!(self.owner == Owner::Paused || self.not_started, "resumed while it is elsewhere");
                    assert!(door.running());
                    self.owner = Owner::Source;
                }
                Action::HandOver => {
                    let paused = self.owner == Owner::Paused;
                    self.source.try_hand_over(true);
                    if paused && self.source.status() != Status::Cancelled {
                        self.owner = Owner::Destination;
                    }
                }
                Action::HandedOver => assert!(self.all_received),
                Action::Wait(_) => return,
                Action::End => {
                    self.over = true;
                    return;
                }
                Action::Send(_) | Action::StartLog | Action::StopLog | Action::ServeDemand => {}
                Action::MultifdStart | Action::MultifdFlush => {}
                Action::ShareRam | Action::Release(_) => unreachable!("nobody wants that here"),
            }
        }
    }

    fn judge(&self) {
        let status = self.source.status();
        let gone = matches!(status, Status::PostcopyActive | Status::PostcopyPaused | Status::PostcopyRecover);
        assert!(!gone || self.owner == Owner::Destination, "{status:?} with the guest at {:?}", self.owner);
        assert!(status != Status::Completed || self.all_received, "completed without the destination's word");
        assert_eq!(self.source.lost_because().is_some(), status == Status::PostcopyPaused);
        let _ = (self.source.is_limited(), self.source.figures(), self.source.awaits_last_word());
    }
}

fn split(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let (head, rest) = bytes.split_first_chunk()?;
    let header = Header::decode(*head).ok()?;
    Some((header, rest.get(..header.fields())?))
}

fn decoded(bytes: &[u8]) -> Option<Reply> {
    let (header, fields) = split(bytes)?;
    decode_reply(header, fields).ok()
}

fn requested(bytes: &[u8]) -> Option<Request> {
    let (header, fields) = split(bytes)?;
    Request::decode(header, fields).ok()
}

/// A reply, and the driver goes on.
fn said(reply: &Reply) -> Vec<u8> {
    let mut bytes = Vec::new();
    reply.encode(&mut bytes);
    [&[step::REPLY][..], &counted(&bytes), &[step::GO_ON]].concat()
}

pub fn seeds() -> Vec<Seed> {
    let replies: Vec<Vec<u8>> = decoder::replies().iter().map(said).collect();
    let [accepted, reached, armed, ready, running, received, end, all, not_started] = &replies[..] else {
        return Vec::new();
    };
    let mut asked = Vec::new();
    let run = |start, count| PageRun { block: BlockId(0), start: PageIndex(start), count };
    Request(vec![run(5, 2), run(600, 100)]).encode(&mut asked);
    let asked = [&[step::REQUEST][..], &counted(&asked)].concat();
    let go_on = vec![step::GO_ON; 6];
    let write = [step::WRITE, 9, 0, 200, step::WRITE, 44, 2, 3];
    let postcopy = [&[1, step::GO_ON][..], accepted, armed, ready, running, &asked, &go_on, all].concat();
    let precopy = [&[0, step::GO_ON][..], accepted, &write, &go_on, reached, &go_on, ready, running, all].concat();
    let hybrid = [
        &[18, step::GO_ON][..],
        accepted,
        &write,
        &go_on,
        reached,
        &go_on,
        reached,
        armed,
        ready,
        running,
        &go_on,
        all,
    ];
    let lost = [
        &[1, step::GO_ON][..],
        accepted,
        armed,
        ready,
        running,
        &[step::FAIL, step::GO_ON, step::REJOIN],
        received,
        end,
        &go_on,
        all,
    ];
    let not_started = [&[1, step::GO_ON][..], accepted, armed, ready, not_started].concat();
    let cancelled = [&[0, step::GO_ON][..], accepted, &[step::POSTCOPY, step::CANCEL, step::GO_ON]].concat();
    vec![
        ("postcopy", postcopy),
        ("precopy", precopy),
        ("hybrid", hybrid.concat()),
        ("lost", lost.concat()),
        ("not-started", not_started),
        ("cancelled", cancelled),
    ]
}
