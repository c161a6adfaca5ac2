//! Drives one migration from its settings to its end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::applied::Applied;
use super::connection::{Connection, QmpError};
use super::outcome::{End, Outcome};
use super::plan::{Plan, Task};
use super::progress::Display;
use super::status::{Phase, Progress};
use crate::migration::capabilities::Capability;
use crate::migration::parameters::Parameter;
use crate::migration::uri::Uri;
use crate::sentence::sentence;
use crate::signals::remember;
use crate::stdio::{Answer, say};

/// How often the progress is asked for when no event comes.
const REFRESH: Duration = Duration::from_millis(100);
/// How long a source may take to begin to join the halves after it was told to.
const BEGINS: Duration = Duration::from_secs(10);
/// What a source needs beyond `x-reconnect` until its last attempt by itself has begun.
const LAST_ATTEMPT: Duration = Duration::from_secs(1);

/// Carries `plan` out, showing progress on standard error and the end on standard output; the exit
/// code.
pub fn migrate(plan: &Plan) -> u8 {
    let end = Signals::catch().map_or_else(
        |error| End::of(Outcome::Refused, Some(format!("cannot catch signals: {error}"))),
        |signals| drive(plan, &signals),
    );
    if plan.json || end.outcome == Outcome::Completed {
        let mut answer = Answer::begin();
        answer.line(&if plan.json { end.to_json(plan).to_string() } else { end.sentence(plan) });
        // The exit code tells of the migration alone.
        if let Err(error) = answer.finish() {
            say(&format!("whimbrel: {}", sentence(&error)));
        }
    }
    if end.outcome != Outcome::Completed {
        say(&format!("whimbrel: {}", end.sentence(plan)));
    }
    if !end.kept.is_empty() {
        say(&end.kept_text());
    }
    end.outcome.code()
}

/// Starts a migration of the virtual machine behind `vm`, with `parameters` set first; the rest
/// stays as it is set there.
pub fn start(vm: &mut Connection, to: &Uri, parameters: Map<String, Value>) -> Result<(), QmpError> {
    let events = json!([{"capability": "events", "state": true}]);
    vm.execute("migrate-set-capabilities", one("capabilities", events))?;
    if !parameters.is_empty() {
        vm.execute("migrate-set-parameters", parameters)?;
    }
    vm.execute("migrate", one("uri", to.to_string().into())).map(drop)
}

fn one(name: &str, value: Value) -> Map<String, Value> {
    Map::from_iter([(name.to_owned(), value)])
}

/// Signals that came and were not looked at yet.
#[derive(Default)]
pub(super) struct Signals {
    /// Ctrl-C: whoever presses it sees what is said then.
    pub interrupt: Arc<AtomicBool>,
    /// The process is to end.
    pub terminate: Arc<AtomicBool>,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        let this = Self::default();
        remember(&[SIGINT], &this.interrupt)?;
        remember(&[SIGTERM, SIGHUP], &this.terminate)?;
        Ok(this)
    }

    /// What came, and is looked at now.
    fn take(&self) -> Option<Asked> {
        let interrupt = self.interrupt.swap(false, Ordering::Relaxed);
        match self.terminate.swap(false, Ordering::Relaxed) {
            true => Some(Asked::ToEnd),
            false => interrupt.then_some(Asked::ToCancel),
        }
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// SIGINT.
    ToCancel,
    /// SIGTERM, SIGHUP.
    ToEnd,
}

/// What became of the request to cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cancelling {
    /// Nobody asked.
    No,
    /// It was passed on.
    Asked,
    /// It came too late, and that was said.
    TooLate,
}

