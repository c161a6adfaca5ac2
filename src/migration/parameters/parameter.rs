//! [`Parameter`]: what is known of a migration parameter, and how it is read and set.

use std::fmt;
use std::ops::RangeInclusive;

use super::Parameters;
use crate::migration::setting::{Setting, SettingError};

/// A migration parameter: a row of [`PARAMETERS`](super::PARAMETERS).
pub struct Parameter {
    /// QEMU's name; `x-` for what QEMU does not have.
    pub name: &'static str,
    /// What its number counts, as `info migrate_parameters` shows it; empty if the name says it.
    pub unit: &'static str,
    /// How HMP and QMP write its value.
    pub form: Form,
    /// Whether it can change during a migration.
    pub live: Live,
    /// Which values it takes, as the end of "Parameter 'NAME' expects".
    pub(super) expected: &'static str,
    pub(super) access: Access,
}

/// How HMP and QMP write a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A number.
    Number,
    /// A number of bytes per second; HMP takes a suffix, and a bare number is in MiB.
    Size,
    /// A number of bytes; HMP takes a suffix.
    Bytes,
    /// A text, empty for none.
    Text,
    /// One of some words.
    Word,
    /// On or off.
    Flag,
}

/// Whether a parameter can change while a migration is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// At any time.
    Always,
    /// Only while a postcopy is paused: it is for the next link.
    WhilePaused,
    /// Never: it was agreed with the peer.
    Never,
}

/// How a value is read from and written to [`Parameters`].
pub(super) enum Access {
    Number {
        range: RangeInclusive<i128>,
        get: fn(&Parameters) -> i128,
        /// `None`: the number is in the range, and still not accepted.
        set: fn(&mut Parameters, i128) -> Option<()>,
    },
    Flag {
        get: fn(&Parameters) -> bool,
        set: fn(&mut Parameters, bool),
    },
    Text {
        get: fn(&Parameters) -> String,
        set: fn(&mut Parameters, &str) -> Result<(), Refused>,
    },
}

/// Why a text is no value.
pub(super) enum Refused {
    /// The answer says what is expected.
    OutOfRange,
    /// The answer repeats the value, too.
    NotAccepted,
    /// It is a mode that only QEMU has.
    Mode,
}

impl Parameter {
    fn out_of_range(&self) -> SettingError {
        SettingError::OutOfRange { name: self.name, expected: self.expected }
    }

    fn refused(&self, text: String, why: Refused) -> SettingError {
        match why {
            Refused::OutOfRange => self.out_of_range(),
            Refused::NotAccepted => SettingError::NotAccepted { name: self.name, value: text, expected: self.expected },
            Refused::Mode => SettingError::ModeUnsupported(text),
        }
    }
}

/// A row is known by its name.
impl PartialEq for Parameter {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Parameter {}

impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Parameters {
    /// The value of `parameter`, in its unit.
    pub fn get(&self, parameter: &Parameter) -> Setting {
        match &parameter.access {
            Access::Number { get, .. } => Setting::Number(get(self)),
            Access::Flag { get, .. } => Setting::Flag(get(self)),
            Access::Text { get, .. } => Setting::Text(get(self)),
        }
    }

    /// Sets `parameter`, in its unit. A refused value changes nothing.
    pub fn set(&mut self, parameter: &Parameter, setting: impl Into<Setting>) -> Result<(), SettingError> {
        match (&parameter.access, setting.into()) {
            (Access::Number { range, set, .. }, Setting::Number(number)) if range.contains(&number) => {
                set(self, number).ok_or_else(|| parameter.out_of_range())
            }
            (Access::Flag { set, .. }, Setting::Flag(on)) => {
                set(self, on);
                Ok(())
            }
            (Access::Text { set, .. }, Setting::Text(text)) => {
                set(self, &text).map_err(|why| parameter.refused(text, why))
            }
            _ => Err(parameter.out_of_range()),
        }
    }
}
