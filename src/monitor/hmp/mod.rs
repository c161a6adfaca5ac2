//! The monitor for people: a line in, text out.

mod parse;
mod render;
mod session;

use whimbrel_postcopy::error::sentence;

use super::execute::execute;
use super::request::Request;
use super::vm::Vm;
use crate::fds::Handed;

pub use session::HmpSession;

/// What a line led to.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the user sees: empty, or whole lines.
    pub text: String,
    /// A migration was started and the user wants to see its end before the next prompt.
    pub waits: bool,
}

/// Executes one line of a client that handed over some descriptors.
pub fn run(line: &str, vm: &dyn Vm, handed: &mut Handed) -> Answer {
    let request = match parse::parse(line) {
        Ok(None) => return Answer::of(String::new()),
        Ok(Some(request)) => request,
        Err(error) => return Answer::of(format!("{error}\n")),
    };
    let waits = matches!(request, Request::Migrate { wait: true, .. });
    match execute(request, vm, handed) {
        Ok(reply) => Answer { text: render::render(&reply), waits },
        Err(error) => Answer::of(format!("Error: {}\n", sentence(&error))),
    }
}

/// Executes one line for a client that cannot wait (QMP's `human-monitor-command`).
pub fn run_detached(line: &str, vm: &dyn Vm) -> String {
    let answer = run(line, vm, &mut Handed::default());
    match answer.waits {
        true => format!("{}this connection cannot wait for the migration: it continues detached\n", answer.text),
        false => answer.text,
    }
}

impl Answer {
    fn of(text: String) -> Self {
        Self { text, waits: false }
    }
}

#[cfg(test)]
mod tests;