/// Everything up to the end of the migration, or of looking at it.
pub(super) fn drive(plan: &Plan, signals: &Signals) -> End {
    let refused = |error: QmpError| End::of(Outcome::Refused, Some(sentence(&error)));
    let mut vm = match Connection::open(&plan.qmp) {
        Ok(vm) => vm,
        Err(error) => return refused(error),
    };
    let mut settings = plan.settings.clone();
    // They end a wait at once. Whoever leaves or only looks does not need them.
    if !matches!(plan.task, Task::Follow | Task::Move { detach: true, .. }) {
        settings.capabilities.retain(|(it, _)| *it != Capability::Events);
        settings.capabilities.push((Capability::Events, true));
    }
    let applied = match Applied::set(&mut vm, &settings) {
        Ok(applied) => applied,
        Err(error) => return refused(error),
    };
    let mut driver = Driver {
        plan,
        vm,
        display: Display::new(),
        cancelling: Cancelling::No,
        last: Value::Null,
        joining: None,
        held: false,
        paused: None,
    };
    let mut end = match driver.begin() {
        Err(error) => refused(error),
        Ok(()) => match &plan.task {
            Task::Move { detach: true, .. } => driver.left(),
            Task::Follow | Task::Move { .. } | Task::Recover { .. } => driver.follow(signals),
        },
    };
    driver.display.finish();
    driver.put_back(applied, &mut end);
    end.report = driver.last;
    end
}

struct Driver<'a> {
    plan: &'a Plan,
    vm: Connection,
    display: Display,
    cancelling: Cancelling,
    /// The last answer to `query-migrate`.
    last: Value,
    /// The source was told to join the halves then, and has not begun yet.
    joining: Option<Instant>,
    /// That the switchover waits was said.
    held: bool,
    /// Since when it is paused, and how long it tries by itself.
    paused: Option<(Instant, Duration)>,
}

/// Has a destination wait for its source again. One that has not noticed that the link broke is
/// told so first.
fn have_wait(there: &mut Connection, listen: &Uri) -> Result<(), QmpError> {
    let until = Instant::now() + BEGINS;
    let mut told = false;
    while Progress::of(&there.execute("query-migrate", Map::new())?).status == "postcopy-active"
        && Instant::now() < until
    {
        if !std::mem::replace(&mut told, true) {
            there.execute("migrate-pause", Map::new())?;
        }
        there.event(REFRESH)?;
    }
    there.execute("migrate-recover", one("uri", listen.to_string().into())).map(drop)
}

