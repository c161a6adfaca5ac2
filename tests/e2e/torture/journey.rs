//! [`Journey`]: one migration over a faulty link, watched by both monitors, driven to where the
//! guest is whole again.

use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use super::case::Mode;
use crate::support::faulty_link::{FaultyLink, Plan};
use crate::support::{LIMIT, Machine, Transport, Vm};

/// How a broken migration comes to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stand {
    /// The guest is on the source.
    Source,
    /// It is on the destination, and both know.
    Destination,
    /// In two halves.
    Halves,
    /// It is whole on the destination, and the source has not heard that.
    LastWordLost,
    /// The source handed it over, and whoever could say whether it ran is gone.
    Doubt,
}

/// Nothing to hear and nothing that moves for so long: a person would begin to wonder.
const QUIET: Duration = Duration::from_millis(300);
/// A break that the host's TCP reports is noticed long before this.
const UNNOTICED: Duration = Duration::from_secs(5);
/// A destination whose source is gone most often ends within this, or it waits for another.
const ENDS: Duration = Duration::from_millis(250);

/// What a monitor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The migration's status; `ended` if the process has.
    pub migration: String,
    /// The run state.
    pub run: String,
    pub error: Option<String>,
    moved: (Value, Value),
}

impl Sight {
    /// Asks the monitor.
    pub fn of(vm: &mut Vm) -> Self {
        Self::ask(vm).unwrap_or_else(|| {
            let ended = "ended".to_owned();
            Self { migration: ended.clone(), run: ended, error: None, moved: (Value::Null, Value::Null) }
        })
    }

    fn ask(vm: &mut Vm) -> Option<Self> {
        let mut ask = |command| vm.qmp.try_execute(command, json!({})).map(Result::unwrap);
        let (report, status) = (ask("query-migrate")?, ask("query-status")?);
        Some(Self {
            migration: report["status"].as_str().unwrap_or("none").to_owned(),
            run: status["status"].as_str().unwrap().to_owned(),
            error: report["error-desc"].as_str().map(str::to_owned),
            moved: (report["ram"]["transferred"].clone(), report["ram"]["remaining"].clone()),
        })
    }

    fn is_here(&self) -> bool {
        self.run == "running"
    }
}

/// A migration under way.
pub struct Journey {
    /// What destinations are like.
    pub machine: Machine,
    pub source: Vm,
    pub destination: Vm,
    pub link: FaultyLink,
    /// How often both halves were joined again.
    pub joined: u32,
    /// The guest runs, or is stopped all the while.
    pub runs: bool,
    /// Of a migration with TLS: how many multifd channels it has.
    encrypted: Option<usize>,
}

/// How many multifd channels there are, if there are any.
const MULTIFD: usize = 2;

impl Journey {
    /// Everything stands; nothing moves yet.
    pub fn prepare(machine: Machine, source: Vm, plan: Option<Plan>) -> Self {
        Self::with(machine, source, plan, None)
    }

    /// The same between machines that use TLS.
    pub fn encrypted(machine: Machine, source: Vm, plan: Option<Plan>, multifd: bool) -> Self {
        Self::with(machine, source, plan, Some(if multifd { MULTIFD } else { 0 }))
    }

    fn with(machine: Machine, source: Vm, plan: Option<Plan>, encrypted: Option<usize>) -> Self {
        let mut destination = machine.receive(Transport::Tcp);
        let link = Self::link_to(&mut destination, plan, encrypted);
        Self { machine, source, destination, link, joined: 0, runs: true, encrypted }
    }

    fn link_to(destination: &mut Vm, plan: Option<Plan>, encrypted: Option<usize>) -> FaultyLink {
        match encrypted {
            None => FaultyLink::to(&destination.address(), plan),
            Some(multifd) => FaultyLink::encrypted(&destination.address(), plan, multifd),
        }
    }

    /// Starts to migrate.
    pub fn begin(&mut self, mode: Mode, multifd: bool) {
        let multifd = json!({"capability": "multifd", "state": multifd});
        self.source.qmp.run("migrate-set-capabilities", json!({ "capabilities": [multifd] }));
        self.source.set(json!({"multifd-channels": MULTIFD, "x-postcopy-after": mode.passes()}));
        self.source.migrate(&self.link.address());
    }

    /// Waits until something is heard of either side or of the link; false after `time`.
    pub fn hears(&mut self, time: Duration) -> bool {
        // All three must be looked at: what is left in one would be news for ever.
        let heard = self.source.qmp.forget_events() | self.destination.qmp.forget_events();
        if heard {
            return true;
        }
        let everyone = [self.source.qmp.as_fd(), self.destination.qmp.as_fd(), self.link.as_fd()];
        let mut fds = everyone.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let count = poll(&mut fds, PollTimeout::try_from(time).unwrap()).unwrap();
        self.link.seen();
        count > 0
    }

