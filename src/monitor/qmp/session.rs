//! A QMP client: greeting, negotiation, commands, events.

use std::os::fd::OwnedFd;

use serde_json::{Map, Value, json};

use super::command::{EXEC_OOB, RawCommand, take_apart};
use crate::fds::Handed;
use crate::monitor::args::Args;
use crate::monitor::command::Context;
use crate::monitor::error::CommandError;
use crate::monitor::event::Event;
use crate::monitor::hmp;
use crate::monitor::session::{Flow, Session};
use crate::monitor::splitter::{Piece, Splitter};
use crate::monitor::table::{NEGOTIATE, NEGOTIATION, find_qmp, hint_qmp, version};
use crate::monitor::vm::Vm;
use crate::sentence::sentence;

/// QMP's capability to use `exec-oob`.
const OOB: &str = "oob";

/// What the client has agreed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Nothing: before `qmp_capabilities` nothing else is executed and no event is sent.
    Negotiating,
    /// Commands.
    Commands {
        /// `exec-oob`, too.
        oob: bool,
    },
}

/// A QMP client.
#[derive(Debug)]
pub struct QmpSession {
    splitter: Splitter,
    mode: Mode,
    handed: Handed,
}

impl QmpSession {
    /// A new conversation.
    pub fn new() -> Self {
        Self { splitter: Splitter::new(), mode: Mode::Negotiating, handed: Handed::default() }
    }

    fn answer(&mut self, bytes: &[u8], vm: &dyn Vm) -> Value {
        let (id, command) = take_apart(bytes);
        response(id, command.and_then(|command| self.perform(command, vm)))
    }

    fn perform(&mut self, command: RawCommand, vm: &dyn Vm) -> Result<Value, CommandError> {
        if command.out_of_band && self.mode != (Mode::Commands { oob: true }) {
            return Err(CommandError::NotACommand(format!("member '{EXEC_OOB}' is unexpected")));
        }
        if command.name == NEGOTIATE && command.out_of_band {
            return Err(CommandError::NotOutOfBand(NEGOTIATE));
        }
        if command.name == NEGOTIATE {
            return self.negotiate(command.arguments);
        }
        if self.mode == Mode::Negotiating {
            return Err(CommandError::NotNegotiated);
        }
        let not_found = || CommandError::NotFound { name: command.name.clone(), hint: hint_qmp(&command.name) };
        let face = find_qmp(&command.name).ok_or_else(not_found)?;
        if command.out_of_band && !face.out_of_band {
            return Err(CommandError::NotOutOfBand(face.name));
        }
        let args = Args::check(face.params, command.arguments)?;
        (face.handler)(&args, &mut Context { vm, handed: &mut self.handed, vcpu: 0, hmp: hmp::run_detached })
    }

    fn negotiate(&mut self, arguments: Map<String, Value>) -> Result<Value, CommandError> {
        if self.mode != Mode::Negotiating {
            return Err(CommandError::NegotiatedTwice);
        }
        let args = Args::check(NEGOTIATION, arguments)?;
        let wanted = args.texts("enable")?;
        if let Some(other) = wanted.iter().find(|name| *name != OOB) {
            return Err(CommandError::NotOffered(other.clone()));
        }
        self.mode = Mode::Commands { oob: !wanted.is_empty() };
        Ok(json!({}))
    }
}

impl Default for QmpSession {
    fn default() -> Self {
        Self::new()
    }
}

impl Session for QmpSession {
    fn greet(&mut self, out: &mut Vec<u8>) {
        write_line(out, &json!({"QMP": {"version": version(), "capabilities": [OOB]}}));
    }

    fn receive(&mut self, mut input: &[u8], vm: &dyn Vm, out: &mut Vec<u8>) -> Flow {
        while let Some(piece) = self.splitter.next(&mut input) {
            match piece {
                Piece::Value(bytes) => write_line(out, &self.answer(&bytes, vm)),
                Piece::Stray(text) => {
                    let error = CommandError::Json(format!("stray '{text}'"));
                    write_line(out, &response(None, Err(error)));
                }
                Piece::Excess(what) => {
                    let error = CommandError::Json(what.to_owned());
                    write_line(out, &response(None, Err(error)));
                    return Flow::Close;
                }
            }
        }
        Flow::Continue
    }

    fn hand(&mut self, fds: Vec<OwnedFd>) {
        self.handed.replace(fds);
    }

    fn answers_behind_events(&self) -> bool {
        true
    }

    fn notify(&mut self, event: &Event, _vm: &dyn Vm, out: &mut Vec<u8>) -> Flow {
        if self.mode != Mode::Negotiating {
            write_line(out, &event.to_json());
        }
        Flow::Continue
    }
}

fn response(id: Option<Value>, result: Result<Value, CommandError>) -> Value {
    let mut fields = Map::new();
    if let Some(id) = id {
        fields.insert("id".to_owned(), id);
    }
    match result {
        Ok(value) => fields.insert("return".to_owned(), value),
        Err(error) => fields.insert("error".to_owned(), json!({"class": error.class(), "desc": sentence(&error)})),
    };
    Value::Object(fields)
}

fn write_line(out: &mut Vec<u8>, value: &Value) {
    out.extend_from_slice(value.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}
