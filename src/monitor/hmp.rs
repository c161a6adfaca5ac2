//! The monitor for people: a line in, text out.

mod parse;
mod render;
mod session;

use super::execute::execute;
use super::request::{Reply, Request, Whose};
use super::vm::Vm;
use crate::fds::Handed;
use crate::sentence::sentence;

pub use session::HmpSession;

/// What a line led to.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the user sees: empty, or whole lines.
    pub text: String,
    /// Something was started and the user wants to see its end before the next prompt.
    pub waits: Option<Awaited>,
}

/// What a client waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// The migration.
    Migration,
    /// The job of this name.
    Job(String),
}

/// As QEMU ends lines, on a terminal or not.
pub fn with_carriage_returns(text: &str) -> String {
    text.replace('\n', "\r\n")
}

/// Executes one line of a client that handed over some descriptors.
pub fn run(line: &str, vm: &dyn Vm, handed: &mut Handed) -> Answer {
    run_on(line, vm, handed, 0)
}

/// The same for a client whose commands are about this vCPU where they name none.
fn run_on(line: &str, vm: &dyn Vm, handed: &mut Handed, vcpu: usize) -> Answer {
    let request = match parse::parse(line) {
        Ok(None) => return Answer::of(String::new()),
        Ok(Some(Request::QueryRegisters(Whose::Current))) => Request::QueryRegisters(Whose::Of(vcpu)),
        Ok(Some(request)) => request,
        Err(error) => return Answer::of(format!("{error}\n")),
    };
    let waits = matches!(request, Request::Migrate { wait: true, .. }).then_some(Awaited::Migration);
    match execute(request, vm, handed) {
        Ok(Reply::Job(id)) => Answer { text: String::new(), waits: Some(Awaited::Job(id)) },
        Ok(reply) => Answer { text: render::render(&reply), waits },
        Err(error) => Answer::of(format!("Error: {}\n", sentence(&error))),
    }
}

/// Executes one line for a client that cannot wait (QMP's `human-monitor-command`), on this vCPU
/// where it names none. Lines end as QEMU's do.
pub fn run_detached(line: &str, vm: &dyn Vm, vcpu: usize) -> String {
    let answer = run_on(line, vm, &mut Handed::default(), vcpu);
    let what = match answer.waits {
        Some(Awaited::Migration) => "migration",
        Some(Awaited::Job(_)) => "snapshot",
        None => return with_carriage_returns(&answer.text),
    };
    let text = format!("{}this connection cannot wait for the {what}: it continues detached\n", answer.text);
    with_carriage_returns(&text)
}

impl Answer {
    fn of(text: String) -> Self {
        Self { text, waits: None }
    }
}

#[cfg(test)]
mod tests;
