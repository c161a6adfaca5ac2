//! Every state with every reply and every event: what follows is written down, and the one-way door
//! stays shut.

use super::super::auto_converge::{AutoConverge, DirtyLimit, Window};
use super::*;
use crate::channel::ChannelError;
use crate::guest::paused_for_test;
use crate::ram::{PAGE_SIZE, PageRun};
use crate::wire::Fragment;

const STATES: [&str; 21] = [
    "Describing",
    "AwaitListening",
    "Sharing",
    "Precopy",
    "EndOfPass",
    "Deciding",
    "Dropping",
    "AwaitDropped",
    "Pausing",
    "PreSwitchover",
    "Saving",
    "FinalSync",
    "AwaitReady",
    "AwaitRunning by precopy",
    "AwaitRunning by postcopy",
    "Pushing",
    "AwaitAllReceived",
    "Recovering",
    "Recovering in doubt",
    "LinkLost",
    "LinkLost in doubt",
];
/// How many of [`STATES`] are on the near side of the door.
const BEFORE_THE_DOOR: usize = 13;

fn pass() -> Pass {
    let at = (BlockId(0), PageIndex(0));
    Pass { number: 1, begin_pages: 100, begun: Duration::ZERO, sent: 0, moved: 0, at, cleared_to: PageIndex(0) }
}

fn drops() -> Drops {
    Drops { round: 1, told: 0, fresh: u64::MAX }
}

fn link_broken() -> MigrationError {
    MigrationError::Link { peer: "destination", source: ChannelError::Closed(None) }
}

fn state(name: &str) -> State {
    let door = || paused_for_test(true);
    let through = || door().hand_over();
    let departed = || through().departed();
    match name {
        "Describing" => State::Describing,
        "AwaitListening" => State::AwaitListening,
        "Sharing" => State::Sharing,
        "Precopy" => State::Precopy(pass()),
        "EndOfPass" => State::EndOfPass(pass()),
        "Deciding" => State::Deciding(pass()),
        "Dropping" => State::Dropping(drops()),
        "AwaitDropped" => State::AwaitDropped(drops()),
        "Pausing" => State::Pausing(SwitchoverMode::Postcopy),
        "PreSwitchover" => State::PreSwitchover(SwitchoverMode::Precopy, door()),
        "Saving" => State::Saving(SwitchoverMode::Precopy, door()),
        "FinalSync" => State::FinalSync(SwitchoverMode::Postcopy, door()),
        "AwaitReady" => State::AwaitReady(SwitchoverMode::Precopy, door()),
        "AwaitRunning by precopy" => State::AwaitRunning(SwitchoverMode::Precopy, through()),
        "AwaitRunning by postcopy" => State::AwaitRunning(SwitchoverMode::Postcopy, through()),
        "Pushing" => State::Pushing(Scheduler::new(), departed()),
        "AwaitAllReceived" => State::AwaitAllReceived(SwitchoverMode::Postcopy, departed()),
        "Recovering" => State::Recovering(SwitchoverMode::Postcopy, AfterHandover::There(departed())),
        "Recovering in doubt" => State::Recovering(SwitchoverMode::Postcopy, AfterHandover::Doubt(through())),
        "LinkLost" => State::LinkLost(
            SwitchoverMode::Postcopy,
            AfterHandover::There(departed()),
            link_broken(),
            NextLink::Awaited,
        ),
        "LinkLost in doubt" => {
            State::LinkLost(SwitchoverMode::Postcopy, AfterHandover::Doubt(through()), link_broken(), NextLink::Awaited)
        }
        other => panic!("no state {other}"),
    }
}

/// A source in this state, with nothing queued.
fn source(name: &str) -> Source {
    let pending = Arc::new(RamBitmap::with_pages([100]));
    let mut source = Source::new(
        Vec::new(),
        Features::POSTCOPY,
        Limits::default(),
        pending,
        Arc::default(),
        MultifdThresholds::default(),
    );
    source.queue.clear();
    source.state = state(name);
    source
}

