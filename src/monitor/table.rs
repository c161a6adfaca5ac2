//! The command table: each command's names, arguments and help, for both faces. There is no other
//! list of commands.

mod balloon;
mod channels;
mod dirty;
mod fds;
mod machine;
mod migration;
mod network;
mod pages;
mod registers;
mod snapshots;
mod yank;

use super::args::{Args, Kind, Param};
use super::error::CommandError;
use super::request::Request;
use crate::nearest;

/// Makes the typed request out of checked arguments.
pub type Build = fn(&Args) -> Result<Request, CommandError>;

/// How one face spells a command.
#[derive(Clone, Copy, Debug)]
pub struct Face {
    /// Its name; HMP's `info` commands have two words.
    pub name: &'static str,
    /// Other names, shorter ones mostly.
    pub aliases: &'static [&'static str],
    /// What it takes.
    pub params: &'static [Param],
    /// Makes the request.
    pub build: Build,
    /// QMP: whether `exec-oob` may ask for it.
    pub out_of_band: bool,
}

/// One command.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// What it does, one line.
    pub help: &'static str,
    /// For people.
    pub hmp: Option<Face>,
    /// For programs.
    pub qmp: Option<Face>,
}

const fn face(name: &'static str, params: &'static [Param], build: Build) -> Option<Face> {
    Some(Face { name, aliases: &[], params, build, out_of_band: false })
}

const fn aliased(face: Option<Face>, aliases: &'static [&'static str]) -> Option<Face> {
    match face {
        Some(face) => Some(Face { aliases, ..face }),
        None => None,
    }
}

/// The same for QMP's `exec-oob`, too.
const fn out_of_band(face: Option<Face>) -> Option<Face> {
    match face {
        Some(face) => Some(Face { out_of_band: true, ..face }),
        None => None,
    }
}

/// All commands, in the order in which `help` shows them.
pub fn commands() -> impl Iterator<Item = &'static Command> {
    machine::COMMANDS
        .iter()
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
pub fn find_hmp(name: &str) -> Option<(&'static Command, &'static Face)> {
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
pub fn find_qmp(name: &str) -> Option<&'static Face> {
    commands().filter_map(|command| command.qmp.as_ref()).find(|face| face.name == name)
}

impl Face {
    /// How to write it in HMP: `migrate [-d] [-r] uri`.
    pub fn usage(&self) -> String {
        let mut usage = std::iter::once(&self.name).chain(self.aliases).copied().collect::<Vec<_>>().join("|");
        for param in self.params {
            usage.push(' ');
            match (param.kind, param.optional) {
                (Kind::Switch(letter), _) => usage.push_str(&format!("[-{letter}]")),
                (_, true) => usage.push_str(&format!("[{}]", param.name)),
                (Kind::Bool, false) => usage.push_str("on|off"),
                (_, false) => usage.push_str(param.name),
            }
        }
        usage
    }

    /// What it takes in QMP: `uri, [resume]`, without what is refused anyway.
    pub fn members(&self) -> String {
        let members: Vec<String> = self
            .params
            .iter()
            .filter(|param| param.kind != Kind::Unsupported)
            .map(|param| match param.optional {
                true => format!("[{}]", param.name),
                false => param.name.to_owned(),
            })
            .collect();
        members.join(", ")
    }
}

#[cfg(test)]
mod coming_from_qemu;
#[cfg(test)]
mod compatibility;
#[cfg(test)]
mod qemu_schema;
#[cfg(test)]
mod tests;
