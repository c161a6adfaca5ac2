//! One schedule: both ends as they ship, the network between them, the user, and what must be true
//! at every turn.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use whimbrel_postcopy::channel::{Acceptor, Channel, ChannelError, Connector, Wake};
use whimbrel_postcopy::destination::{self, DestinationHandle, Options};
use whimbrel_postcopy::host::{self, Cut, Descriptor, Network, Random, block, network, now, random, thread};
use whimbrel_postcopy::progress::Observer;
use whimbrel_postcopy::source::{self, SourceHandle};
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::wire::Features;

use crate::guest::{Common, ModelGuest};
use crate::plan::{Event, Plan, Planned, Refusal, limits};

/// A schedule that lasts longer by its own clock goes round in circles.
const LONGEST: Duration = Duration::from_secs(4 * 3600);

/// How a schedule ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    MovedByPrecopy,
    MovedByPostcopy,
    HandedOverAsItIs,
    Cancelled,
    Failed,
    /// The source gave the guest away, and had it back by the destination's word that it never ran
    /// there.
    TakenBack,
    /// The destination's process ended with the guest in it.
    Lost,
}

/// What a schedule came to.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub end: End,
    pub recovered: u64,
    pub asked_late: u64,
    pub held: u64,
    pub held_in_vain: u64,
    pub released: bool,
    pub turns: u64,
}

/// What one side's observer has heard.
#[derive(Default)]
struct Heard {
    statuses: Mutex<Vec<Status>>,
}

impl Heard {
    fn all(&self) -> Vec<Status> {
        self.statuses.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.statuses.lock().unwrap().len()
    }

    fn last(&self) -> Status {
        self.statuses.lock().unwrap().last().copied().unwrap_or(Status::None)
    }

    fn has(&self, status: Status) -> bool {
        self.statuses.lock().unwrap().contains(&status)
    }
}

impl Observer for Heard {
    fn status(&self, status: Status) {
        self.statuses.lock().unwrap().push(status);
    }

    fn pass(&self, _pass: u64) {}
}

struct Dial(Network);

impl Connector for Dial {
    fn connect(&self) -> io::Result<Channel> {
        Channel::new(self.0.dial()?)
    }
}

struct Door(Descriptor);

impl Acceptor for Door {
    fn accept(&self, _wake: &Wake) -> Result<Channel, ChannelError> {
        unreachable!("those who connect wait in a line")
    }

    fn listener(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn try_accept(&self) -> io::Result<Channel> {
        Channel::new(Network::accept(&self.0)?)
    }
}

/// Everything that the first fiber and the checks between turns share.
pub struct World {
    common: Arc<Common>,
    source: Arc<ModelGuest>,
    destination: Arc<ModelGuest>,
    leaving: Arc<Heard>,
    arriving: Arc<Heard>,
    network: Network,
    disturbances: AtomicU64,
}

/// Plays a schedule to its end.
pub fn play(seed: u64, plan: Plan) -> Outcome {
    let slot: Arc<Mutex<Option<Arc<World>>>> = Arc::default();
    let outcome: Arc<Mutex<Option<Outcome>>> = Arc::default();
    let (made, ended) = (slot.clone(), outcome.clone());
    let shown = plan.clone();
    crate::notice_panics();
    let told = crate::OnPanic(move || eprintln!("{shown:?}"));
    host::scale_down(plan.scale);
    let main = move || {
        let world = World::new(plan);
        *made.lock().unwrap() = Some(world.clone());
        *ended.lock().unwrap() = world.play();
        *made.lock().unwrap() = None;
    };
    host::run(seed, main, || {
        let world = slot.lock().unwrap().clone();
        if let Some(world) = world {
            world.check();
        }
    });
    drop(told);
    let outcome = outcome.lock().unwrap().take();
    outcome.expect("the first fiber panicked")
}

impl World {
    fn new(plan: Plan) -> Arc<Self> {
        let network = network(plan.lines.clone(), plan.local);
        let common = Common::new(plan);
        let (source, destination) = (ModelGuest::new(&common, true), ModelGuest::new(&common, false));
        source.fill();
        Arc::new(Self {
            source,
            destination,
            leaving: Arc::default(),
            arriving: Arc::default(),
            network,
            disturbances: AtomicU64::new(0),
            common,
        })
    }