/// The state's name, and what ended it.
fn describe(source: &Source) -> String {
    let error = |error: &MigrationError| match error {
        MigrationError::OutOfOrder(name) => format!("'{name}' refused"),
        MigrationError::NotStarted(_) => "not started".into(),
        MigrationError::NoSuchPages(_) => "no such pages".into(),
        MigrationError::Link { .. } => "link broken".into(),
        other => other.to_string(),
    };
    match &source.state {
        State::Describing => "Describing".into(),
        State::AwaitListening => "AwaitListening".into(),
        State::Sharing => "Sharing".into(),
        State::Precopy(_) => "Precopy".into(),
        State::EndOfPass(_) => "EndOfPass".into(),
        State::Deciding(_) => "Deciding".into(),
        State::Dropping(_) => "Dropping".into(),
        State::AwaitDropped(_) => "AwaitDropped".into(),
        State::Pausing(_) => "Pausing".into(),
        State::PreSwitchover(..) => "PreSwitchover".into(),
        State::Saving(..) => "Saving".into(),
        State::FinalSync(..) => "FinalSync".into(),
        State::AwaitReady(..) => "AwaitReady".into(),
        State::AwaitRunning(SwitchoverMode::Precopy, _) => "AwaitRunning by precopy".into(),
        State::AwaitRunning(SwitchoverMode::Postcopy, _) => "AwaitRunning by postcopy".into(),
        State::Pushing(..) => "Pushing".into(),
        State::AwaitAllReceived(..) => "AwaitAllReceived".into(),
        State::Recovering(_, AfterHandover::There(_)) => "Recovering".into(),
        State::Recovering(_, AfterHandover::Doubt(_)) => "Recovering in doubt".into(),
        State::LinkLost(_, AfterHandover::There(_), why, _) => format!("LinkLost: {}", error(why)),
        State::LinkLost(_, AfterHandover::Doubt(_), why, _) => format!("LinkLost in doubt: {}", error(why)),
        State::Ended(Outcome::Completed) => "Completed".into(),
        State::Ended(Outcome::Cancelled) => "Cancelled".into(),
        State::Ended(Outcome::Failed(why)) => format!("Failed: {}", error(why)),
        State::Stepping => panic!("a step left no state behind"),
    }
}

fn replies() -> [Reply; 11] {
    [
        Reply::Accepted,
        Reply::Listening,
        Reply::Ready,
        Reply::Running,
        Reply::NotStarted("no".into()),
        Reply::AllReceived,
        Reply::Received(Fragment { block: BlockId(0), first_word: 0, words: vec![1] }),
        Reply::ReceivedEnd,
        Reply::BarrierAck(SHARED),
        Reply::BarrierAck(1),
        Reply::BarrierAck(2),
    ]
}

/// What a broken link makes of a state behind the door.
fn lost(state: &str) -> &'static str {
    if state.contains("in doubt") || state.starts_with("AwaitRunning") { "LinkLost in doubt" } else { "LinkLost" }
}

/// The pairs that are allowed; every other reply is refused by name.
fn allowed(state: &str, reply: &Reply) -> Option<&'static str> {
    Some(match (state, reply) {
        ("Describing", Reply::Accepted) => "Precopy",
        ("EndOfPass", Reply::BarrierAck(1)) => "Deciding",
        ("AwaitDropped", Reply::BarrierAck(1)) => "Dropping", // drops() has many fresh pages
        ("AwaitListening", Reply::Listening) => "Pausing",
        ("Sharing", Reply::BarrierAck(SHARED)) => "Pausing",
        ("AwaitReady", Reply::Listening | Reply::Ready) => "AwaitReady",
        ("AwaitRunning by precopy", Reply::Running) => "AwaitAllReceived",
        ("AwaitRunning by postcopy", Reply::Running) => "Pushing",
        ("AwaitRunning by precopy" | "AwaitRunning by postcopy", Reply::NotStarted(_)) => "Failed: not started",
        ("Recovering in doubt", Reply::NotStarted(_)) => "Failed: not started",
        ("Recovering in doubt", Reply::Received(_)) => "Recovering in doubt",
        ("Recovering in doubt", Reply::ReceivedEnd) => "Pushing",
        ("AwaitAllReceived", Reply::AllReceived) => "Completed",
        ("Recovering", Reply::Received(_)) => "Recovering",
        ("Recovering", Reply::ReceivedEnd) => "Pushing",
        // Nothing is heard on a link that is gone.
        ("LinkLost", _) => "LinkLost: link broken",
        ("LinkLost in doubt", _) => "LinkLost in doubt: link broken",
        _ => return None,
    })
}

