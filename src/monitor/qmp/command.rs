//! A JSON value to a command's name, arguments and id, with QEMU's words for what is wrong.

use serde_json::{Map, Value};

use super::quotes::standard;
use crate::monitor::error::CommandError;

/// A QMP command, not yet looked up.
#[derive(Debug, PartialEq)]
pub struct RawCommand {
    /// `execute`.
    pub name: String,
    /// `arguments`.
    pub arguments: Map<String, Value>,
    /// Whether it came as `exec-oob`.
    pub out_of_band: bool,
}

const EXECUTE: &str = "execute";
/// The name of a command that may overtake others.
pub const EXEC_OOB: &str = "exec-oob";

/// Takes a value apart: the id goes into the answer whatever is wrong with the rest.
pub fn take_apart(bytes: &[u8]) -> (Option<Value>, Result<RawCommand, CommandError>) {
    let refuse = |what: &str| CommandError::NotACommand(what.to_owned());
    match serde_json::from_slice(&standard(bytes)) {
        Ok(Value::Object(mut fields)) => {
            let id = fields.shift_remove("id");
            (id, command(fields))
        }
        Ok(_) => (None, Err(refuse("must be a JSON object"))),
        Err(error) => (None, Err(CommandError::Json(error.to_string()))),
    }
}

fn command(mut fields: Map<String, Value>) -> Result<RawCommand, CommandError> {
    let refuse = |what: String| Err(CommandError::NotACommand(what));
    let (key, name) = match (fields.shift_remove(EXECUTE), fields.shift_remove(EXEC_OOB)) {
        (Some(_), Some(_)) => return refuse(format!("member '{EXEC_OOB}' clashes with '{EXECUTE}'")),
        (None, Some(name)) => (EXEC_OOB, Some(name)),
        (name, None) => (EXECUTE, name),
    };
    let arguments = match fields.shift_remove("arguments") {
        Some(Value::Object(arguments)) => arguments,
        Some(_) => return refuse("member 'arguments' must be an object".to_owned()),
        None => Map::new(),
    };
    match (fields.keys().next(), name) {
        (Some(other), _) => refuse(format!("member '{other}' is unexpected")),
        (None, None) => refuse(format!("lacks member '{EXECUTE}'")),
        (None, Some(Value::String(name))) => Ok(RawCommand { name, arguments, out_of_band: key == EXEC_OOB }),
        (None, Some(_)) => refuse(format!("member '{key}' must be a string")),
    }
}
