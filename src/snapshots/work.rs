//! The jobs' work. Each is done on a thread of its own, for it waits: for the disk, and for the
//! guest.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use whimbrel_postcopy::channel::ChannelError;
use whimbrel_postcopy::progress::Observer;
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::stream::Outline;

use super::{Identity, Kind, Owner, SnapshotError, Tag, directory};
use crate::block::lock::Access;
use crate::launcher::Launcher;
use crate::migration::Migration;
use crate::migration::files::{self, FileError};

/// One job's.
pub(super) struct Work {
    pub tag: Tag,
    /// The snapshot.
    pub file: PathBuf,
    /// What becomes it.
    pub draft: PathBuf,
    /// Whose it is.
    pub identity: Identity,
    pub launcher: Arc<Launcher>,
    pub migration: Arc<Migration>,
}

impl Work {
    /// Does it. Until a snapshot is whole it does not have its name.
    pub fn carry_out(&self, kind: Kind) -> Result<(), SnapshotError> {
        match kind {
            Kind::Save => self.save(),
            Kind::Load => self.load(),
            Kind::Delete => self.delete(),
        }
    }

    /// How far such a job goes.
    pub fn progress(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Save | Kind::Load => self.migration.snapshot_progress().1,
            Kind::Delete => 1,
        }
    }

    /// The snapshot that is there already, locked: this machine's, and nobody reads it. `None` if
    /// there is none.
    pub(super) fn check_replaced(&self) -> Result<Option<File>, SnapshotError> {
        match fs::symlink_metadata(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => self.open_to_replace().map(Some),
        }
    }

    fn delete(&self) -> Result<(), SnapshotError> {
        let _old = self.open_to_replace()?;
        Ok(self.launcher.remove(&self.file)?)
    }

    fn open_to_replace(&self) -> Result<File, SnapshotError> {
        let (file, _) = directory::open(&self.file, OpenOptions::new().read(true).write(true))
            .map_err(|source| self.unopened(source))?;
        files::take(&file, Access::Write).map_err(|error| self.in_use(error))?;
        let outline = file.try_clone().map_err(ChannelError::Io).and_then(Outline::of).unwrap_or_default();
        self.check_owner(&outline)?;
        Ok(file)
    }

    pub(super) fn check_owner(&self, outline: &Outline) -> Result<(), SnapshotError> {
        let (tag, path) = (self.tag.clone(), self.file.clone());
        match Owner::of(&outline.label, &self.identity) {
            Owner::Ours => Ok(()),
            Owner::Another(owner) => Err(SnapshotError::Another { tag, owner, path }),
            Owner::Unknown => Err(SnapshotError::Unknown { tag, path }),
        }
    }

    pub(super) fn in_use(&self, error: FileError) -> SnapshotError {
        SnapshotError::InUse { tag: self.tag.clone(), source: error.into() }
    }

    pub(super) fn unopened(&self, source: io::Error) -> SnapshotError {
        SnapshotError::Open { tag: self.tag.clone(), source }
    }

    pub(super) fn failed(&self, status: Status) -> SnapshotError {
        let why = self.migration.snapshot_error();
        SnapshotError::Failed(why.unwrap_or_else(|| format!("snapshot '{}': {}", self.tag, status.name())))
    }
}

/// Waits for statuses.
#[derive(Default)]
pub(super) struct Await {
    seen: Mutex<Vec<Status>>,
    changed: Condvar,
}

impl Await {
    /// The first status, also of those that were, for which this holds.
    pub(super) fn first_of(&self, wanted: impl Fn(Status) -> bool) -> Status {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = seen.iter().copied().find(|status| wanted(*status)) {
                return found;
            }
            seen = self.changed.wait(seen).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Observer for Await {
    fn status(&self, status: Status) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(status);
        self.changed.notify_all();
    }
    fn pass(&self, _pass: u64) {}
}