#[test]
fn every_reply_in_every_state() {
    for (at, name) in STATES.into_iter().enumerate() {
        for reply in replies() {
            let mut source = source(name);
            let refusal = match &reply {
                Reply::NotStarted(_) => "not started".to_owned(),
                other => format!("'{}' refused", crate::wire::tag::name(other.tag())),
            };
            let refused =
                if at < BEFORE_THE_DOOR { format!("Failed: {refusal}") } else { format!("{}: {refusal}", lost(name)) };
            let expected = allowed(name, &reply).map_or(refused, str::to_owned);
            source.reply(reply.clone(), Duration::ZERO);
            assert_eq!(describe(&source), expected, "{name} with {reply:?}");
        }
    }
}

#[test]
fn every_event_in_every_state() {
    for (at, name) in STATES.into_iter().enumerate() {
        let before = at < BEFORE_THE_DOOR;
        let mut cancelled = source(name);
        cancelled.cancel();
        let same = describe(&source(name));
        assert_eq!(describe(&cancelled), if before { "Cancelled".into() } else { same.clone() }, "{name} cancelled");

        let mut failed = source(name);
        failed.fail(link_broken());
        let lost = if before { "Failed" } else { lost(name) };
        assert_eq!(describe(&failed), format!("{lost}: link broken"), "{name} with a broken link");
        assert_eq!(failed.is_in_doubt(), lost == "LinkLost in doubt", "{name}");

        let mut recovered = source(name);
        assert_eq!(recovered.recover(), name.starts_with("LinkLost"));
        assert_eq!(
            describe(&recovered),
            match name {
                "LinkLost" => "Recovering".into(),
                "LinkLost in doubt" => "Recovering in doubt".into(),
                _ => same.clone(),
            }
        );

        for ended in [Outcome::Completed, Outcome::Cancelled, Outcome::Failed(MigrationError::PausedByUser)] {
            let mut source = source(name);
            source.state = State::Ended(ended);
            let end = describe(&source);
            replies().into_iter().for_each(|reply| source.reply(reply, Duration::ZERO));
            source.cancel();
            source.fail(link_broken());
            source.synced(Duration::ZERO);
            assert!(!source.recover());
            assert_eq!((describe(&source), source.next(Duration::ZERO)), (end, Action::End));
        }
    }
}

/// A source that hands RAM over, or lets go of it, as `limits` say.
fn with(limits: Limits, destination: Features, name: &str) -> Source {
    let pending = Arc::new(RamBitmap::with_pages([100]));
    let released = Arc::new(Released::new(&[crate::memory::AnonymousRam::block("ram", 100).unwrap()]));
    let source = Source::new(Vec::new(), destination, limits, pending, Arc::default(), MultifdThresholds::default());
    let mut source = if limits.release { source.releasing(released) } else { source };
    source.queue.clear();
    source.state = state(name);
    source
}

#[test]
fn ram_that_is_handed_over_leaves_nothing_to_send_or_to_log() {
    let limits = Limits { ignore_shared: true, ..Limits::default() };
    let mut source = with(limits, Features::POSTCOPY.and(Features::SHARED_RAM), "Describing");
    source.reply(Reply::Accepted, Duration::ZERO);
    let told = Action::Send(Forward::Barrier(SHARED));
    assert_eq!(actions(&mut source), [Action::ShareRam, told, Action::Wait(None)]);
    assert_eq!((source.pending.count(), source.status()), (0, Status::Active));
    source.start_postcopy().unwrap();
    source.reply(Reply::BarrierAck(SHARED), Duration::ZERO);
    assert_eq!(actions(&mut source), [Action::Pause]);
    source.paused(paused_for_test(true));
    assert_eq!(actions(&mut source), [Action::Save]);
    source.saved(Vec::new());
    assert_eq!(actions(&mut source), [Action::Send(Forward::State(Vec::new())), Action::Wait(None)]);
    source.reply(Reply::Ready, Duration::ZERO);
    source.try_hand_over(true);
    source.queue.clear();
    source.reply(Reply::Running, Duration::ZERO);
    source.reply(Reply::AllReceived, Duration::ZERO);
    assert_eq!(actions(&mut source), [Action::HandedOver, Action::Send(Forward::Goodbye)]);
    assert!(source.leaves_ram());
    assert_eq!(describe(&source), "Completed");
}

