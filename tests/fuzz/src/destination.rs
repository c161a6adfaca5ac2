//! The destination's state machine and its knowledge of pages, driven by any messages in any order,
//! beside a model of what is here.

use std::collections::HashSet;
use std::sync::Arc;

use whimbrel_postcopy::destination::{Destination, Effect, GuestPlace, Touch, Tracker};
use whimbrel_postcopy::error::{MigrationError, sentence};
use whimbrel_postcopy::memory::{AnonymousRam, RamBlock};
use whimbrel_postcopy::ram::{BlockId, PageIndex, PageRun};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::wire::{Forward, Header, decode_demand, decode_forward};

use crate::input::{Input, counted};
use crate::{Seed, decoder};

/// Pages of the two blocks.
const PAGES: [u64; 2] = [70, 3];

/// What the next byte asks for.
mod step {
    /// A message on the control channel.
    pub const MESSAGE: u8 = 0;
    /// One on the demand channel.
    pub const DEMAND: u8 = 1;
    /// What the driver was told to do went well.
    pub const DONE: u8 = 2;
    /// It did not, or the link broke.
    pub const FAILED: u8 = 3;
    /// A new link.
    pub const REJOIN: u8 = 4;
    /// A page is touched.
    pub const TOUCH: u8 = 5;
    /// How many there are.
    pub const COUNT: u8 = 6;
}

struct World {
    ram: Vec<RamBlock>,
    tracker: Arc<Tracker>,
    destination: Destination,
    /// What must be here.
    here: HashSet<(u16, u64)>,
    /// The driver was told to start the guest, and did.
    to_run: bool,
    started: bool,
}

pub fn check(data: &[u8]) {
    let block = |(n, pages): (usize, &u64)| AnonymousRam::block(&format!("ram{n}"), *pages).expect("memory");
    let ram: Vec<RamBlock> = PAGES.iter().enumerate().map(block).collect();
    let tracker = Arc::new(Tracker::new(&ram));
    let destination = Destination::new(tracker.clone());
    let mut world = World { ram, tracker, destination, here: HashSet::new(), to_run: false, started: false };
    let mut input = Input(data);
    while world.step(&mut input).is_some() {
        world.judge();
    }
}

impl World {
    fn step(&mut self, input: &mut Input) -> Option<()> {
        match input.u8()? % step::COUNT {
            step::MESSAGE => {
                let bytes = input.counted()?;
                let Some(message) = decoded(bytes, false) else {
                    self.fail(MigrationError::OutOfOrder("nonsense"));
                    return Some(());
                };
                match self.destination.message(message, &self.ram) {
                    Ok(effect) => self.obey(effect),
                    Err(error) => {
                        let said = sentence(&error);
                        assert!(!said.is_empty());
                        self.fail(error);
                    }
                }
            }
            step::DEMAND => match decoded(input.counted()?, true) {
                // As the fault loop does, with nobody's leave but its own.
                Some(Forward::Pages(run)) if self.tracker.holds(run) => self.placed(run),
                Some(Forward::Zeros(runs)) if runs.iter().all(|run| self.tracker.holds(*run)) => {
                    runs.into_iter().for_each(|run| self.placed(run));
                }
                _ => self.fail(MigrationError::OutOfOrder("nonsense")),
            },
            step::DONE => self.done(),
            step::FAILED => self.fail(MigrationError::OutOfOrder("link")),
            step::REJOIN => {
                let unheard = self.destination.status() == Status::Completed && !self.destination.is_over();
                let never = self.destination.never_ran();
                let lost = never || unheard || self.destination.status() == Status::PostcopyPaused;
                let standing = self.destination.recover();
                assert_eq!(standing.is_some(), lost);
                assert_eq!(matches!(standing, Some(GuestPlace::Never(_))), never);
                for run in self.tracker.ask_again() {
                    assert!(self.tracker.holds(run));
                }
            }
            _ => {
                let (block, page) = (u16::from(input.u8()?), u64::from(input.u8()?));
                let (block, page) = (BlockId(block % 2), PageIndex(page % PAGES[usize::from(block % 2)]));
                let here = self.here.contains(&(block.0, page.0));
                assert_eq!(self.tracker.touched(block, page) == Touch::Here, here);
                self.tracker.served(PageRun::single(block, page));
            }
        }
        Some(())
    }

