//! Every state with every message: what follows is written down, everything else is refused by
//! name.

use super::*;
use crate::channel::ChannelError;
use crate::memory::AnonymousRam;
use crate::ram::{BlockId, PageIndex};

const STATES: [&str; 20] = [
    "Configuration",
    "Ram",
    "Precopy",
    "Adopted",
    "Listening",
    "Loading",
    "Loading listening",
    "Loaded",
    "Loaded listening",
    "Starting",
    "Running",
    "Running listening",
    "Finishing",
    "LinkLost",
    "Recovering",
    "Completed",
    "Completed, told",
    "NeverRan",
    "NeverRan, linked",
    "Failed",
];
/// From the first of these of [`STATES`] to the second the guest is the destination's.
const OWNED: std::ops::Range<usize> = 10..17;
const PAGES: u64 = 100;

fn link_broken() -> MigrationError {
    MigrationError::Link { peer: "source", source: ChannelError::Closed(None) }
}

fn state(name: &str) -> State {
    match name {
        "Configuration" => State::Configuration,
        "Ram" => State::Ram,
        "Precopy" => State::Precopy,
        "Adopted" => State::Adopted,
        "Listening" => State::Listening,
        "Loading" => State::Loading { listening: false },
        "Loading listening" => State::Loading { listening: true },
        "Loaded" => State::Loaded { listening: false },
        "Loaded listening" => State::Loaded { listening: true },
        "Starting" => State::Starting { listening: true },
        "Running" => State::Running { listening: false },
        "Running listening" => State::Running { listening: true },
        "Finishing" => State::Finishing,
        "LinkLost" => State::LinkLost { listening: true, error: link_broken() },
        "Recovering" => State::Recovering { listening: true },
        "Completed" => State::Completed { told: false, cleared: false },
        "Completed, told" => State::Completed { told: true, cleared: false },
        "NeverRan" => State::NeverRan { error: link_broken(), linked: false },
        "NeverRan, linked" => State::NeverRan { error: link_broken(), linked: true },
        "Failed" => State::Failed(link_broken()),
        other => panic!("no state {other}"),
    }
}

fn describe(destination: &Destination) -> &'static str {
    match &destination.state {
        State::Configuration => "Configuration",
        State::Ram => "Ram",
        State::Precopy => "Precopy",
        State::Adopted => "Adopted",
        State::Listening => "Listening",
        State::Loading { listening: false } => "Loading",
        State::Loading { listening: true } => "Loading listening",
        State::Loaded { listening: false } => "Loaded",
        State::Loaded { listening: true } => "Loaded listening",
        State::Starting { .. } => "Starting",
        State::Running { listening: false } => "Running",
        State::Running { listening: true } => "Running listening",
        State::Finishing => "Finishing",
        State::LinkLost { .. } => "LinkLost",
        State::Recovering { .. } => "Recovering",
        State::Completed { told: false, .. } => "Completed",
        State::Completed { told: true, .. } => "Completed, told",
        State::NeverRan { linked: false, .. } => "NeverRan",
        State::NeverRan { linked: true, .. } => "NeverRan, linked",
        State::Failed(_) => "Failed",
    }
}

fn ram() -> Vec<RamBlock> {
    vec![AnonymousRam::block("ram", PAGES).unwrap()]
}

fn run() -> PageRun {
    PageRun { block: BlockId(0), start: PageIndex(1), count: 2 }
}

fn everything() -> PageRun {
    PageRun { block: BlockId(0), start: PageIndex(0), count: PAGES as u32 }
}

/// A destination in this state; `whole`: every page is here.
fn destination(name: &str, whole: bool) -> Destination {
    let tracker = Arc::new(Tracker::new(&ram()));
    if whole {
        tracker.placed(everything());
    }
    Destination { state: state(name), tracker, spread: false }
}

fn stale() -> Fragment {
    Fragment { block: BlockId(0), first_word: 0, words: vec![1] }
}