    /// What holds between any two turns.
    fn check(&self) {
        let common = &self.common;
        if let Some(panic) = crate::PANICKED.take() {
            panic!("a thread has panicked, {panic}: {}", self.describe());
        }
        if let Some(wrong) = common.wrong.lock().unwrap().take() {
            panic!("{wrong}: {}", self.describe());
        }
        let (runs, arrived) = (common.source_runs.load(SeqCst), common.destination_runs.load(SeqCst));
        assert!(!(runs && arrived), "two guests run: {}", self.describe());
        let page = common.truth.lock().unwrap().draw();
        let block = usize::from(page.0.0);
        let whose = if common.has_run.load(SeqCst) {
            let there = self.destination.ram[block].is_present(page.1);
            (there && !common.plan.shared).then_some((&self.destination.ram, "destination, held"))
        } else {
            (!common.plan.limits.release && !common.plan.shared).then_some((&self.source.ram, "source, kept"))
        };
        if let Some((ram, whose)) = whose {
            common.check(ram, page, whose);
        }
    }

    fn describe(&self) -> String {
        format!("source {:?}, destination {:?}, {}", self.leaving.all(), self.arriving.all(), host::describe())
    }

    fn features(&self) -> Features {
        let plan = &self.common.plan;
        let mut features = Options::default().features;
        if plan.shared {
            features = features.and(Features::SHARED_RAM);
        }
        if plan.refusal == Refusal::Postcopy { features.without(Features::POSTCOPY) } else { features }
    }

    fn play(self: &Arc<Self>) -> Option<Outcome> {
        let plan = self.common.plan.clone();
        let vcpus: Vec<_> = [&self.source, &self.source, &self.destination, &self.destination]
            .into_iter()
            .map(|guest| {
                let guest = guest.clone();
                thread::spawn(move || guest.run_vcpu())
            })
            .collect();
        let place = self.network.clone();
        let options = Options {
            features: self.features(),
            listen_again: Some(Box::new(move || Ok(Box::new(Door(place.listen())) as Box<dyn Acceptor>))),
        };
        let door = Box::new(Door(self.network.listen()));
        let guest = self.destination.clone();
        let mut arriving = destination::start_with(guest, door, self.arriving.clone(), options).unwrap();
        arriving.set_reconnects(plan.reconnects);
        self.network.refuse(plan.refused_connects);
        let (guest, dial) = (self.source.clone(), Arc::new(Dial(self.network.clone())));
        let mut leaving = source::start_with(guest, dial, plan.limits, self.leaving.clone(), plan.multifd).unwrap();
        let mut user =
            User { world: self, seen: 0, due: Vec::new(), events: plan.events, recovered: 0, late: 0, lost: false };
        user.live(&leaving, &mut arriving);
        let (recovered, asked_late, lost) = (user.recovered, user.late, user.lost);
        // Whoever waits for a source that has ended waits for nothing.
        let until = now() + Duration::from_secs(120);
        block(Some(until), &|| self.arriving.has(Status::Completed) || self.arriving.has(Status::Failed));
        thread::sleep(Duration::from_secs(120));
        let end = if lost { End::Lost } else { self.end(&leaving) };
        self.common.stop.store(true, SeqCst);
        if lost {
            leaving.abandon();
        }
        leaving.join();
        arriving.abandon();
        vcpus.into_iter().for_each(|vcpu| drop(vcpu.join()));
        arriving.clear_away();
        if end != End::Lost {
            self.check_end(end);
        }
        let all = self.leaving.all();
        let held = all.iter().filter(|status| **status == Status::PreSwitchover).count() as u64;
        let in_vain = all.windows(2).filter(|pair| pair[0] == Status::PreSwitchover && ends(pair[1])).count() as u64;
        let released = plan.limits.release && end == End::MovedByPostcopy;
        let outcome =
            Outcome { end, recovered, asked_late, held, held_in_vain: in_vain, released, turns: host::turns() };
        if let Some(wrong) = self.common.wrong.lock().unwrap().take() {
            panic!("{wrong}: {}", self.describe());
        }
        Some(outcome)
    }

