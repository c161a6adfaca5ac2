//! The command table. A command is one row of one file here: its names, arguments and help for both
//! faces, its handlers and what they answer. There is no other list of commands.

mod balloon;
mod block;
mod capabilities;
mod channels;
mod dirty;
mod fds;
mod introspection;
mod machine;
mod migration;
mod network;
mod pages;
mod parameters;
mod registers;
mod schema;
mod snapshots;
mod yank;

use super::args::{Kind, Param};
use super::command::{Command, Face, HmpHandler, QmpHandler};
use crate::nearest;

pub use machine::version;

/// QMP's command without a row: what it does is the session's alone.
pub const NEGOTIATE: &str = "qmp_capabilities";
/// What it takes.
pub const NEGOTIATION: &[Param] = &[Param::optional("enable", Kind::Array)];

/// All commands, in the order in which `help` shows them.
pub fn commands() -> impl Iterator<Item = &'static Command> {
    introspection::COMMANDS
        .iter()
        .chain(machine::COMMANDS)
        .chain(registers::COMMANDS)
        .chain(balloon::COMMANDS)
        .chain(fds::COMMANDS)
        .chain(network::COMMANDS)
        .chain(migration::COMMANDS)
        .chain(pages::COMMANDS)
        .chain(dirty::COMMANDS)
        .chain(snapshots::COMMANDS)
        .chain(yank::COMMANDS)
}

/// Finds a command by HMP's name or alias.
pub fn find_hmp(name: &str) -> Option<(&'static Command, &'static Face<HmpHandler>)> {
    commands()
        .filter_map(|command| Some((command, command.hmp.as_ref()?)))
        .find(|(_, face)| face.name == name || face.aliases.contains(&name))
}

/// What an unknown command of HMP may have meant, as the end of a sentence.
pub fn hint_hmp(name: &str) -> String {
    nearest::hint(name, commands().filter_map(|command| Some(command.hmp.as_ref()?.name)))
}

/// The same of QMP's.
pub fn hint_qmp(name: &str) -> String {
    nearest::hint(name, commands().filter_map(|command| Some(command.qmp.as_ref()?.name)))
}

/// Finds a command by QMP's name.
pub fn find_qmp(name: &str) -> Option<&'static Face<QmpHandler>> {
    commands().filter_map(|command| command.qmp.as_ref()).find(|face| face.name == name)
}

#[cfg(test)]
mod coming_from_qemu;
#[cfg(test)]
mod compatibility;
#[cfg(test)]
mod qemu_schema;
#[cfg(test)]
mod tests;