fn messages() -> Vec<Forward> {
    let blocks = vec![BlockDescription { name: "ram".into(), guest_address: 0, pages: PAGES }];
    vec![
        Forward::Configuration(Vec::new()),
        Forward::Ram { page_size: PAGE_SIZE as u32, blocks },
        Forward::Description("{}".into()),
        Forward::PassBegin(1),
        Forward::PassEnd(1),
        Forward::Pages(run()),
        Forward::Zeros(vec![run()]),
        Forward::Discard(stale()),
        Forward::Listen,
        Forward::State(Vec::new()),
        Forward::HandOver { running: true },
        Forward::Complete,
        Forward::Cancel("why".into()),
        Forward::Barrier(4),
        Forward::MultifdStart,
        Forward::MultifdFlush,
        Forward::Goodbye,
        Forward::SharedRam(1),
    ]
}

/// The pairs that are allowed with every page here: the next state and the effect.
fn allowed(state: &'static str, message: &Forward) -> Option<(&'static str, Effect)> {
    Some(match (state, message) {
        ("Configuration", Forward::Configuration(_)) => (state, Effect::Check(Vec::new())),
        ("Ram", Forward::Ram { .. }) => ("Precopy", Effect::Accept),
        ("Configuration" | "Ram" | "Precopy", Forward::Description(_)) => (state, Effect::None),
        ("Precopy", Forward::PassBegin(_)) => (state, Effect::Pass(1)),
        ("Precopy", Forward::PassEnd(_)) => (state, Effect::None),
        ("Precopy", Forward::Pages(_)) => (state, Effect::Write(run())),
        ("Precopy", Forward::Zeros(_)) => (state, Effect::WriteZeros(vec![run()])),
        ("Precopy", Forward::Discard(_)) => (state, Effect::Discard(stale())),
        ("Precopy" | "Adopted", Forward::Barrier(_)) => (state, Effect::Barrier(4)),
        ("Running listening" | "Completed", Forward::Barrier(_)) => (state, Effect::Tell(4)),
        ("Precopy", Forward::MultifdStart) => (state, Effect::MultifdStart(MultifdEpoch::Precopy)),
        ("Running listening", Forward::MultifdStart) => (state, Effect::MultifdStart(MultifdEpoch::Postcopy)),
        ("Precopy", Forward::Listen) => ("Listening", Effect::Listen),
        ("Precopy" | "Adopted", Forward::State(_)) => ("Loading", Effect::Load(Vec::new())),
        ("Listening", Forward::State(_)) => ("Loading listening", Effect::Load(Vec::new())),
        ("Listening" | "Loaded listening" | "Running listening", Forward::Pages(_)) => (state, Effect::Place(run())),
        ("Listening" | "Loaded listening" | "Running listening", Forward::Zeros(_)) => {
            (state, Effect::PlaceZeros(vec![run()]))
        }
        ("Loaded" | "Loaded listening", Forward::HandOver { .. }) => ("Starting", Effect::Run { running: true }),
        ("Running" | "Running listening" | "Completed", Forward::Complete) => ("Completed", Effect::Finish),
        ("Completed", Forward::MultifdStart) => (state, Effect::MultifdStart(MultifdEpoch::Postcopy)),
        ("Completed", Forward::Goodbye) => ("Completed, told", Effect::None),
        ("NeverRan" | "NeverRan, linked", Forward::Cancel(_)) => ("Failed", Effect::None),
        ("NeverRan" | "NeverRan, linked", Forward::HandOver { .. } | Forward::Complete) => (state, Effect::None),
        _ => return None,
    })
}

#[test]
fn every_message_in_every_state() {
    let ram = ram();
    for (at, name) in STATES.into_iter().enumerate() {
        for message in messages() {
            let mut destination = destination(name, true);
            let got = destination.message(message.clone(), &ram);
            let owned = OWNED.contains(&at);
            match (allowed(name, &message), got) {
                (Some((next, effect)), Ok(got)) => assert_eq!((describe(&destination), got), (next, effect)),
                (None, Err(MigrationError::Cancelled(why))) => {
                    assert!(matches!(message, Forward::Cancel(_)) && !owned && why == "why", "{name}");
                }
                (None, Err(MigrationError::OutOfOrder(said))) => {
                    assert!(owned || !matches!(message, Forward::Cancel(_)), "{name}");
                    assert_eq!(said, crate::wire::tag::name(message.tag()), "{name}");
                    assert_eq!(describe(&destination), name, "a refused message changes nothing");
                }
                (expected, got) => panic!("{name} with {message:?}: expected {expected:?}, got {got:?}"),
            }
        }
    }
}

