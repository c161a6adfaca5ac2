//! What a monitor shows of an image: readable at any time, whatever the image's owner is waiting for.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::config::DiskConfig;

/// What is known of an image only while it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Size of the disk in bytes.
    pub capacity: u64,
    /// The files that it stands on, from the top downwards.
    pub backing: Vec<PathBuf>,
}

/// A disk's image at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskInfo {
    /// As it was given.
    pub config: DiskConfig,
    /// `None` while it is closed: before a guest arrives with it, and after one has left.
    pub opened: Option<Opened>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Status {
    pub(super) config: DiskConfig,
    // Held for a copy or an assignment, never across input or output.
    opened: Mutex<Option<Opened>>,
}

impl Status {
    pub(super) fn new(config: DiskConfig) -> Self {
        Self { config, opened: Mutex::new(None) }
    }

    /// As it is now.
    pub fn info(&self) -> DiskInfo {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone();
        DiskInfo { config: self.config.clone(), opened }
    }

    pub(super) fn set(&self, opened: Option<Opened>) {
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = opened;
    }
}
