//! A process dies, or stands still for a while, at every phase. Who held the guest decides what is
//! left.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use whimbrel_postcopy::wire::tag;

use super::case::Mode;
use super::journey::{Journey, Sight, Stand};
use super::{finish, report};
use crate::support::faulty_link::{At, Channel, Direction, Fault, GREETING, Place, Plan};
use crate::support::{Machine, host};

/// How a moment is brought about.
#[derive(Clone, Copy, Debug)]
enum Reach {
    /// The link stands still at this message.
    Held(Channel, Direction, u16, At),
    /// The same, of the link that joins both sides again.
    Recovering(Channel, Direction, u16),
    /// The link was cut after the hand-over.
    Halves,
    /// It is over.
    Completed,
}

/// What is at the destination when the source dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum There {
    /// The guest goes with its host; the destination ends and says why.
    Nothing,
    /// It goes on with what has arrived, and waits for the rest.
    Half,
    /// All of it.
    Whole,
}

/// What is at the source when the destination dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Here {
    /// The guest.
    Runs,
    /// Its pages, and the word that it was handed over.
    Kept,
    /// It knows that it is elsewhere: nothing is to be done.
    Done,
}

/// One phase.
#[derive(Clone, Copy, Debug)]
struct Moment {
    mode: Mode,
    reach: Reach,
    there: There,
    here: Here,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = self.mode;
        match self.reach {
            Reach::Held(_, direction, GREETING, at) => write!(f, "{mode:?}, {at:?} of the greeting {direction:?}"),
            Reach::Held(channel, _, tag, at) => write!(f, "{mode:?}, {at:?} of {channel:?} {}", tag::name(tag)),
            Reach::Recovering(_, direction, GREETING) => write!(f, "{mode:?}, rejoining, greeting {direction:?}"),
            Reach::Recovering(_, _, tag) => write!(f, "{mode:?}, rejoining, {}", tag::name(tag)),
            other => write!(f, "{mode:?}, {other:?}"),
        }
    }
}

fn moments() -> Vec<Moment> {
    use Direction::{Back, Forth};
    let control = Channel::Control;
    let mut moments = Vec::new();
    for mode in Mode::ALL {
        let mut add = |reach, there, here| moments.push(Moment { mode, reach, there, here });
        let held = |direction, tag, at| Reach::Held(control, direction, tag, at);
        let postcopy = mode != Mode::Precopy;
        let after = if postcopy { There::Half } else { There::Whole };

        add(held(Back, GREETING, At::Begin), There::Nothing, Here::Runs);
        add(held(Forth, tag::CONFIGURATION, At::Inside), There::Nothing, Here::Runs);
        add(held(Back, tag::ACCEPTED, At::Begin), There::Nothing, Here::Runs);
        if mode != Mode::AtOnce {
            add(Reach::Held(Channel::Multifd(1), Forth, tag::PAGES, At::Inside), There::Nothing, Here::Runs);
            add(held(Back, tag::BARRIER_ACK, At::Begin), There::Nothing, Here::Runs);
        }
        if postcopy {
            add(held(Back, tag::LISTENING, At::Begin), There::Nothing, Here::Runs);
        }
        add(held(Forth, tag::STATE, At::Inside), There::Nothing, Here::Runs);
        add(held(Back, tag::READY, At::Begin), There::Nothing, Here::Runs);
        add(held(Forth, tag::HAND_OVER, At::Begin), There::Nothing, Here::Kept);
        add(held(Back, tag::RUNNING, At::Begin), after, Here::Kept);
        if mode == Mode::AtOnce {
            add(held(Forth, tag::PAGES, At::Inside), There::Half, Here::Kept);
        }
        add(held(Back, tag::ALL_RECEIVED, At::Begin), There::Whole, Here::Kept);
        if postcopy {
            add(Reach::Halves, There::Half, Here::Kept);
            add(Reach::Recovering(control, Back, GREETING), There::Half, Here::Kept);
            add(Reach::Recovering(control, Back, tag::RECEIVED), There::Half, Here::Kept);
            add(Reach::Recovering(control, Back, tag::RECEIVED_END), There::Half, Here::Kept);
            add(Reach::Recovering(control, Forth, tag::PAGES), There::Half, Here::Kept);
        }
        add(Reach::Completed, There::Whole, Here::Done);
    }
    moments
}

