//! Drives one migration from its parameters to its end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};
use signal_hook::consts::SIGINT;
use whimbrel_postcopy::error::sentence;

use super::connection::{Connection, QmpError};
use super::plan::Plan;
use super::progress::{Display, summary};
use super::status::{Phase, Progress};
use crate::migration::uri::Uri;
use crate::stdio::{Answer, say};

/// How often the progress is asked for when no event comes.
const REFRESH: Duration = Duration::from_millis(100);

/// Why a driven migration did not end with the guest at its destination.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The monitor, or what it said.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// Ctrl-C cannot be caught.
    #[error("cannot catch Ctrl-C")]
    Signal(#[source] io::Error),
    /// It failed; the guest is on the source.
    #[error("the migration failed, the guest stays where it is: {0}")]
    Failed(String),
    /// Ctrl-C, or another monitor.
    #[error("the migration was cancelled, the guest stays where it is")]
    Cancelled,
    /// The link broke in postcopy.
    #[error(
        "the link broke while pages were still on the source: {0}; repair it, then 'migrate_recover' on the destination and 'migrate -r' on the source"
    )]
    Paused(String),
    /// A second Ctrl-C.
    #[error("left the migration to itself: it goes on, 'info migrate' in the VM's monitor shows how")]
    Left,
}

/// Carries `plan` out, showing progress on standard error and the summary on standard output.
pub fn migrate(plan: &Plan) -> Result<(), DriveError> {
    // Only remembered by the signal: the loop acts on it within REFRESH.
    let interrupted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGINT, Arc::clone(&interrupted)).map_err(DriveError::Signal)?;
    let mut vm = Connection::open(&plan.qmp)?;
    start(&mut vm, &plan.to, plan.parameters())?;
    let mut driver = Driver { vm, display: Display::new(), interrupts: Interrupts::None };
    let end = driver.follow(&interrupted);
    driver.display.finish();
    let mut answer = Answer::begin();
    answer.line(&summary(&end?, &plan.to.to_string()));
    // The guest has arrived, and the status says so.
    if let Err(error) = answer.finish() {
        say(&sentence(&error));
    }
    Ok(())
}

/// Starts a migration of the virtual machine behind `vm`, with `parameters` set first; the rest stays as it is set there.
pub fn start(vm: &mut Connection, to: &Uri, parameters: Map<String, Value>) -> Result<(), QmpError> {
    let events = json!([{"capability": "events", "state": true}]);
    vm.execute("migrate-set-capabilities", one("capabilities", events))?;
    if !parameters.is_empty() {
        vm.execute("migrate-set-parameters", parameters)?;
    }
    vm.execute("migrate", one("uri", to.to_string().into()))?;
    Ok(())
}

fn one(name: &str, value: Value) -> Map<String, Value> {
    Map::from_iter([(name.to_owned(), value)])
}

/// What came of Ctrl-C so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interrupts {
    /// Not pressed.
    None,
    /// Pressed, and cancelling was asked for.
    Cancelling,
    /// Pressed too late, and said so.
    TooLate,
}

struct Driver {
    vm: Connection,
    display: Display,
    interrupts: Interrupts,
}

impl Driver {
    /// Follows the migration to its end.
    fn follow(&mut self, interrupted: &AtomicBool) -> Result<Progress, DriveError> {
        loop {
            let now = Progress::of(&self.vm.execute("query-migrate", Map::new())?);
            self.display.show(&now);
            let reason = now.error.clone();
            let reason = || reason.unwrap_or_else(|| "no reason was given".to_owned());
            match now.phase() {
                Phase::Completed => return Ok(now),
                Phase::Failed => return Err(DriveError::Failed(reason())),
                Phase::Cancelled => return Err(DriveError::Cancelled),
                Phase::Paused => return Err(DriveError::Paused(reason())),
                phase @ (Phase::Revocable | Phase::Committed) => {
                    if interrupted.swap(false, Ordering::Relaxed) {
                        self.interrupted(phase)?;
                    }
                }
            }
            // A status event ends the wait at once; a pass event does too, which costs one more query.
            self.vm.event(REFRESH)?;
        }
    }

    fn interrupted(&mut self, phase: Phase) -> Result<(), DriveError> {
        if self.interrupts == Interrupts::TooLate {
            return Err(DriveError::Left);
        }
        if phase == Phase::Revocable {
            match self.vm.execute("migrate_cancel", Map::new()) {
                Ok(_) => {
                    self.interrupts = Interrupts::Cancelling;
                    self.display.say("Cancelling.");
                    return Ok(());
                }
                // It went on meanwhile: too late after all.
                Err(QmpError::Refused(why)) => self.display.say(&why),
                Err(error) => return Err(error.into()),
            }
        }
        self.interrupts = Interrupts::TooLate;
        self.display.say(
            "Too late to cancel: the guest already runs on the destination, and part of its memory is still here. \
             Ctrl-C again leaves the migration to itself.",
        );
        Ok(())
    }
}
