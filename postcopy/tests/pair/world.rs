//! One schedule: both ends, the link between them, the clock, and what must be true after every
//! step.

use std::time::Duration;

use whimbrel_postcopy::stats::Status;

use crate::destination::DestinationEnd;
use crate::link::Link;
use crate::memory::Truth;
use crate::plan::{Event, Plan, Planned, Random, Refusal, limits};
use crate::source::SourceEnd;

/// A schedule that takes more steps than this goes round in circles.
const MOST_STEPS: u64 = 400_000;

/// How a schedule ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    MovedByPrecopy,
    MovedByPostcopy,
    Cancelled,
    Failed,
    /// The source gave the guest away, and had it back by the destination's word that it never ran
    /// there.
    TakenBack,
}

pub struct World {
    pub plan: Plan,
    pub random: Random,
    pub now: Duration,
    pub step: u64,
    pub link: Link,
    pub truth: Truth,
    pub source: SourceEnd,
    pub destination: DestinationEnd,
    pub recovered: u64,
    /// Times the source asked a destination that had everything.
    pub asked_late: u64,
    /// Times that a switchover was held, and what ended that otherwise than by the user's word to
    /// go on.
    pub held: u64,
    pub held_in_vain: u64,
    disturbances: u64,
    due: Vec<(u64, Event)>,
    postcopy: bool,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::draw(&mut random);
        let mut world = Self {
            source: SourceEnd::new(&plan),
            destination: DestinationEnd::new(&plan),
            truth: Truth::new(&plan.blocks),
            link: Link::new(plan.multifd_lines.len()),
            now: Duration::ZERO,
            step: 0,
            recovered: 0,
            asked_late: 0,
            held: 0,
            held_in_vain: 0,
            disturbances: 0,
            due: Vec::new(),
            postcopy: false,
            plan,
            random,
        };
        let pages: Vec<_> = world.truth.all().collect();
        let share = if pages.len() > 1000 { 10 } else { 70 };
        for (block, page) in pages {
            if world.random.percent(share) {
                world.truth.write(&world.source.ram, block, page, &mut world.random);
            }
        }
        world
    }

    pub fn is_calm(&self) -> bool {
        self.step >= self.plan.calm
    }

    /// Plays the schedule to its end.
    pub fn play(&mut self) -> End {
        loop {
            assert!(self.step < MOST_STEPS, "no end is reached: {}", self.describe());
            self.step += 1;
            self.now += Duration::from_nanos(self.random.below(4000));
            self.link.deliver(self.now);
            self.disturb();
            for _ in 0..self.random.below(3) {
                self.step_source_guest();
                self.step_destination_guest();
            }
            let before = self.source.machine.status();
            let worked = self.say_go_on() || self.step_anyone() || self.try_recover();
            self.check();
            self.count_held(before);
            if let Some(end) = self.end() {
                return end;
            }
            if !worked {
                self.wait();
            }
        }
    }

    /// One step of one thread; of another if the first has nothing to do.
    fn step_anyone(&mut self) -> bool {
        let first = self.random.below(6);
        (0..6).any(|n| match (first + n) % 6 {
            0 => self.step_source(),
            1 => self.step_demand(),
            2 => self.step_destination(),
            3 => self.step_sender(),
            4 => self.step_receiver(),
            _ => self.step_faults(),
        })
    }

    /// Nobody has anything to do: the clock goes on to the next event.
    fn wait(&mut self) {
        let network = self.link.next_event(self.now);
        let pace = self.source.waiting.flatten().filter(|_| self.source.linked);
        let next = network.into_iter().chain(pace).min();
        match next {
            Some(next) => self.now = self.now.max(next),
            None if self.is_held() || self.destination.running || self.may_recover() || !self.due.is_empty() => {}
            None => panic!("nobody has anything to do and it is not over: {}", self.describe()),
        }
    }

    fn disturb(&mut self) {
        let status = self.source.machine.status();
        let step = self.step;
        let due = &mut self.due;
        self.plan.events.retain(|Planned { event, status: when, after }| {
            if *when == status {
                due.push((step + after, *event));
            }
            *when != status
        });
        let happens: Vec<Event> = due.extract_if(.., |(at, _)| *at <= step).map(|(_, event)| event).collect();
        for event in happens {
            match event {
                // Cuts only while somebody disturbs; a cut in a calm world would never let it end.
                Event::Cut if self.is_calm() => {}
                Event::Cut => {
                    self.disturbances += 1;
                    self.link.cut(&mut self.random);
                }
                Event::Cancel => self.source.cancelled |= !self.source.door_closed,
                Event::SourceThreadDies(_) | Event::DestinationThreadDies(_) if self.is_calm() => {}
                Event::SourceThreadDies(thread) => {
                    self.disturbances += 1;
                    self.source_thread_dies(thread);
                }
                Event::DestinationThreadDies(thread) => {
                    self.disturbances += 1;
                    self.destination_thread_dies(thread);
                }
                Event::StartPostcopy => self.source.postcopy_wanted = true,
                Event::NewLimits => {
                    let limits = limits(&mut self.random);
                    self.source.machine.set_limits(limits);
                }
            }
        }
    }

    fn is_held(&self) -> bool {
        self.source.machine.status() == Status::PreSwitchover
    }

    /// The user lets a switchover that is held go on, sooner or later.
    fn say_go_on(&mut self) -> bool {
        let says = self.is_held() && !self.source.go_on && self.random.percent(3);
        self.source.go_on |= says;
        says
    }

    fn count_held(&mut self, before: Status) {
        let after = self.source.machine.status();
        self.held += u64::from(self.is_held() && before != after);
        self.held_in_vain += u64::from(before == Status::PreSwitchover && after.is_ended());
    }

    fn may_recover(&self) -> bool {
        let destination = &self.destination;
        self.source.machine.status() == Status::PostcopyPaused && !destination.ended && !destination.linked
    }

    /// The user joins both sides again, sooner or later; now and then the new link breaks before
    /// the source has it.
    fn try_recover(&mut self) -> bool {
        if !self.may_recover() || !self.random.percent(10) {
            return false;
        }
        self.asked_late += u64::from(self.destination.machine.status() == Status::Completed);
        self.link = Link::new(self.plan.multifd_lines.len());
        self.recover_destination();
        if !self.is_calm() && self.random.percent(15) {
            self.link.cut(&mut self.random);
            // It gives up on the rest of it.
            self.link.finish_source();
            return true;
        }
        self.source.recover();
        self.recovered += 1;
        true
    }

    /// What holds after every step.
    fn check(&mut self) {
        use Status::{
            Active, Cancelled, Completed, Device, Failed, PostcopyActive, PostcopyDevice, PostcopyPaused,
            PostcopyRecover, Setup,
        };
        let (source, destination) = (&self.source, &self.destination);
        let (leaving, arriving) = (source.machine.status(), destination.machine.status());
        assert!(!(source.running && destination.running), "two guests run: {}", self.describe());
        if source.running {
            assert!(matches!(leaving, Setup | Active | Device | Cancelled | Failed), "{}", self.describe());
        }
        if destination.has_run {
            let there = matches!(
                arriving,
                Active | PostcopyDevice | PostcopyActive | PostcopyPaused | PostcopyRecover | Completed
            );
            assert!(there && !matches!(leaving, Setup | Active | Cancelled | Failed), "{}", self.describe());
        }
        if arriving == Completed {
            assert_eq!(destination.tracker.missing(), 0);
        }
        if leaving == Completed {
            assert_eq!(arriving, Completed, "the source is done before the destination is");
        }
        assert!(!destination.machine.never_ran() || !destination.has_run, "{}", self.describe());
        for waiting in destination.blocked.iter().flatten() {
            assert!(!destination.memory.is_open(waiting.0, waiting.1), "somebody waits for a page that is here");
        }
        let counted = self.truth.all().count() as u64 - destination.tracker.received().count();
        // The two counts are of different moments only while a thread is between them, which no
        // step ends in.
        assert_eq!(destination.tracker.missing(), counted);
        let (block, page) = self.truth.draw(&mut self.random);
        if self.destination.has_run && self.destination.memory.is_open(block, page) {
            self.truth.check(&self.destination.memory.ram, block, page, "destination, held");
        } else {
            self.truth.check(&self.source.ram, block, page, "source, kept");
        }
        self.postcopy |= leaving == PostcopyActive;
        assert!(!self.postcopy || destination.memory.was_watched, "a precopy calls itself a postcopy");
    }

    fn end(&mut self) -> Option<End> {
        let (source, destination) = (&self.source, &self.destination);
        let leaving = source.machine.status();
        // Whoever waits for a source that has ended waits for nothing.
        let quiet = source.ended && (destination.ended || !destination.linked);
        if !quiet {
            return None;
        }
        let arriving = match destination.machine.never_ran() {
            true => Status::Failed,
            false => destination.machine.status(),
        };
        let end = match (leaving, arriving) {
            (Status::Completed, Status::Completed) if self.postcopy => End::MovedByPostcopy,
            (Status::Completed, Status::Completed) => End::MovedByPrecopy,
            (Status::Cancelled, Status::Failed) => End::Cancelled,
            (Status::Failed, Status::Failed) if source.door_closed => End::TakenBack,
            (Status::Failed, Status::Failed) => End::Failed,
            _ => panic!("the ends do not agree: {}", self.describe()),
        };
        if matches!(end, End::Failed | End::TakenBack) {
            let disturbed = self.disturbances > 0 || self.plan.refusal != Refusal::Nothing;
            assert!(disturbed, "nothing went wrong, and it failed: {}", self.describe());
        }
        self.check_end(end);
        Some(end)
    }

    /// At the end the guest is whole, where it is said to be, and in the run state that it had.
    fn check_end(&self, end: End) {
        let (source, destination) = (&self.source, &self.destination);
        match end {
            End::MovedByPrecopy | End::MovedByPostcopy => {
                assert!(!source.running && destination.running == self.plan.running);
                self.truth.check_all(&destination.memory.ram, "destination");
            }
            End::Cancelled | End::Failed | End::TakenBack => {
                assert!(source.running == self.plan.running && !destination.running && !destination.has_run);
                self.truth.check_all(&source.ram, "source");
            }
        }
        assert!(!source.log.on, "the dirty log is left on: {}", self.describe());
    }

    fn describe(&self) -> String {
        format!(
            "step {}, source {:?} (runs: {}), destination {:?} (runs: {}), {} pages missing, {:?}",
            self.step,
            self.source.machine,
            self.source.running,
            self.destination.machine,
            self.destination.running,
            self.destination.tracker.missing(),
            self.plan,
        )
    }
}