/// Who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Source,
    Destination,
}

/// And how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    Kill,
    /// Stopped, and continued after a while: nobody needs to notice.
    Stop,
    /// Stopped, then killed.
    StopAndKill,
}

/// For so long a stopped process is left alone.
const STOPPED: Duration = Duration::from_millis(150);

/// A guest whose migration stands at the moment.
fn reach(moment: &Moment) -> Journey {
    let machine = Machine::new("32M");
    let source = machine.boot_and_begin("ws=16M order=rand write=50 zero=20");
    let stall = |channel, direction, tag, at| {
        let place = Place::Message { tag, nth: 1, at };
        Some(Plan { channel, direction, place, fault: Fault::Stall })
    };
    let (first, second) = match moment.reach {
        Reach::Held(channel, direction, tag, at) => (stall(channel, direction, tag, at), None),
        Reach::Recovering(channel, direction, tag) => (None, stall(channel, direction, tag, At::Begin)),
        Reach::Halves | Reach::Completed => (None, None),
    };
    let mut journey = Journey::prepare(machine, source, first);
    let is_slow = matches!(moment.reach, Reach::Halves | Reach::Recovering(..));
    // Without a page of its own the last word would find the guest whole; after a precopy it is,
    // and a slow one might never end.
    let waits = moment.mode != Mode::Precopy && matches!(moment.reach, Reach::Held(_, _, tag::RUNNING, _));
    if is_slow || waits {
        journey.source.set(json!({"max-bandwidth": 40 << 20, "max-postcopy-bandwidth": 1 << 20}));
    }
    journey.begin(moment.mode, matches!(moment.reach, Reach::Held(Channel::Multifd(_), ..)));
    if is_slow {
        journey.await_postcopy();
        journey.link.cut();
        assert_eq!(journey.settle(true), Stand::Halves);
    }
    match moment.reach {
        Reach::Held(..) => journey.await_strike(),
        Reach::Recovering(..) => {
            assert!(journey.join(second));
            journey.await_strike();
        }
        Reach::Completed => assert_eq!(journey.settle(true), Stand::Destination),
        Reach::Halves => {}
    }
    journey
}

/// The outcome, for the table.
fn run(moment: &Moment, victim: Victim, blow: Blow) -> &'static str {
    let mut journey = reach(moment);
    let dying = if victim == Victim::Source { &mut journey.source } else { &mut journey.destination };
    match blow {
        Blow::Kill => dying.kill(),
        Blow::StopAndKill => {
            dying.signal(Signal::SIGSTOP);
            dying.kill();
        }
        Blow::Stop => {
            dying.signal(Signal::SIGSTOP);
            journey.link.release();
            journey.hears(STOPPED);
            let dying = if victim == Victim::Source { &journey.source } else { &journey.destination };
            dying.signal(Signal::SIGCONT);
            return goes_on(journey, moment);
        }
    }
    // Its host closes its connections; what stood still on the link is lost.
    journey.link.cut();
    match victim {
        Victim::Source => without_source(journey, moment.there),
        Victim::Destination => without_destination(journey, moment.here),
    }
}

/// Nobody has noticed: the migration goes on to its end.
fn goes_on(mut journey: Journey, moment: &Moment) -> &'static str {
    journey.source.set(json!({"max-postcopy-bandwidth": 0}));
    if matches!(moment.reach, Reach::Halves) {
        assert!(journey.join(None));
    }
    let stand = journey.settle(true);
    assert_eq!(journey.end(stand), Stand::Destination);
    "Destination"
}