    fn end(&self, leaving: &SourceHandle) -> End {
        let (source, has_run) = (self.leaving.last(), self.common.has_run.load(SeqCst));
        let postcopy = self.leaving.has(Status::PostcopyActive);
        let end = match source {
            Status::Completed if self.common.plan.limits.ignore_shared && !postcopy => End::HandedOverAsItIs,
            Status::Completed if postcopy => End::MovedByPostcopy,
            Status::Completed => End::MovedByPrecopy,
            Status::Cancelled => End::Cancelled,
            Status::Failed if leaving.is_handed_over() => End::TakenBack,
            Status::Failed => End::Failed,
            other => panic!("it ends as {other:?}: {}", self.describe()),
        };
        let moved = source == Status::Completed;
        assert_eq!(moved, has_run, "the ends do not agree: {}", self.describe());
        if moved {
            assert_eq!(self.arriving.last(), Status::Completed, "{}", self.describe());
        }
        if matches!(end, End::Failed | End::TakenBack) {
            let plan = &self.common.plan;
            let refused = plan.refusal != Refusal::Nothing || plan.refused_connects > 0;
            let disturbed = refused || self.disturbances.load(SeqCst) > 0;
            assert!(disturbed, "nothing went wrong, and it failed: {:?}: {}", leaving.report().error, self.describe());
        }
        end
    }

    /// At the end the guest is whole, where it is said to be, and in the run state that it had.
    fn check_end(&self, end: End) {
        let common = &self.common;
        let (source, destination) = (common.source_runs.load(SeqCst), common.destination_runs.load(SeqCst));
        let pages = common.truth.lock().unwrap().all();
        match end {
            End::Cancelled | End::Failed | End::TakenBack => {
                assert!(source == common.plan.running && !destination, "{end:?}: {}", self.describe());
                assert!(!self.source.left.load(SeqCst), "the source has let go of its guest");
                pages.into_iter().for_each(|page| common.check(&self.source.ram, page, "source"));
            }
            _ => {
                assert!(!source && destination == common.plan.running, "{end:?}: {}", self.describe());
                assert!(self.destination.arrived.load(SeqCst), "the guest has not arrived: {}", self.describe());
                pages.into_iter().for_each(|page| common.check(&self.destination.ram, page, "destination"));
            }
        }
        assert!(!self.source.logging.load(SeqCst), "the dirty log is left on: {}", self.describe());
        assert!(!self.source.throttled.load(SeqCst), "the guest is left throttled: {}", self.describe());
    }
}

fn ends(status: Status) -> bool {
    matches!(status, Status::Failing | Status::Failed | Status::Cancelling | Status::Cancelled)
}

/// Who starts, steers and disturbs the migration.
struct User<'a> {
    world: &'a World,
    seen: usize,
    due: Vec<(Duration, Event)>,
    events: Vec<Planned>,
    recovered: u64,
    late: u64,
    /// The destination's process ended with the guest in it.
    lost: bool,
}