    fn obey(&mut self, effect: Effect) {
        match effect {
            Effect::Write(run) | Effect::Place(run) => self.placed(run),
            Effect::WriteCompressed(packed) | Effect::PlaceCompressed(packed) => self.placed(packed.run),
            Effect::WriteZeros(runs) | Effect::PlaceZeros(runs) => runs.into_iter().for_each(|run| self.placed(run)),
            Effect::Discard(fragment) => {
                let here = &mut self.here;
                let mut dropped = 0;
                self.tracker.stale(&fragment, |run| {
                    for page in run.pages() {
                        assert!(here.remove(&(run.block.0, page.0)), "{run} was not here");
                        dropped += 1;
                    }
                });
                for (word, bits) in fragment.iter() {
                    for bit in (0..64).filter(|bit| bits >> bit & 1 == 1) {
                        assert!(!here.contains(&(fragment.block.0, word as u64 * 64 + bit)), "not dropped");
                    }
                }
            }
            Effect::Run { .. } => self.to_run = true,
            Effect::Finish => assert_eq!(self.tracker.missing(), 0),
            Effect::AwaitPages => assert_ne!(self.tracker.missing(), 0),
            _ => {}
        }
    }

    fn placed(&mut self, run: PageRun) {
        let before = self.here.len();
        self.here.extend(run.pages().map(|page| (run.block.0, page.0)));
        let all = self.here.len() as u64 == PAGES.iter().sum::<u64>();
        assert_eq!(self.tracker.placed(run), all && self.here.len() > before, "the last page, once");
        self.tracker.served(run);
        self.destination.all_received();
    }

    fn done(&mut self) {
        self.destination.checked();
        self.destination.loaded();
        if std::mem::take(&mut self.to_run) {
            self.started = true;
            self.destination.started();
        }
        self.destination.recovered();
    }

    fn fail(&mut self, error: MigrationError) {
        let owned = self.destination.owns_guest();
        self.to_run = false;
        assert_eq!(self.destination.fail(error), owned, "a failure neither gives nor takes the guest");
    }

    fn judge(&mut self) {
        let missing = PAGES.iter().sum::<u64>() - self.here.len() as u64;
        assert_eq!(self.tracker.missing(), missing);
        assert_eq!(self.tracker.received().count(), self.here.len() as u64);
        assert_eq!(self.destination.owns_guest(), self.started, "the guest is owned by who started it");
        let status = self.destination.status();
        assert!(status != Status::Completed || missing == 0, "completed with {missing} pages missing");
        assert!(status != Status::Failed || !self.started, "a guest that runs here was given up");
        let broken = matches!(status, Status::Failed | Status::PostcopyPaused) || self.destination.never_ran();
        assert_eq!(self.destination.error().is_some(), broken);
        assert!(!self.destination.never_ran() || !self.started, "a guest that ran is said not to have");
    }
}

fn decoded(bytes: &[u8], demand: bool) -> Option<Forward> {
    let (head, rest) = bytes.split_first_chunk()?;
    let header = Header::decode(*head).ok()?;
    let fields = rest.get(..header.fields())?;
    if demand { decode_demand(header, fields) } else { decode_forward(header, fields) }.ok()
}

/// A message step without pages' contents, and the driver's answer.
fn said(message: &Forward) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    [&[step::MESSAGE][..], &counted(&bytes), &[step::DONE]].concat()
}

pub fn seeds() -> Vec<Seed> {
    let all: Vec<Vec<u8>> = decoder::forwards().iter().map(said).collect();
    // To the hand-over with two stale pages, then a page on demand, a lost link, a new one, and the
    // rest.
    let postcopy = all[..14].concat();
    let zeros = |start, count| Forward::Zeros(vec![PageRun { block: BlockId(0), start: PageIndex(start), count }]);
    let mut demanded = Vec::new();
    zeros(1, 1).encode(&mut demanded);
    let lost = [&postcopy[..], &[step::TOUCH, 0, 1, step::DEMAND], &counted(&demanded), &[step::FAILED, step::REJOIN]];
    let lost = [&lost.concat()[..], &[step::DONE], &said(&zeros(3, 1)), &said(&Forward::Complete)].concat();
    let precopy: Vec<u8> = [0, 1, 3, 4, 5, 8, 9, 12, 13, 15].iter().flat_map(|n| all[*n].clone()).collect();
    let refused = [&all[..12].concat()[..], &said(&Forward::Cancel("no".into()))].concat();
    vec![
        ("postcopy", [&postcopy[..], &all[14], &all[15]].concat()),
        ("lost", lost),
        ("precopy", precopy),
        ("refused", refused),
    ]
}
