//! The monitor for people: a line in, text out.

mod parse;
mod session;

use super::command::{Answer, Awaited, Context};
use super::vm::Vm;
use crate::fds::Handed;
use crate::sentence::sentence;

pub use session::HmpSession;

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
    let (face, args) = match parse::parse(line) {
        Ok(None) => return Answer::text(String::new()),
        Ok(Some(command)) => command,
        Err(error) => return Answer::text(format!("{error}\n")),
    };
    let answer = (face.handler)(&args, &mut Context { vm, handed, vcpu, hmp: run_detached });
    answer.unwrap_or_else(|error| Answer::text(format!("Error: {}\n", sentence(&error))))
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

#[cfg(test)]
mod tests;