#[test]
fn a_destination_that_cannot_do_it_is_refused_before_the_guest_stands_still() {
    let handed = Limits { ignore_shared: true, ..Limits::default() };
    let released = Limits { release: true, ..Limits::default() };
    for (limits, why) in [(handed, "must be shared memory"), (released, "does not tell which pages it has")] {
        let mut source = with(limits, Features::POSTCOPY, "Describing");
        source.reply(Reply::Accepted, Duration::ZERO);
        assert!(describe(&source).contains(why), "{}", describe(&source));
        assert!(!actions(&mut source).iter().any(|action| matches!(action, Action::Pause | Action::ShareRam)));
    }
}

#[test]
fn the_background_waits_while_the_destination_tells_what_it_has() {
    let limits = Limits { release: true, ..Limits::default() };
    let mut source = with(limits, Features::POSTCOPY.and(Features::RELEASE), "Pushing");
    let has = Fragment { block: BlockId(0), first_word: 0, words: vec![0xff] };
    assert_eq!(source.next(Duration::ZERO), Action::Send(Forward::Barrier(1)));
    assert_eq!(source.next(Duration::ZERO), Action::Wait(None));
    source.reply(Reply::Received(has.clone()), Duration::ZERO);
    assert_eq!(source.pending.count(), 92);
    assert_eq!(source.next(Duration::ZERO), Action::Release(has.clone()));
    assert_eq!(source.next(Duration::ZERO), Action::Wait(None));
    source.reply(Reply::BarrierAck(1), Duration::ZERO);
    assert!(matches!(source.next(Duration::ZERO), Action::SendRun(run) if run.start == PageIndex(8)));
    // Unasked it has nothing to tell.
    source.reply(Reply::Received(has), Duration::ZERO);
    assert_eq!(describe(&source), "LinkLost: 'received' refused");
}

#[test]
fn pages_that_are_gone_are_never_sent_as_if_they_were_here() {
    let limits = Limits { release: true, ..Limits::default() };
    let mut source = with(limits, Features::POSTCOPY.and(Features::RELEASE), "Pushing");
    let ram = [crate::memory::AnonymousRam::block("ram", 100).unwrap()];
    let released = Arc::new(Released::new(&ram));
    source = source.releasing(released.clone());
    let has = |bits| Fragment { block: BlockId(0), first_word: 0, words: vec![bits] };
    super::super::release::Releaser::new(released).release(&ram, &has(0b110));
    source.fail(link_broken());
    assert!(source.recover());
    // It says no more of one of them.
    source.reply(Reply::Received(has(0b010)), Duration::ZERO);
    source.reply(Reply::ReceivedEnd, Duration::ZERO);
    assert!(describe(&source).starts_with("LinkLost: the destination no longer has 1 pages"), "{}", describe(&source));
    assert!(source.recover());
    source.reply(Reply::Received(has(0b110)), Duration::ZERO);
    source.reply(Reply::ReceivedEnd, Duration::ZERO);
    assert_eq!(describe(&source), "Pushing");
}

/// Everything queued, up to the first wait or page.
fn actions(source: &mut Source) -> Vec<Action> {
    std::iter::from_fn(|| source.queue.pop_front()).collect()
}

#[test]
fn a_guest_that_stood_still_runs_again_wherever_the_migration_ends_before_the_door() {
    for (at, name) in STATES.into_iter().enumerate() {
        for cancel in [true, false] {
            let mut source = source(name);
            if cancel {
                source.cancel()
            } else {
                source.fail(link_broken())
            }
            let resumes = actions(&mut source).iter().filter(|action| matches!(action, Action::Resume(_))).count();
            let stood_still = matches!(name, "PreSwitchover" | "Saving" | "FinalSync" | "AwaitReady");
            assert_eq!(resumes, usize::from(stood_still && at < BEFORE_THE_DOOR), "{name}");
        }
    }
}

type Event = Box<dyn Fn(&mut Source)>;

