//! The jobs' work. Each is done on a thread of its own, for it waits: for the disk, and for the guest.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use whimbrel_postcopy::error::sentence;
use whimbrel_postcopy::progress::Observer;
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::stream::{Descriptor, Paging};

use super::{Kind, SnapshotError, Tag};
use crate::launcher::Launcher;
use crate::migration::Migration;

/// One job's.
pub(super) struct Work {
    pub tag: Tag,
    /// The snapshot.
    pub file: PathBuf,
    /// What becomes it.
    pub draft: PathBuf,
    pub launcher: Arc<Launcher>,
    pub migration: Arc<Migration>,
}

impl Work {
    /// Does it. Until a snapshot is whole it does not have its name.
    pub fn carry_out(&self, kind: Kind) -> Result<(), SnapshotError> {
        match kind {
            Kind::Save => self.save(),
            Kind::Load => self.load(),
            Kind::Delete => Ok(self.launcher.remove(&self.file)?),
        }
    }

    /// How far such a job goes.
    pub fn progress(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Save | Kind::Load => self.migration.snapshot_progress().1,
            Kind::Delete => 1,
        }
    }

    fn save(&self) -> Result<(), SnapshotError> {
        let draft = self.launcher.new_file(&self.draft)?;
        let saved = self.write(draft.into()).and_then(|()| Ok(self.launcher.rename(&self.draft, &self.file)?));
        if saved.is_err()
            && let Err(error) = self.launcher.remove(&self.draft)
        {
            log::warn!("what is left of a snapshot that failed: {}", sentence(&error));
        }
        saved
    }

    fn write(&self, draft: File) -> Result<(), SnapshotError> {
        let sink =
            Descriptor::new(draft.into()).map_err(|source| SnapshotError::Open { tag: self.tag.clone(), source })?;
        let end = Arc::new(Await::default());
        self.migration.save_snapshot(Box::new(sink), end.clone())?;
        match end.first_of(Status::is_ended) {
            Status::Completed => Ok(()),
            status => Err(self.failed(status)),
        }
    }

    fn load(&self) -> Result<(), SnapshotError> {
        let tag = || self.tag.clone();
        let file = File::open(&self.file).map_err(|source| SnapshotError::Open { tag: tag(), source })?;
        let paging = Paging::new(file).map_err(|source| SnapshotError::Damaged { tag: tag(), source })?;
        let end = Arc::new(Await::default());
        let loading = self.migration.load_snapshot(paging, end.clone());
        loading.map_err(|source| SnapshotError::Unfit { tag: tag(), source })?;
        // The rest of its memory follows; the guest does not wait for it.
        use Status::{Completed, PostcopyActive, PostcopyPaused};
        match end.first_of(|status| status.is_ended() || matches!(status, PostcopyActive | PostcopyPaused)) {
            Completed | PostcopyActive => Ok(()),
            status => {
                let failed = self.failed(status);
                self.migration.load_failed();
                Err(failed)
            }
        }
    }

    fn failed(&self, status: Status) -> SnapshotError {
        let why = self.migration.snapshot_error();
        SnapshotError::Failed(why.unwrap_or_else(|| format!("snapshot '{}': {}", self.tag, status.name())))
    }
}

/// Waits for statuses.
#[derive(Default)]
struct Await {
    seen: Mutex<Vec<Status>>,
    changed: Condvar,
}

impl Await {
    /// The first status, also of those that were, for which this holds.
    fn first_of(&self, wanted: impl Fn(Status) -> bool) -> Status {
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
