//! An HMP client: prompts, lines, and waiting for a migration without holding anybody up.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::{run, with_carriage_returns};
use crate::fds::Handed;
use crate::monitor::command::Awaited;
use crate::monitor::event::Event;
use crate::monitor::info_migrate::{progress_bar, progress_line};
use crate::monitor::session::{Flow, Session};
use crate::monitor::vm::Vm;
use crate::snapshots::JobStatus;
use whimbrel_postcopy::stats::Status;

/// Back to the begin of a terminal's line, which is empty then.
const CLEAR: &str = "\r\x1b[K";
const PROMPT: &str = "(whimbrel) ";
/// The longest line taken, in bytes.
const MAX_LINE: usize = 64 << 10;

/// Where an HMP conversation stands.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// At the prompt.
    Prompt,
    /// The prompt comes back when this has ended.
    Waiting(Awaited),
}

/// What a client sees while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Display {
    /// A line now and then: it may be a program, or a file.
    Lines,
    /// A bar that stays where it is.
    Bar,
}

impl Display {
    /// How often it changes.
    const fn every(self) -> Duration {
        match self {
            Self::Lines => Duration::from_secs(1),
            Self::Bar => Duration::from_millis(200),
        }
    }
}

/// An HMP client.
#[derive(Debug)]
pub struct HmpSession {
    /// What came after the last line that was executed.
    pending: Vec<u8>,
    state: State,
    display: Display,
    handed: Handed,
}

impl HmpSession {
    /// A new conversation.
    pub fn new() -> Self {
        Self { pending: Vec::new(), state: State::Prompt, display: Display::Lines, handed: Handed::default() }
    }

    /// A new conversation on a terminal.
    pub fn on_terminal() -> Self {
        Self { display: Display::Bar, ..Self::new() }
    }

    /// Executes the complete lines in `pending`, until one of them has to wait.
    fn run_lines(&mut self, vm: &dyn Vm, out: &mut Vec<u8>) -> Flow {
        let mut done = 0;
        while self.state == State::Prompt
            && let Some(length) = self.pending[done..].iter().position(|byte| *byte == b'\n')
        {
            let line = String::from_utf8_lossy(&self.pending[done..done + length]).into_owned();
            done += length + 1;
            let answer = run(&line, vm, &mut self.handed);
            say(out, &answer.text);
            match answer.waits {
                Some(awaited) => self.state = State::Waiting(awaited),
                None => out.extend_from_slice(PROMPT.as_bytes()),
            }
        }
        self.pending.drain(..done);
        if self.state == State::Prompt && self.pending.len() > MAX_LINE {
            say(out, "Error: the line is longer than 64 KiB\n");
            return Flow::Close;
        }
        Flow::Continue
    }

    /// Gives the prompt back once what is waited for has ended, or a migration paused.
    fn look(&mut self, vm: &dyn Vm, out: &mut Vec<u8>) -> Flow {
        let text = match &self.state {
            State::Prompt => return Flow::Continue,
            State::Waiting(Awaited::Migration) => self.migration_end(vm),
            State::Waiting(Awaited::Job(id)) => job_end(id, vm),
        };
        let Some(text) = text else { return Flow::Continue };
        say(out, &text);
        out.extend_from_slice(PROMPT.as_bytes());
        self.state = State::Prompt;
        self.run_lines(vm, out)
    }

    /// What there is to say of the migration's end; `None` while it goes on.
    fn migration_end(&self, vm: &dyn Vm) -> Option<String> {
        let report = vm.report();
        let status = report.as_ref().map_or(Status::None, |it| it.1.status);
        if !status.is_ended() && status != Status::PostcopyPaused {
            return None;
        }
        let error = report.and_then(|it| it.1.error);
        let text = match error {
            Some(error) => format!("Error: migration {}: {error}\n", status.name()),
            None => format!("migration {}\n", status.name()),
        };
        Some(if self.display == Display::Bar { format!("{CLEAR}{text}") } else { text })
    }
}

fn say(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(with_carriage_returns(text).as_bytes());
}

/// The same of a job, which is forgotten with that.
fn job_end(id: &str, vm: &dyn Vm) -> Option<String> {
    let job = vm.jobs().into_iter().find(|job| job.id == id);
    if job.as_ref().is_some_and(|job| job.status != JobStatus::Concluded) {
        return None;
    }
    if let Err(error) = vm.dismiss_job(id) {
        log::debug!("{error}");
    }
    let error = job.and_then(|job| job.error);
    Some(error.map_or_else(String::new, |error| format!("Error: {error}\n")))
}

impl Default for HmpSession {
    fn default() -> Self {
        Self::new()
    }
}

impl Session for HmpSession {
    fn greet(&mut self, out: &mut Vec<u8>) {
        let version = env!("CARGO_PKG_VERSION");
        let text = format!("Whimbrel {version} monitor - type 'help' for more information\n{PROMPT}");
        say(out, &text);
    }

    fn receive(&mut self, input: &[u8], vm: &dyn Vm, out: &mut Vec<u8>) -> Flow {
        self.pending.extend_from_slice(input);
        self.run_lines(vm, out)
    }

    fn hand(&mut self, fds: Vec<OwnedFd>) {
        self.handed.replace(fds);
    }

    fn wants_input(&self) -> bool {
        self.state == State::Prompt
    }

    fn notify(&mut self, _event: &Event, vm: &dyn Vm, out: &mut Vec<u8>) -> Flow {
        self.look(vm, out)
    }

    fn tick_every(&self) -> Option<Duration> {
        matches!(self.state, State::Waiting(_)).then_some(self.display.every())
    }

    fn tick(&mut self, vm: &dyn Vm, out: &mut Vec<u8>) -> Flow {
        // Looks too, so that a lost event cannot hold the prompt back for ever.
        let said = out.len();
        let flow = self.look(vm, out);
        // A line that had come meanwhile may have begun another migration, which has nothing to
        // show yet.
        if out.len() == said
            && self.state == State::Waiting(Awaited::Migration)
            && let Some((_, report)) = vm.report()
        {
            let text = match self.display {
                Display::Lines => progress_line(&report),
                Display::Bar => format!("{CLEAR}{}", progress_bar(&report)),
            };
            say(out, &text);
        }
        flow
    }
}
