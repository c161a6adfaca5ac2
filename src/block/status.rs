//! What others than an image's owner know and may ask of it, at any time, whatever the owner is
//! waiting for.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::config::DiskConfig;

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
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    opened: Option<Opened>,
    /// Those that are written to.
    files: Arc<[File]>,
}

impl Status {
    pub(super) fn new(config: DiskConfig) -> Self {
        Self { config, state: Mutex::default() }
    }

    /// As it is now.
    pub fn info(&self) -> DiskInfo {
        DiskInfo { config: self.config.clone(), opened: self.lock().opened.clone() }
    }

    /// Has the host bring onto its disk what was written to the image's files so far, beside
    /// anything that the image's owner does. The next [`super::Image::flush`] then has less to do.
    /// Nothing if it is closed.
    pub fn hasten(&self) -> io::Result<()> {
        let files = self.lock().files.clone();
        files.iter().try_for_each(File::sync_data)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(&self, opened: Opened, files: Vec<File>) {
        *self.lock() = State { opened: Some(opened), files: files.into() };
    }

    pub(super) fn close(&self) {
        *self.lock() = State::default();
    }
}