    /// Waits until the guest runs there, on pages that have come, and the source knows.
    pub fn await_postcopy(&mut self) {
        self.source.qmp.await_migration("postcopy-active");
        self.destination.qmp.await_migration("postcopy-active");
        self.destination.guest.await_heartbeat();
    }

    /// Waits for the fault.
    pub fn await_strike(&mut self) {
        let begun = Instant::now();
        while !self.link.has_struck() {
            assert!(begun.elapsed() < LIMIT, "the migration never came to the place: {:?}", self.look());
            self.hears(QUIET);
        }
    }

    /// Both monitors' words, the destination's first: if it runs there, then the source must have
    /// stopped long ago.
    pub fn look(&mut self) -> (Sight, Sight) {
        let there = Sight::of(&mut self.destination);
        let here = Sight::of(&mut self.source);
        assert!(!(here.is_here() && there.is_here()), "two guests run: {here:?}, {there:?}");
        (here, there)
    }

    /// Waits until both monitors say what is wanted.
    pub fn until(&mut self, so: impl Fn(&Sight, &Sight) -> bool) {
        let begun = Instant::now();
        loop {
            let (here, there) = self.look();
            if so(&here, &there) {
                return;
            }
            assert!(begun.elapsed() < LIMIT, "it stays so: {here:?}, {there:?}");
            self.rest(&here, &there);
        }
    }

    /// Until there is something to hear; a process that has ended would be heard for ever.
    fn rest(&mut self, here: &Sight, there: &Sight) -> bool {
        if here.migration == "ended" || there.migration == "ended" {
            std::thread::sleep(QUIET / 3);
            return false;
        }
        self.hears(QUIET / 3)
    }

    /// A fresh destination in place of one that died.
    pub fn replace_destination(&mut self) {
        self.destination = self.machine.receive(Transport::Tcp);
    }

    /// Until nothing changes any more without people. `noticed`: the fault is one that the hosts
    /// hear of; of others nobody can know, and a person cancels or pauses.
    pub fn settle(&mut self, noticed: bool) -> Stand {
        let mut quiet = Duration::ZERO;
        let mut last = self.look();
        let begun = Instant::now();
        loop {
            let (here, there) = &last;
            assert!(begun.elapsed() < LIMIT, "it does not come to rest: {here:?}, {there:?}");
            if let Some(stand) = self.stand(here, there) {
                return stand;
            }
            if quiet >= QUIET && !noticed && self.link.has_struck() {
                self.intervene(&last.0.clone(), &last.1.clone());
                quiet = Duration::ZERO;
            }
            assert!(quiet < UNNOTICED, "nobody notices: {:?}, {:?}", last.0, last.1);
            let heard = self.rest(&last.0.clone(), &last.1.clone());
            let now = self.look();
            quiet = if now == last && !heard { quiet + QUIET / 3 } else { Duration::ZERO };
            last = now;
        }
    }

    fn stand(&self, here: &Sight, there: &Sight) -> Option<Stand> {
        Some(match (here.migration.as_str(), there.migration.as_str()) {
            ("failed" | "cancelled", _) => Stand::Source,
            ("completed", "completed") => Stand::Destination,
            ("postcopy-paused", "postcopy-paused") => Stand::Halves,
            ("postcopy-paused", "completed") => Stand::LastWordLost,
            ("postcopy-paused", "failed" | "ended") => Stand::Doubt,
            _ => return None,
        })
    }

    /// What a person does about a migration that stands still.
    fn intervene(&mut self, here: &Sight, there: &Sight) {
        let say =
            |vm: &mut Vm, command: &str| vm.qmp.try_execute(command, json!({})).is_some_and(|answer| answer.is_ok());
        let mut done = false;
        match here.migration.as_str() {
            "setup" | "active" | "device" | "postcopy-device" => {
                done |= say(&mut self.source, "migrate_cancel") || say(&mut self.source, "migrate-pause");
            }
            "postcopy-active" | "postcopy-recover" => done |= say(&mut self.source, "migrate-pause"),
            _ => {}
        }
        if ["postcopy-active", "postcopy-recover"].contains(&there.migration.as_str()) {
            done |= say(&mut self.destination, "migrate-pause");
        }
        if !done {
            // What is left is the hosts' TCP, which gives a dead link up by itself.
            self.link.cut();
        }
    }