impl User<'_> {
    /// Until the source has ended.
    fn live(&mut self, leaving: &SourceHandle, arriving: &mut DestinationHandle) {
        let world = self.world;
        loop {
            let all = world.leaving.all();
            for status in &all[self.seen..] {
                self.hears(*status);
            }
            self.seen = all.len();
            if all.last().is_some_and(|it| matches!(it, Status::Completed | Status::Failed | Status::Cancelled)) {
                return;
            }
            if self.lost {
                return;
            }
            assert!(now() < LONGEST, "no end is reached: {}", world.describe());
            let moment = now();
            let due: Vec<_> = self.due.extract_if(.., |(at, _)| *at <= moment).collect();
            let idle = due.is_empty();
            due.into_iter().for_each(|(_, event)| self.does(event, leaving, arriving));
            if idle {
                let next = self.due.iter().map(|(at, _)| *at).min();
                let seen = self.seen;
                block(Some(next.unwrap_or(LONGEST)), &|| world.leaving.count() > seen);
            }
        }
    }

    fn later(&mut self, most: Duration, event: Event) {
        let after = Duration::from_nanos(1 + random(most.as_nanos() as u64));
        self.due.push((now() + after, event));
    }

    fn hears(&mut self, status: Status) {
        let due = &mut self.due;
        self.events.retain(|Planned { event, status: when, after }| {
            if *when == status {
                due.push((now() + *after, *event));
            }
            *when != status
        });
        let by_itself = !self.world.common.plan.limits.reconnect.is_zero();
        match status {
            Status::PreSwitchover => self.later(Duration::from_millis(3), Event::GoOn),
            Status::PostcopyPaused if by_itself => self.later(Duration::from_secs(4), Event::Recover),
            Status::PostcopyPaused => self.later(Duration::from_millis(20), Event::Recover),
            _ => {}
        }
    }

    fn does(&mut self, event: Event, leaving: &SourceHandle, arriving: &mut DestinationHandle) {
        let world = self.world;
        let disturbs = matches!(
            event,
            Event::Cut(_)
                | Event::BreakAtSource
                | Event::BreakAtDestination
                | Event::Panic(_)
                | Event::OutOfMemory(_)
                | Event::AbandonDestination
        );
        if disturbs && world.common.is_calm() {
            return;
        }
        world.disturbances.fetch_add(u64::from(disturbs), SeqCst);
        match event {
            Event::Cut(cut) => world.network.cut(cut),
            Event::Cancel => drop(leaving.cancel()),
            Event::StartPostcopy => drop(leaving.start_postcopy()),
            Event::NewLimits => leaving.set_limits(self.new_limits()),
            Event::BreakAtSource => leaving.break_link(),
            Event::BreakAtDestination => arriving.break_link(),
            Event::OutOfMemory(time) => host::out_of_memory(time),
            Event::Panic(panic) => *world.common.panic.lock().unwrap() = Some(panic),
            Event::Recover => self.recover(leaving, arriving),
            Event::GoOn => {
                if !leaving.go_on() && world.leaving.last() == Status::PreSwitchover {
                    self.later(Duration::from_millis(1), Event::GoOn);
                }
            }
            Event::AbandonDestination if world.common.has_run.load(SeqCst) => {}
            Event::AbandonDestination => {
                arriving.abandon();
                // The source may have given the guest away meanwhile, and nobody tells it more.
                self.lost = leaving.is_handed_over();
            }
        }
    }

    /// What is settled when a migration begins does not change.
    fn new_limits(&self) -> source::Limits {
        let old = self.world.common.plan.limits;
        let new = limits(&mut Random::new(random(1 << 30)));
        source::Limits { ignore_shared: old.ignore_shared, release: old.release, encoding: old.encoding, ..new }
    }

    fn recover(&mut self, leaving: &SourceHandle, arriving: &DestinationHandle) {
        let world = self.world;
        if world.leaving.last() != Status::PostcopyPaused {
            return;
        }
        if !arriving.can_recover() {
            return self.later(Duration::from_secs(5), Event::Recover);
        }
        self.late += u64::from(world.arriving.has(Status::Completed));
        self.recovered += 1;
        arriving.recover(Box::new(Door(world.network.listen())));
        leaving.recover(Arc::new(Dial(world.network.clone())));
        if !world.common.is_calm() && random(100) < 15 {
            world.network.cut(Cut::All);
            world.disturbances.fetch_add(1, SeqCst);
        }
        // It may come to nothing.
        self.later(Duration::from_secs(60), Event::Recover);
    }
}
