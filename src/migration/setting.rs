//! What capabilities and parameters are set to, and why one cannot be.

use std::fmt;

/// What a parameter is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// A number, in the parameter's own unit.
    Number(i64),
    /// On or off.
    Switch(bool),
    /// A text, empty for none.
    Text(String),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Switch(on) => f.write_str(if *on { "on" } else { "off" }),
            Self::Text(text) => write!(f, "'{text}'"),
        }
    }
}

impl From<i64> for Setting {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Setting {
    fn from(on: bool) -> Self {
        Self::Switch(on)
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
    /// Outside what makes sense.
    #[error("Parameter '{name}' expects {expected}")]
    OutOfRange {
        /// The parameter.
        name: &'static str,
        /// What would be right.
        expected: &'static str,
    },
}