/// What may happen to a source from outside.
fn events() -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for reply in replies() {
        events.push(Box::new(move |source| source.reply(reply.clone(), Duration::ZERO)));
    }
    events.push(Box::new(Source::cancel));
    events.push(Box::new(|source| source.fail(link_broken())));
    events.push(Box::new(|source| source.fail(MigrationError::NoPostcopy)));
    events.push(Box::new(|source| {
        source.recover();
    }));
    events.push(Box::new(|source| source.try_hand_over(true)));
    events.push(Box::new(|source| source.try_hand_over(false)));
    events.push(Box::new(|source| source.synced(Duration::ZERO)));
    events.push(Box::new(|source| drop(source.start_postcopy())));
    events.push(Box::new(|source| _ = source.go_on()));
    events
}

#[test]
fn after_the_door_nothing_resumes_the_guest_but_a_destination_that_did_not_start_it() {
    let events = events();
    let not_started = replies().iter().position(|reply| matches!(reply, Reply::NotStarted(_))).unwrap();
    let mut returned = 0;
    for name in &STATES[BEFORE_THE_DOOR..] {
        for sequence in 0..events.len().pow(3) {
            let mut source = source(name);
            let mut rest = sequence;
            for _ in 0..3 {
                let event = rest % events.len();
                rest /= events.len();
                let may_return = event == not_started
                    && matches!(source.state, State::AwaitRunning(..) | State::Recovering(_, AfterHandover::Doubt(_)));
                events[event](&mut source);
                let resumes = actions(&mut source).iter().any(|action| matches!(action, Action::Resume(_)));
                assert_eq!(resumes, may_return, "{name}, events {sequence}");
                returned += u64::from(resumes);
            }
        }
    }
    assert!(returned > 0);
}

#[test]
fn the_hand_over_needs_a_ready_destination_and_nobody_who_cancelled() {
    for name in STATES {
        for allowed in [true, false] {
            let mut source = source(name);
            source.try_hand_over(allowed);
            let sent =
                actions(&mut source).into_iter().any(|action| matches!(action, Action::Send(Forward::HandOver { .. })));
            assert_eq!(sent, allowed && name == "AwaitReady", "{name}");
        }
    }
}

#[test]
fn without_postcopy_at_the_destination_nobody_is_switched_to_it() {
    let mut asked = source("Precopy");
    asked.destination = Features::default();
    assert!(matches!(asked.start_postcopy(), Err(MigrationError::NoPostcopy)));
    let mut told = source("Describing");
    told.destination = Features::default();
    told.limits.policy = Policy::AfterPasses(1);
    told.reply(Reply::Accepted, Duration::ZERO);
    assert!(matches!(told.state, State::Ended(Outcome::Failed(MigrationError::NoPostcopy))));
    assert!(matches!(actions(&mut told)[..], [Action::Send(Forward::Cancel(_))]));
}

/// The monitor refuses that with a sentence; where it comes between, the precopy goes on.
#[test]
fn a_policy_that_comes_after_the_destination_said_that_it_cannot_changes_nothing() {
    for policy in [Policy::AfterPasses(1), Policy::Stalled, Policy::After(Duration::ZERO)] {
        let mut source = source("Precopy");
        source.destination = Features::default();
        source.set_limits(Limits { policy, ..Limits::default() });
        assert!(matches!(source.next(Duration::from_secs(9)), Action::ClearLog(_)), "{policy:?}");
        let mut told = self::source("Describing");
        told.destination = Features::default();
        told.set_limits(Limits { policy, ..Limits::default() });
        told.reply(Reply::Accepted, Duration::ZERO);
        assert!(matches!(told.state, State::Ended(Outcome::Failed(MigrationError::NoPostcopy))), "{policy:?}");
    }
}

#[test]
fn a_pass_is_cut_short_when_the_time_for_postcopy_has_come() {
    let time = Duration::from_secs(3);
    let mut source = source("Precopy");
    source.logging = true;
    source.limits.policy = Policy::After(time);
    assert!(matches!(source.next(time - Duration::from_millis(1)), Action::ClearLog(_)));
    assert_eq!(source.next(time), Action::Sync);
    assert_eq!(describe(&source), "Dropping");
    let mut late = self::source("Describing");
    late.limits.policy = Policy::After(time);
    late.reply(Reply::Accepted, time);
    assert_eq!(describe(&late), "AwaitListening", "connecting took as long");
}