fn without_source(mut journey: Journey, there: There) -> &'static str {
    let destination = &mut journey.destination;
    match there {
        There::Nothing => {
            if destination.qmp.try_execute("query-status", json!({})).is_some() && !destination.ends_within(STOPPED * 4)
            {
                // It has not yet seen enough of a source to call it its own, and waits for another.
                assert_eq!(destination.qmp.status(), "inmigrate");
                return "lost with its host, the destination waits";
            }
            assert_eq!(destination.wait(), 1);
            let log = destination.log();
            assert!(log.lines().last().is_some_and(|line| line.contains("source")), "{log}");
            "lost with its host"
        }
        There::Half => {
            journey.until(|_, there| there.migration == "postcopy-paused");
            let destination = &mut journey.destination;
            let sight = Sight::of(destination);
            assert!(sight.error.as_ref().is_some_and(|why| why.contains("source")), "{sight:?}");
            assert_eq!(sight.run, "running");
            "half lost with its host"
        }
        There::Whole => {
            journey.until(|_, there| there.migration == "completed");
            let destination = &mut journey.destination;
            assert_eq!(destination.qmp.status(), "running");
            destination.guest.assert_whole();
            destination.guest.await_visits(3);
            assert_eq!(destination.end_guest(), 0);
            "Destination"
        }
    }
}

fn without_destination(mut journey: Journey, here: Here) -> &'static str {
    match here {
        Here::Runs => {
            assert_eq!(journey.settle(true), Stand::Source);
            journey.replace_destination();
            assert_eq!(journey.end(Stand::Source), Stand::Source);
            "Source"
        }
        Here::Kept => {
            journey.until(|here, _| here.migration == "postcopy-paused");
            let source = &mut journey.source;
            let sight = Sight::of(source);
            assert!(sight.error.as_ref().is_some_and(|why| why.contains("destination")), "{sight:?}");
            assert_ne!(sight.run, "running");
            for command in ["cont", "migrate_cancel"] {
                assert!(source.qmp.refused(command, json!({})).len() > 10);
            }
            assert_eq!(source.quit(), 0);
            "lost with its host, the source keeps its pages"
        }
        Here::Done => {
            assert_eq!(journey.source.qmp.status(), "postmigrate");
            journey.source.qmp.refused("cont", json!({}));
            assert_eq!(journey.source.quit(), 0);
            "lost with its host after the move"
        }
    }
}

fn run_all(choose: impl Fn(usize, Victim, Blow) -> bool) {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let mut failed = Vec::new();
    for (number, moment) in moments().iter().enumerate() {
        for victim in [Victim::Source, Victim::Destination] {
            for blow in [Blow::Kill, Blow::Stop, Blow::StopAndKill] {
                if !choose(number, victim, blow) {
                    continue;
                }
                let name = format!("{blow:?} of the {victim:?} at {moment}");
                match catch_unwind(AssertUnwindSafe(|| run(moment, victim, blow))) {
                    Ok(outcome) => report("kill", outcome, &name),
                    Err(_) => {
                        report("kill", "FAILED", &name);
                        failed.push(name);
                    }
                }
            }
        }
    }
    finish(&failed);
}

// The short form: every phase is met by one of these.
#[test]
fn the_source_dies() {
    run_all(|number, victim, blow| (victim, blow) == (Victim::Source, Blow::Kill) && number % 3 == 0);
}

#[test]
fn the_destination_dies() {
    run_all(|number, victim, blow| (victim, blow) == (Victim::Destination, Blow::Kill) && number % 3 == 1);
}

#[test]
fn either_stands_still_for_a_while() {
    run_all(|number, victim, blow| {
        blow == Blow::Stop && (victim == Victim::Source) == (number % 4 == 0) && number % 2 == 0
    });
}

#[test]
#[ignore = "the long form: scripts/torture kills"]
fn the_source_long() {
    run_all(|_, victim, _| victim == Victim::Source);
}

#[test]
#[ignore = "the long form: scripts/torture kills"]
fn the_destination_long() {
    run_all(|_, victim, _| victim == Victim::Destination);
}
