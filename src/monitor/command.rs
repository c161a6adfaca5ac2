//! [`Command`]: a row of the command table, and what its handlers get and give.
//!
//! A handler runs on the main loop's thread, which serves every client: it never waits for a guest
//! or for a migration.

use serde_json::{Value, json};

use super::args::{Args, Kind, Param};
use super::error::CommandError;
use super::vm::Vm;
use crate::fds::Handed;

/// One command.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// What it does, one line.
    pub help: &'static str,
    /// For people.
    pub hmp: Option<Face<HmpHandler>>,
    /// For programs.
    pub qmp: Option<Face<QmpHandler>>,
}

/// How one face spells and executes a command.
#[derive(Clone, Copy, Debug)]
pub struct Face<H> {
    /// Its name; HMP's `info` commands have two words.
    pub name: &'static str,
    /// Other names, shorter ones mostly.
    pub aliases: &'static [&'static str],
    /// What it takes.
    pub params: &'static [Param],
    /// Executes it, with arguments that fit `params`.
    pub handler: H,
    /// QMP: whether `exec-oob` may ask for it.
    pub out_of_band: bool,
}

/// Executes a command of HMP.
pub type HmpHandler = fn(&Args, &mut Context<'_>) -> Result<Answer, CommandError>;
/// Executes a command of QMP; gives what stands after `"return":`.
pub type QmpHandler = fn(&Args, &mut Context<'_>) -> Result<Value, CommandError>;

/// What a handler works with.
pub struct Context<'a> {
    /// The virtual machine.
    pub vm: &'a dyn Vm,
    /// The descriptors that the client handed over.
    pub handed: &'a mut Handed,
    /// HMP: the vCPU that a command is about if it names none.
    pub vcpu: usize,
    /// QMP: executes a line of HMP, for `human-monitor-command`.
    pub hmp: fn(&str, &dyn Vm, usize) -> String,
}

/// What a line of HMP led to.
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

impl Answer {
    /// A text, and nothing to wait for.
    pub const fn text(text: String) -> Self {
        Self { text, waits: None }
    }
}

/// HMP: nothing to say but that it is done, which the prompt says.
pub fn quiet<E: Into<CommandError>>(result: Result<(), E>) -> Result<Answer, CommandError> {
    result.map(|()| Answer::text(String::new())).map_err(Into::into)
}

/// HMP: this text.
pub fn say(text: impl Into<String>) -> Result<Answer, CommandError> {
    Ok(Answer::text(text.into()))
}

/// QMP: nothing to say but that it is done.
pub fn done<E: Into<CommandError>>(result: Result<(), E>) -> Result<Value, CommandError> {
    result.map(|()| json!({})).map_err(Into::into)
}

pub(super) const fn hmp(name: &'static str, params: &'static [Param], handler: HmpHandler) -> Option<Face<HmpHandler>> {
    Some(Face { name, aliases: &[], params, handler, out_of_band: false })
}

pub(super) const fn qmp(name: &'static str, params: &'static [Param], handler: QmpHandler) -> Option<Face<QmpHandler>> {
    Some(Face { name, aliases: &[], params, handler, out_of_band: false })
}

/// The same with other names.
pub(super) const fn aliased(
    face: Option<Face<HmpHandler>>,
    aliases: &'static [&'static str],
) -> Option<Face<HmpHandler>> {
    match face {
        Some(face) => Some(Face { aliases, ..face }),
        None => None,
    }
}

/// The same for `exec-oob`, too.
pub(super) const fn out_of_band(face: Option<Face<QmpHandler>>) -> Option<Face<QmpHandler>> {
    match face {
        Some(face) => Some(Face { out_of_band: true, ..face }),
        None => None,
    }
}

impl<H> Face<H> {
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
