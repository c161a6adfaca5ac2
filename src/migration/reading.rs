//! What people write for a parameter's value.

use super::parameters::{Form, Parameter};
use super::setting::Setting;
use crate::size::{SizeError, parse_size};

/// A text that is no value of the parameter's kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Another kind.
    #[error("Invalid parameter type for '{name}', expected: {expected}")]
    Kind {
        /// The parameter.
        name: &'static str,
        /// What would be right.
        expected: &'static str,
    },
    /// No size.
    #[error(transparent)]
    Size(#[from] SizeError),
}

impl Parameter {
    /// Reads a value: a bandwidth without a suffix is in MiB, any other size without one in bytes.
    /// Whether it is in range is seen when it is set.
    pub fn read(&self, text: &str) -> Result<Setting, ReadError> {
        const MIB: u64 = 1 << 20;
        let wrong = |expected| ReadError::Kind { name: self.name, expected };
        let size = |unit| Ok(Setting::Number(parse_size(text, unit)?.into()));
        match self.form {
            // As QEMU's people write an empty text.
            Form::Text | Form::Word => Ok(Setting::from(if text == "\"\"" { "" } else { text })),
            Form::Size => size(MIB),
            Form::Bytes => size(1),
            Form::Number => Ok(Setting::Number(text.parse().map_err(|_| wrong("integer"))?)),
            Form::Flag => match text {
                "on" => Ok(Setting::Flag(true)),
                "off" => Ok(Setting::Flag(false)),
                _ => Err(wrong("'on' or 'off'")),
            },
        }
    }
}