/// In the table above every page has come: then it is too late for that.
#[test]
fn ram_is_taken_over_before_anything_else_and_not_written_then() {
    let mut destination = destination("Precopy", false);
    assert_eq!(destination.message(Forward::SharedRam(1), &ram()).unwrap(), Effect::Adopt(1));
    assert_eq!(describe(&destination), "Adopted");
    destination.tracker.all_here();
    assert_eq!(destination.tracker.missing(), 0);
    let writes = [Forward::Pages(run()), Forward::Zeros(vec![run()]), Forward::Discard(stale()), Forward::Listen];
    for write in writes {
        assert!(matches!(destination.message(write, &ram()), Err(MigrationError::OutOfOrder(_))));
    }
}

#[test]
fn a_broken_link_ends_it_before_the_guest_is_here_and_pauses_it_after() {
    for (at, name) in STATES.into_iter().enumerate() {
        let owned = OWNED.contains(&at);
        for whole in [false, true] {
            let mut destination = destination(name, whole);
            assert_eq!(destination.owns_guest(), owned, "{name}");
            assert_eq!(destination.fail(link_broken()), owned, "{name}");
            let expected = match name {
                // The source may have handed the guest over.
                "Loaded" | "Loaded listening" | "Starting" | "NeverRan" | "NeverRan, linked" => "NeverRan",
                _ if !owned => "Failed",
                "Completed" | "Completed, told" => name,
                // Whoever has every page needs nobody any more.
                _ if whole => "Completed",
                _ => "LinkLost",
            };
            assert_eq!(describe(&destination), expected, "{name}, whole: {whole}");
            assert_eq!(destination.error().is_some(), !expected.starts_with("Completed"));
            assert_eq!(destination.is_over(), matches!(expected, "Failed" | "Completed, told"));
        }
    }
}

/// A source that takes the guest back before it handed it over has nothing to ask.
#[test]
fn a_cancel_ends_it_whatever_was_said_before() {
    for name in ["Precopy", "Listening", "Loaded", "Loaded listening"] {
        let mut destination = destination(name, true);
        let cancelled = destination.message(Forward::Cancel("why".into()), &ram()).unwrap_err();
        assert!(!destination.fail(cancelled) && destination.is_over(), "{name}");
    }
}

