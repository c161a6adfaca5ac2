//! What capabilities and parameters are set to, and why one cannot be.

use std::fmt;

/// What a parameter is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// A number, in the parameter's own unit.
    Number(i128),
    /// A text, empty for none.
    Text(String),
    /// On or off.
    Flag(bool),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => write!(f, "'{text}'"),
            Self::Flag(on) => f.write_str(if *on { "on" } else { "off" }),
        }
    }
}

impl From<i64> for Setting {
    fn from(number: i64) -> Self {
        Self::Number(number.into())
    }
}

impl From<bool> for Setting {
    fn from(on: bool) -> Self {
        Self::Flag(on)
    }
}

impl From<&str> for Setting {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// A capability or parameter that cannot be set so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// QEMU knows it, this program does not have it.
    #[error("capability {0} is not supported")]
    CapabilityUnsupported(&'static str),
    /// It is how this program works.
    #[error("capability {0} is always on here and cannot be switched off")]
    AlwaysOn(&'static str),
    /// QEMU knows it, this program does not have it.
    #[error("parameter {0} is not supported")]
    ParameterUnsupported(&'static str),
    /// A word that is none of those it may be.
    #[error("Parameter '{name}' does not accept value '{value}': it is {expected}")]
    NotAccepted {
        /// The parameter.
        name: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// QEMU's ways to replace a process by its successor.
    #[error(
        "mode '{0}' is not supported: here capability x-ignore-shared hands a guest's memory to another process of the same host"
    )]
    ModeUnsupported(String),
    /// Outside what makes sense.
    #[error("Parameter '{name}' expects {expected}")]
    OutOfRange {
        /// The parameter.
        name: &'static str,
        /// What would be right.
        expected: &'static str,
    },
}