    /// Joins both halves anew, the new link with a plan of its own. False if one of them will not.
    pub fn join(&mut self, plan: Option<Plan>) -> bool {
        self.link.cut();
        let listens = self.destination.qmp.try_execute("migrate-recover", json!({"uri": "tcp:127.0.0.1:0"}));
        if !matches!(listens, Some(Ok(_))) {
            return false;
        }
        self.link = Self::link_to(&mut self.destination, plan, self.encrypted);
        self.source.qmp.forget_events();
        let resume = json!({"uri": self.link.address(), "resume": true});
        if self.source.qmp.execute("migrate", resume).is_err() {
            return false;
        }
        while self.source.qmp.await_event("MIGRATION")["status"] != "postcopy-recover-setup" {}
        self.joined += 1;
        true
    }

    /// Brings the guest back to one place, whole, and looks at all of it.
    pub fn end(mut self, stand: Stand) -> Stand {
        let mut stand = stand;
        let mut tries = 0;
        while matches!(stand, Stand::Halves | Stand::LastWordLost) {
            tries += 1;
            assert!(tries < 5, "it cannot be joined again: {:?}", self.look());
            let whole = stand == Stand::LastWordLost;
            self.await_reasons(whole);
            assert_ne!(self.source.qmp.status(), "running");
            self.source.qmp.refused("cont", json!({}));
            if self.join(None) {
                stand = self.settle(true);
            } else {
                // One of them was about to notice.
                self.hears(QUIET);
            }
        }
        match stand {
            Stand::Source => self.end_on_source(),
            Stand::Destination => self.end_on_destination(),
            other => panic!("{other:?} is no end: {:?}", self.look()),
        }
        stand
    }

    /// Both say why it is paused; nothing is wrong with a guest that is `whole` there. A side that
    /// is joined again is paused, and without a reason, until it hears that this went wrong, too.
    fn await_reasons(&mut self, whole: bool) {
        let speaks = |sight: &Sight| sight.error.as_ref().is_some_and(|why| why.len() > 10);
        self.until(|here, there| speaks(here) && (whole || speaks(there)));
    }

    /// The guest went on here, and can still leave.
    fn end_on_source(mut self) {
        self.link.cut();
        let why = Sight::of(&mut self.source);
        assert!(why.migration == "cancelled" || why.error.is_some_and(|why| why.len() > 10), "no reason is given");
        assert_eq!(self.source.qmp.status(), if self.runs { "running" } else { "paused" });
        if self.runs {
            self.source.guest.assert_whole();
        }
        self.source.set(json!({"max-bandwidth": 0, "max-postcopy-bandwidth": 0}));
        while !self.moves_on() {}
        self.end_on_destination();
    }

    /// Moves to this destination, if it waits on because its source was not its source yet, or to a
    /// fresh one. False if it turned out only now that it does not wait.
    fn moves_on(&mut self) -> bool {
        if self.destination.ends_within(ENDS) || Sight::of(&mut self.destination).migration == "ended" {
            self.retire_destination();
        } else if Sight::of(&mut self.destination).migration == "postcopy-paused" {
            // It was ready, gave the guest up for good, and waits to tell that to a source that
            // knows it already.
            assert_ne!(self.destination.qmp.status(), "running");
            assert_eq!(self.destination.quit(), 0);
            self.replace_destination();
        } else {
            assert_ne!(self.destination.qmp.status(), "running");
        }
        let uri = self.destination.address();
        self.source.qmp.forget_events();
        self.source.migrate(&uri);
        loop {
            let status = self.source.qmp.await_event("MIGRATION")["status"].take();
            match status.as_str() {
                Some("completed") => break,
                Some("failed") if self.destination.ends_within(ENDS * 8) => {
                    self.retire_destination();
                    return false;
                }
                Some("failed" | "postcopy-paused") => panic!("it cannot leave any more: {:?}", self.look()),
                _ => {}
            }
        }
        self.until(|_, there| there.migration == "completed");
        true
    }

    /// It has ended as it should; a fresh one takes its place.
    fn retire_destination(&mut self) {
        assert_eq!(self.destination.wait(), 1, "{}", self.destination.log());
        self.replace_destination();
    }

    /// The guest runs there, whole; here it does not.
    fn end_on_destination(mut self) {
        assert_ne!(self.source.qmp.status(), "running");
        self.source.qmp.refused("cont", json!({}));
        if !self.runs {
            assert_eq!(self.destination.qmp.status(), "paused");
            self.destination.qmp.query("cont");
        }
        assert_eq!(self.destination.qmp.status(), "running");
        self.destination.guest.assert_whole();
        self.destination.guest.await_visits(3);
        assert_eq!(self.source.quit(), 0);
        assert_eq!(self.destination.end_guest(), 0);
    }
}
