//! What arguments a command takes, and the arguments it got: the same for both faces.

use serde_json::{Map, Value};

use super::error::CommandError;

/// The type of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A word (HMP) or a string (QMP).
    Text,
    /// HMP: everything up to the end of the line.
    Line,
    /// HMP: an option letter, such as `-d`.
    Switch(char),
    /// `on` or `off` (HMP), true or false (QMP).
    Bool,
    /// A number without a fraction.
    Integer,
    /// The same up to 2^64; one below 0 counts from there, as in QEMU.
    Size,
    /// QMP: a string or null, which is as good as an empty one.
    TextOrNull,
    /// The same, but nothing other than nothing is supported.
    Nothing,
    /// QMP: an array; the command looks into it.
    Array,
    /// An argument of QEMU's that is refused by name.
    Unsupported,
}

/// One argument that a command takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Whether it may be left out.
    pub optional: bool,
}

impl Param {
    /// An argument that must be there.
    pub const fn required(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, optional: false }
    }

    /// An argument that may be left out.
    pub const fn optional(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, optional: true }
    }
}

/// The arguments that a command got, checked against its [`Param`]s.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Args(Map<String, Value>);

impl Args {
    /// Checks QMP's `arguments`: no unknown name, nothing missing, every type right.
    pub fn check(params: &[Param], given: Map<String, Value>) -> Result<Self, CommandError> {
        for param in params {
            match given.get(param.name) {
                Some(value) => check_type(param, value)?,
                None if param.optional => {}
                None => return Err(CommandError::Missing(param.name.to_owned())),
            }
        }
        let known = |name: &str| params.iter().any(|param| param.name == name);
        match given.keys().find(|name| !known(name)) {
            Some(name) => Err(CommandError::unexpected(name, params.iter().map(|param| param.name))),
            None => Ok(Self(given)),
        }
    }

    /// Adds one that HMP's parser found.
    pub fn insert(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// A text that must be there.
    pub fn text(&self, name: &str) -> Result<&str, CommandError> {
        self.optional_text(name).ok_or_else(|| CommandError::Missing(name.to_owned()))
    }

    /// A text that may be there.
    pub fn optional_text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// A switch or bool, if given.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.0.get(name).and_then(Value::as_bool)
    }

    /// A text, if given; null is an empty one.
    pub fn text_or_null(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|value| if value.is_null() { Some("") } else { value.as_str() })
    }

    /// A size, if given.
    pub fn size(&self, name: &str) -> Option<u64> {
        let value = self.0.get(name)?;
        value.as_u64().or_else(|| value.as_i64().map(|it| it as u64))
    }

    /// An integer, if given.
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.0.get(name).and_then(Value::as_i64)
    }

    /// The texts in an array; empty if not given. Anything else in it is refused.
    pub fn texts(&self, name: &str) -> Result<Vec<String>, CommandError> {
        let wrong = |at| CommandError::WrongType { name: format!("{name}[{at}]"), expected: "string" };
        let text = |(at, value): (usize, &Value)| value.as_str().map(str::to_owned).ok_or_else(|| wrong(at));
        self.array(name).iter().enumerate().map(text).collect()
    }

    /// An array; empty if not given.
    pub fn array(&self, name: &str) -> &[Value] {
        self.0.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
}

fn check_type(param: &Param, value: &Value) -> Result<(), CommandError> {
    let (fits, expected) = match param.kind {
        Kind::Text | Kind::Line => (value.is_string(), "string"),
        Kind::Switch(_) | Kind::Bool => (value.is_boolean(), "boolean"),
        Kind::Integer => (value.is_i64(), "integer"),
        Kind::Size => (value.is_i64() || value.is_u64(), "integer"),
        Kind::TextOrNull => (value.is_string() || value.is_null(), "string"),
        Kind::Array => (value.is_array(), "array"),
        Kind::Nothing if value.is_null() || value.as_str() == Some("") => return Ok(()),
        Kind::Nothing => return Err(CommandError::Unsupported(param.name)),
        Kind::Unsupported => return Err(CommandError::Unsupported(param.name)),
    };
    match fits {
        true => Ok(()),
        false => Err(CommandError::WrongType { name: param.name.to_owned(), expected }),
    }
}