#[test]
fn a_bitmap_of_pages_outside_ram_is_refused() {
    let mut source = source("Recovering");
    let outside = Fragment { block: BlockId(0), first_word: 1, words: vec![1 << 60] };
    source.reply(Reply::Received(outside), Duration::ZERO);
    assert_eq!(describe(&source), "LinkLost: no such pages");
}

#[test]
fn at_once_means_that_no_pass_runs_and_nothing_is_dropped() {
    let mut source = source("Describing");
    source.limits.policy = Policy::AfterPasses(0);
    source.reply(Reply::Accepted, Duration::ZERO);
    assert_eq!(actions(&mut source), [Action::Send(Forward::Listen), Action::Wait(None)]);
    source.reply(Reply::Listening, Duration::ZERO);
    assert_eq!(actions(&mut source), [Action::Pause]);
    source.paused(paused_for_test(true));
    assert_eq!(actions(&mut source), [Action::Save]);
    source.saved(Vec::new());
    let expected = [Action::ServeDemand, Action::Send(Forward::State(Vec::new())), Action::Wait(None)];
    assert_eq!(actions(&mut source), expected);
}

#[test]
fn a_switchover_that_is_held_goes_on_when_told_to_and_only_then() {
    for name in STATES {
        let mut source = source(name);
        let same = describe(&source);
        assert_eq!(source.go_on(), name == "PreSwitchover", "{name}");
        assert_eq!(describe(&source), if name == "PreSwitchover" { "Saving" } else { &same });
    }
    for (way, hold) in [SwitchoverMode::Precopy, SwitchoverMode::Postcopy].into_iter().zip([true, false]) {
        let mut source = source("Pausing");
        (source.state, source.limits.hold) = (State::Pausing(way), hold);
        source.paused(paused_for_test(true));
        assert_eq!(source.status(), if hold { Status::PreSwitchover } else { Status::Device });
        assert_eq!(source.next(Duration::ZERO), if hold { Action::Wait(None) } else { Action::Save });
        assert_eq!(source.go_on(), hold);
    }
}

#[test]
fn a_precopy_that_is_held_can_still_become_a_postcopy() {
    for wanted in [false, true] {
        let mut source = source("PreSwitchover");
        source.logging = true;
        if wanted {
            source.start_postcopy().unwrap();
        }
        assert!(source.go_on());
        assert_eq!(actions(&mut source), [Action::Save]);
        source.saved(Vec::new());
        assert_eq!(source.queue.pop_front(), Some(Action::Sync));
        source.synced(Duration::ZERO);
        let listening = actions(&mut source).contains(&Action::Send(Forward::Listen));
        assert_eq!(listening, wanted);
    }
}

#[test]
fn the_log_is_armed_before_the_pages_are_read() {
    let mut source = source("Precopy");
    let stretch = PageRun { block: BlockId(0), start: PageIndex(0), count: 100 };
    assert_eq!(source.next(Duration::ZERO), Action::ClearLog(stretch));
    assert_eq!(source.pending.count(), 100, "what is re-armed is told by the bits that are still set");
    assert_eq!(source.next(Duration::ZERO), Action::SendRun(stretch));
    assert_eq!(source.pending.count(), 0);
}

#[test]
fn whoever_is_told_that_the_guest_never_ran_says_that_it_keeps_it() {
    for name in ["AwaitReady", "AwaitRunning by precopy", "AwaitRunning by postcopy", "Recovering in doubt"] {
        let mut source = source(name);
        source.reply(Reply::NotStarted("no disk".into()), Duration::ZERO);
        let actions = actions(&mut source);
        let expected = Forward::Cancel("no disk".into());
        assert!(
            matches!(&actions[..], [Action::Send(said), Action::Resume(_)] if *said == expected),
            "{name}: {actions:?}"
        );
    }
}