#[test]
fn the_answers_to_effects_count_only_where_they_were_asked_for() {
    for name in STATES {
        let step = |change: fn(&mut Destination)| {
            let mut destination = destination(name, false);
            change(&mut destination);
            describe(&destination)
        };
        let expected =
            |from: &[(&str, &'static str)]| from.iter().find(|(state, _)| *state == name).map_or(name, |(_, to)| to);
        assert_eq!(step(Destination::checked), expected(&[("Configuration", "Ram")]));
        assert_eq!(
            step(Destination::loaded),
            expected(&[("Loading", "Loaded"), ("Loading listening", "Loaded listening")])
        );
        assert_eq!(step(Destination::started), expected(&[("Starting", "Running listening")]));
        let recover = |destination: &mut Destination| {
            let standing = match describe(destination) {
                "LinkLost" | "Completed" => Some(GuestPlace::Here),
                "NeverRan" | "NeverRan, linked" => Some(GuestPlace::Never(sentence(&link_broken()))),
                _ => None,
            };
            assert_eq!(destination.recover(), standing);
        };
        assert_eq!(step(recover), expected(&[("LinkLost", "Recovering"), ("NeverRan", "NeverRan, linked")]));
        assert_eq!(step(Destination::said_never), expected(&[("NeverRan", "NeverRan, linked")]));
        assert_eq!(step(Destination::recovered), expected(&[("Recovering", "Running listening")]));
        assert_eq!(step(|destination| assert!(!destination.all_received())), name, "pages are missing");
    }
}

#[test]
fn the_end_waits_for_the_last_page_and_is_told_once() {
    let mut destination = destination("Running listening", false);
    assert_eq!(destination.message(Forward::Complete, &ram()).unwrap(), Effect::AwaitPages);
    destination.tracker.placed(PageRun { count: PAGES as u32 - 1, ..everything() });
    assert!(!destination.all_received());
    destination.tracker.placed(everything());
    assert!(destination.all_received() && !destination.all_received());
    assert_eq!(destination.status(), Status::Completed);
}

#[test]
fn without_arming_the_state_needs_every_page() {
    let mut destination = destination("Precopy", false);
    let refused = destination.message(Forward::State(Vec::new()), &ram());
    assert!(matches!(refused, Err(MigrationError::PagesMissing(PAGES))), "{refused:?}");
}

#[test]
fn pages_outside_ram_are_refused_in_every_state_that_takes_pages() {
    let outside = PageRun { block: BlockId(0), start: PageIndex(PAGES - 1), count: 2 };
    for name in ["Precopy", "Listening", "Loaded listening", "Running listening"] {
        for message in [Forward::Pages(outside), Forward::Zeros(vec![run(), outside])] {
            let refused = destination(name, false).message(message, &ram());
            assert!(matches!(refused, Err(MigrationError::NoSuchPages(_))), "{name}: {refused:?}");
        }
    }
    let fragment = Fragment { block: BlockId(0), first_word: 1, words: vec![1 << 36] };
    assert!(destination("Precopy", true).message(Forward::Discard(fragment), &ram()).is_err());
}

#[test]
fn while_pages_are_spread_the_control_channel_says_gather_or_takes_it_all_back() {
    let ram = ram();
    for (name, owned) in [("Precopy", false), ("Running listening", true)] {
        for message in messages() {
            let mut destination = destination(name, false);
            destination.message(Forward::MultifdStart, &ram).unwrap();
            match (message.clone(), destination.message(message.clone(), &ram)) {
                (Forward::MultifdFlush, Ok(Effect::MultifdFlush)) => assert!(!destination.spread, "{name}"),
                (Forward::Cancel(_), Err(MigrationError::Cancelled(why))) => assert!(!owned && why == "why", "{name}"),
                (Forward::Cancel(_), Err(MigrationError::OutOfOrder(said))) => {
                    assert!(owned && said == "cancel", "{name}")
                }
                (Forward::MultifdFlush | Forward::Cancel(_), got) => panic!("{name} with {message:?}: {got:?}"),
                (message, Err(MigrationError::OutOfOrder(said))) => {
                    assert_eq!(said, crate::wire::tag::name(message.tag()), "{name}");
                    assert!(destination.spread, "{name}: a refused message changes nothing");
                }
                (message, got) => panic!("{name} with {message:?}: {got:?}"),
            }
            assert_eq!(describe(&destination), name);
        }
    }
}

#[test]
fn a_stretch_follows_another_and_ends_with_its_link() {
    let ram = ram();
    let mut destination = destination("Running listening", false);
    for _ in 0..2 {
        assert_eq!(
            destination.message(Forward::MultifdStart, &ram).unwrap(),
            Effect::MultifdStart(MultifdEpoch::Postcopy)
        );
        assert_eq!(destination.message(Forward::MultifdFlush, &ram).unwrap(), Effect::MultifdFlush);
        assert_eq!(destination.message(Forward::Pages(run()), &ram).unwrap(), Effect::Place(run()));
    }
    destination.message(Forward::MultifdStart, &ram).unwrap();
    assert!(destination.fail(link_broken()) && destination.recover().is_some());
    destination.recovered();
    assert_eq!(destination.message(Forward::Pages(run()), &ram).unwrap(), Effect::Place(run()));
}
