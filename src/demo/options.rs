//! [`Options`]: what the user may choose.

use std::path::PathBuf;

use crate::client::Mode;
use crate::config::MemoryConfig;

/// What the user may choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The guest's RAM.
    pub memory: MemoryConfig,
    /// The modes, in the order in which they are shown.
    pub modes: Vec<Mode>,
    /// Where the picture goes.
    pub out: PathBuf,
    /// Whether logs and measurements stay.
    pub keep: bool,
}

impl Options {
    /// Bytes that the guest works on: three quarters of its RAM.
    pub fn working_set(&self) -> u64 {
        self.memory.size / 4 * 3
    }

    /// `--memory` as the children are given it.
    pub fn memory_argument(&self) -> String {
        format!("{}B{}", self.memory.size, if self.memory.shared { ",shared=on" } else { "" })
    }
}