/// After a precopy the destination has every page or never had the guest.
#[test]
fn a_precopy_that_is_joined_again_is_completed_or_says_what_is_missing() {
    let joined = |received: u64| {
        let mut source = source("LinkLost in doubt");
        source.state = State::LinkLost(
            SwitchoverMode::Precopy,
            AfterHandover::Doubt(paused_for_test(true).hand_over()),
            link_broken(),
            NextLink::Awaited,
        );
        assert!(source.recover());
        let words = vec![u64::MAX, received];
        source.reply(Reply::Received(Fragment { block: BlockId(0), first_word: 0, words }), Duration::ZERO);
        source.reply(Reply::ReceivedEnd, Duration::ZERO);
        source
    };
    let mut whole = joined((1 << 36) - 1);
    assert_eq!(actions(&mut whole), [Action::Send(Forward::Complete), Action::Wait(None)]);
    whole.reply(Reply::AllReceived, Duration::ZERO);
    assert_eq!(actions(&mut whole), [Action::HandedOver, Action::Send(Forward::Goodbye)]);
    let lacking = joined((1 << 35) - 1);
    assert!(matches!(lacking.lost_because(), Some(MigrationError::PagesMissing(1))), "{lacking:?}");
}

/// With a throttle decided on.
fn slowed(name: &str) -> Source {
    let mut source = source(name);
    let converge = AutoConverge { threshold: 50, initial: 70, increment: 10, tailslow: false, most: 99 };
    source.limits.throttling = ThrottlePolicy::AutoConverge(converge);
    for _ in 0..2 {
        let seen = Window { dirtied: 100, sent: 100, elapsed: Duration::from_secs(1) };
        source.slowdown.seen(seen, &source.limits.throttling);
    }
    source
}

#[test]
fn a_guest_is_throttled_only_while_it_is_at_work_here() {
    for name in STATES {
        let mut source = slowed(name);
        let at_work = ["Precopy", "EndOfPass", "Deciding", "Dropping", "AwaitDropped", "Pausing"].contains(&name);
        assert_eq!(!source.throttle().is_none(), at_work, "{name}");
        assert_eq!(source.throttling().is_some(), at_work, "{name}");
        source.fail(link_broken());
        assert!(source.throttle().is_none(), "{name}");
    }
    let mut cancelled = slowed("Precopy");
    cancelled.cancel();
    assert!(cancelled.throttle().is_none());
    let mut switched = slowed("Pausing");
    switched.paused(paused_for_test(true));
    assert!(switched.throttle().is_none());
}

#[test]
fn a_long_pass_is_measured_in_between_unless_it_is_the_first() {
    let ms = Duration::from_millis;
    for (number, measures) in [(1, false), (2, true)] {
        let mut source = source("Precopy");
        let limit = DirtyLimit { threshold: 10, rate: 4096, period: ms(250) };
        source.limits.throttling = ThrottlePolicy::DirtyLimit(limit);
        source.state = State::Precopy(Pass { number, ..pass() });
        source.pending.set_all();
        for now in [0, 249] {
            assert_ne!(source.next(ms(now)), Action::Measure);
        }
        source.sent(4096, ms(249));
        assert_eq!(source.next(ms(250)) == Action::Measure, measures);
        // Only with something sent in between: else nothing ever would be.
        if measures {
            source.measured(100, ms(250));
            assert_ne!(source.next(ms(900)), Action::Measure);
            assert_eq!(source.figures().dirty_rate, 400);
        }
    }
}

#[test]
fn the_end_of_a_pass_is_measured_where_that_is_wanted() {
    for (slowing, action) in [
        (ThrottlePolicy::Off, Action::Sync),
        (
            ThrottlePolicy::DirtyLimit(DirtyLimit { threshold: 10, rate: 1, period: Duration::from_secs(1) }),
            Action::Measure,
        ),
    ] {
        let mut source = source("EndOfPass");
        source.limits.throttling = slowing;
        source.reply(Reply::BarrierAck(1), Duration::from_secs(1));
        assert!(source.is_deciding());
        assert_eq!(source.next(Duration::from_secs(1)), action);
    }
}

#[test]
fn what_goes_behind_the_last_page_of_a_pass_counts_for_it() {
    let mut source = source("EndOfPass");
    source.pending.set_all();
    // As where a pass is compressed into less than what is sent at once.
    source.sent(1000, Duration::from_millis(500));
    source.moved(50 * PAGE_SIZE as u64);
    source.reply(Reply::BarrierAck(1), Duration::from_secs(1));
    source.synced(Duration::from_secs(1));
    assert_eq!(source.figures().expected_downtime, Some(Duration::from_secs(2)));
}
