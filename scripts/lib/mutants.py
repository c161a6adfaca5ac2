"""The bugs that scripts/mutants plants: each is one that this engine, or another, has had or could have."""

from typing import NamedTuple

SOURCE = "postcopy/src/source/state.rs"
SWITCH = "postcopy/src/source/state/switch.rs"
ANSWER = "postcopy/src/source/demand.rs"
DESTINATION = "postcopy/src/destination/state.rs"
TRACKER = "postcopy/src/destination/tracker.rs"
# What the drivers do is modelled there.
MODEL_MEMORY = "postcopy/tests/pair/memory.rs"
MODEL_DESTINATION = "postcopy/tests/pair/destination.rs"
MODEL_SOURCE = "postcopy/tests/pair/source.rs"


class Mutant(NamedTuple):
    name: str
    file: str
    before: str
    after: str


MUTANTS = [
    Mutant(
        "an end of stream is taken for success",
        SOURCE,
        "State::AwaitAllReceived(way, door) => return self.lose_link(way, AfterHandover::There(door), error),",
        "State::AwaitAllReceived(..) => {\n self.then([Action::HandedOver]);\n self.stop_logging();\n"
        " self.state = State::Ended(Outcome::Completed);\n return;\n }",
    ),
    Mutant(
        "the source resumes when the link breaks after the hand-over",
        SOURCE,
        "State::AwaitRunning(way, door) => return self.lose_link(way, AfterHandover::Doubt(door), error),",
        "State::AwaitRunning(_, door) => Some(door.not_started()),",
    ),
    Mutant(
        "pages lost in flight are not sent again after a recovery",
        SOURCE,
        "                self.pending.set_all();\n                self.state = State::Recovering",
        "                self.state = State::Recovering",
    ),
    Mutant(
        "what the destination has is not believed where it never ran",
        SOURCE,
        "            (\n                State::AwaitRunning(_, door) | State::Recovering(_, AfterHandover::Doubt(door)),\n                Reply::NotStarted(why),\n            ) => {",
        "            (State::AwaitRunning(_, door), Reply::NotStarted(why)) => {",
    ),
    Mutant(
        "the source lets go of the guest before the destination has every page",
        SOURCE,
        "self.then([Action::Send(Forward::Complete), Action::Wait(None)]);\n                self.next(now)",
        "self.then([Action::Send(Forward::Complete), Action::HandedOver, Action::Wait(None)]);\n                self.next(now)",
    ),
    Mutant(
        "what follows overtakes pages on the multifd channels",
        SOURCE,
        "if std::mem::take(&mut self.spread) {\n            self.then([Action::MultifdFlush]);",
        "if std::mem::take(&mut self.spread) && false {\n            self.then([Action::MultifdFlush]);",
    ),
    Mutant("the dirty log is left on", SOURCE, "if std::mem::take(&mut self.logging) {", "if std::mem::take(&mut self.logging) && self.listening {"),
    Mutant("a cancel does not keep the hand-over", SWITCH, "State::AwaitReady(way, door) if allowed => {", "State::AwaitReady(way, door) if allowed || true => {"),
    Mutant("stale pages are not dropped before RAM is watched", SWITCH, "                    last.extend(stale);\n", "                    drop(stale);\n"),
    Mutant("the log is not read after the state was saved", SWITCH, "        if self.logging {\n            self.state = State::FinalSync", "        if self.logging && self.figures.syncs == 0 {\n            self.state = State::FinalSync"),
    Mutant("a page that is asked for is claimed and not given", ANSWER, "            bitmap.claim(page);\n            let single", "            if bitmap.claim(page) {\n                continue;\n            }\n            let single"),
    Mutant("the destination is complete with pages missing", DESTINATION, "matches!(self.state, State::Finishing) && self.tracker.missing() == 0;", "matches!(self.state, State::Finishing);"),
    Mutant("a destination that never ran forgets that it may be asked", DESTINATION, "State::Loaded { .. } | State::Starting { .. } if !matches!", "State::Loaded { .. } | State::Starting { .. } if false && !matches!"),
    Mutant("a complete destination forgets that it may be asked", DESTINATION, "State::Failed(_) | State::Completed { told: true, .. })", "State::Failed(_) | State::Completed { .. })"),
    Mutant(
        "a guest that was given up runs when the hand-over comes after all",
        DESTINATION,
        "            (State::NeverRan { .. }, Forward::HandOver { .. } | Forward::Complete) => Effect::None,",
        "            (State::NeverRan { .. }, Forward::HandOver { running }) => {\n self.state = State::Starting { listening: true };\n"
        " Effect::Run { running }\n }\n            (State::NeverRan { .. }, Forward::Complete) => Effect::None,",
    ),
    Mutant("a guest that runs here is given up with its link", DESTINATION, "        self.state = State::LinkLost { listening, error };\n        true", "        let _ = listening;\n        self.state = State::Failed(error);\n        true"),
    Mutant("stale pages still count as received", TRACKER, "let mut had = received.clear_word(word, bits);", "let mut had = received.word(word) & bits;"),
    Mutant("a page that comes twice counts twice", TRACKER, "let fresh = self.received.set_run(run);", "self.received.set_run(run);\n        let fresh = u64::from(run.count);"),
    Mutant("re-arming the log forgets writes that nobody has read", MODEL_MEMORY, "log.clear_word(word, dirty.word(word));", "log.clear_word(word, dirty.word(word) | u64::MAX);"),
    Mutant("a page that comes late overwrites what the guest wrote", MODEL_MEMORY, "            if bitmap.set(page)\n                && let", "            if bitmap.set(page) | true\n                && let"),
    Mutant("a page counts as received before its contents are here", MODEL_DESTINATION, "Effect::Place(run) => destination.contents = Some(Contents { run, watched: true }),", "Effect::Place(run) => {\n destination.tracker.placed(run);\n destination.contents = Some(Contents { run, watched: true });\n }"),
    Mutant("nobody who waits is woken when a page is placed", MODEL_DESTINATION, "        self.memory.fill(run, contents);\n        self.wake(run);", "        self.memory.fill(run, contents);"),
    Mutant("pages are read when they are chosen, not when they are sent", MODEL_SOURCE, "            Action::SendRun(run) => {\n                self.push_run(run);", "            Action::SendRun(run) => {\n                let mut early = Vec::new();\n                pages(&source.ram, run, &mut early);\n                source.pending.set_run(run);\n                source.log.sync(&source.pending);\n                run.pages().for_each(|page| {\n                    source.pending.block(run.block).unwrap().claim(page);\n                });\n                source.outgoing.push(Item::Bytes(early));\n                self.push_run(PageRun { count: 0, ..run });"),
]