impl Driver<'_> {
    /// Has it begin, or finds that there is something to look at.
    fn begin(&mut self) -> Result<(), QmpError> {
        match &self.plan.task {
            Task::Follow => match self.look()?.status.as_str() {
                "none" => Err(QmpError::Refused("no migration is under way there, and none has ended".to_owned())),
                _ => Ok(()),
            },
            Task::Move { to, .. } => self.vm.execute("migrate", one("uri", to.to_string().into())).map(drop),
            Task::Recover { to, listen, destination } => {
                if let Some(destination) = destination {
                    have_wait(&mut Connection::open(destination)?, listen)?;
                }
                let mut arguments = one("uri", to.to_string().into());
                arguments.insert("resume".to_owned(), true.into());
                self.vm.execute("migrate", arguments)?;
                self.joining = Some(Instant::now());
                Ok(())
            }
        }
    }

    fn look(&mut self) -> Result<Progress, QmpError> {
        self.last = self.vm.execute("query-migrate", Map::new())?;
        Ok(Progress::of(&self.last))
    }

    /// Follows the migration to its end, also over a monitor that was lost for a moment.
    fn follow(&mut self, signals: &Signals) -> End {
        loop {
            match self.step(signals) {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(error) => match Connection::open(&self.plan.qmp) {
                    Ok(vm) => self.vm = vm,
                    Err(_) => return self.lost(&error),
                },
            }
        }
    }

    /// One look, and a wait for the next.
    fn step(&mut self, signals: &Signals) -> Result<Option<End>, QmpError> {
        let now = self.look()?;
        self.display.show(&now);
        if now.status == "pre-switchover" && !std::mem::replace(&mut self.held, true) {
            self.display.say("The switchover waits: 'migrate_continue pre-switchover' in the monitor goes on with it.");
        }
        let end = |outcome| Ok(Some(End::of(outcome, now.error.clone())));
        let phase = now.phase();
        match phase {
            Phase::Completed => return end(Outcome::Completed),
            Phase::Failed => return end(Outcome::Failed),
            Phase::Cancelled => return end(Outcome::Cancelled),
            Phase::Paused if self.stays_paused()? => return end(Outcome::Paused),
            Phase::Paused => {}
            Phase::Revocable | Phase::Committed => self.paused = None,
        }
        if let Some(asked) = signals.take()
            && let Some(end) = self.asked(asked, phase)?
        {
            return Ok(Some(end));
        }
        // A change of status ends the wait at once; a pass does too, which costs one more look.
        if let Some(event) = self.vm.event(REFRESH)? {
            let status = event["data"]["status"].as_str();
            if status.is_some_and(|status| status != "postcopy-paused") {
                self.joining = None;
            }
        }
        Ok(None)
    }

    /// Whether a pause is more than a moment: the source was not told to join the halves, and does
    /// not try to by itself any more.
    fn stays_paused(&mut self) -> Result<bool, QmpError> {
        if self.joining.is_some_and(|told| told.elapsed() < BEGINS) {
            return Ok(false);
        }
        let (since, tries) = match self.paused {
            Some(paused) => paused,
            None => {
                let parameters = self.vm.execute("query-migrate-parameters", Map::new())?;
                let tries =
                    Duration::from_secs(parameters[const { Parameter::of("x-reconnect") }.name].as_u64().unwrap_or(0));
                if !tries.is_zero() {
                    self.display.say(&format!("The link broke; it is tried again for {} s.", tries.as_secs()));
                }
                *self.paused.insert((Instant::now(), tries))
            }
        };
        Ok(tries.is_zero() || since.elapsed() > tries + LAST_ATTEMPT)
    }

    /// What becomes of a signal; an end if nobody looks on any more.
    fn asked(&mut self, asked: Asked, phase: Phase) -> Result<Option<End>, QmpError> {
        // Whoever looks at what somebody else began does not end it.
        if self.plan.task == Task::Follow || self.cancelling == Cancelling::TooLate {
            return Ok(Some(self.left()));
        }
        if phase == Phase::Revocable {
            match self.vm.execute("migrate_cancel", Map::new()) {
                Ok(_) => {
                    if self.cancelling == Cancelling::No {
                        self.display.say("Cancelling.");
                    }
                    self.cancelling = Cancelling::Asked;
                    return Ok(None);
                }
                // It went on meanwhile: too late after all.
                Err(QmpError::Refused(why)) => self.display.say(&why),
                Err(error) => return Err(error),
            }
        }
        if asked == Asked::ToEnd {
            return Ok(Some(self.left()));
        }
        self.cancelling = Cancelling::TooLate;
        self.display.say(
            "Too late to cancel: the guest already runs on the destination, and part of its memory is still here. \
             Ctrl-C again leaves the migration to itself.",
        );
        Ok(None)
    }

    /// It goes on, and this command does not.
    fn left(&self) -> End {
        let outcome = match Progress::of(&self.last).phase() {
            Phase::Committed => Outcome::LeftAfter,
            Phase::Paused => Outcome::Paused,
            _ => Outcome::LeftBefore,
        };
        End::of(outcome, Progress::of(&self.last).error)
    }

    /// The monitor is gone, but may have told the end before.
    fn lost(&mut self, error: &QmpError) -> End {
        let mut heard = None;
        while let Ok(Some(event)) = self.vm.event(Duration::ZERO) {
            heard = event["data"]["status"].as_str().map(str::to_owned).or(heard);
        }
        match heard.as_deref() {
            Some("completed") => End::of(Outcome::Completed, None),
            _ => End::of(Outcome::Lost, Some(sentence(error))),
        }
    }

    /// Puts the settings back where the migration does not need them any more.
    fn put_back(&mut self, mut applied: Applied, end: &mut End) {
        match end.outcome {
            Outcome::Completed | Outcome::Failed | Outcome::Cancelled | Outcome::Refused => {
                if let Err(error) = applied.restore(&mut self.vm) {
                    // A machine that has ended has no settings.
                    log::debug!("the settings stay: {}", sentence(&error));
                }
            }
            Outcome::Paused | Outcome::LeftBefore | Outcome::LeftAfter | Outcome::Lost => end.kept = applied.kept(),
        }
    }
}
