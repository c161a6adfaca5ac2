//! The jobs' work. Each is done on a thread of its own, for it waits: for the disk, and for the
//! guest.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use whimbrel_postcopy::channel::ChannelError;
use whimbrel_postcopy::progress::Observer;
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::stream::{Descriptor, Outline, Paging, Sink};

use super::{Identity, Kind, Owner, SnapshotError, Tag, directory};
use crate::block::lock::Access;
use crate::launcher::Launcher;
use crate::migration::Migration;
use crate::migration::files::{self, FileError};
use crate::sentence::sentence;

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

    fn save(&self) -> Result<(), SnapshotError> {
        // What is another machine's is not replaced: that is told before the guest stands still.
        self.check_replaced()?;
        let draft = File::from(self.launcher.new_file(&self.draft)?);
        // Until it has its name, the file is locked.
        let held = draft.try_clone().map_err(|source| self.unopened(source));
        let saved = held.and_then(|held| {
            self.write(draft)?;
            self.name_it(&held)
        });
        if saved.is_err()
            && let Err(error) = self.launcher.remove(&self.draft)
        {
            log::warn!("what is left of a snapshot that failed: {}", sentence(&error));
        }
        saved
    }

    fn write(&self, draft: File) -> Result<(), SnapshotError> {
        let sink = Descriptor::new(draft.into()).map_err(|source| self.unopened(source))?;
        let sink = Labelled { to: sink, label: self.identity.label() };
        let end = Arc::new(Await::default());
        self.migration.save_snapshot(Box::new(sink), end.clone())?;
        match end.first_of(Status::is_ended) {
            Status::Completed => Ok(()),
            status => Err(self.failed(status)),
        }
    }

    /// The draft becomes the snapshot, unless somebody else reads the one before it. (Over NFS that
    /// one would vanish under the reader.)
    fn name_it(&self, draft: &File) -> Result<(), SnapshotError> {
        let _old = self.check_replaced()?;
        let unopened = |source| self.unopened(source);
        let (ours, there) = (draft.metadata().map_err(unopened)?, fs::symlink_metadata(&self.draft).map_err(unopened)?);
        if (ours.dev(), ours.ino()) != (there.dev(), there.ino()) {
            return Err(self.unopened(io::Error::other("another process has replaced its file meanwhile")));
        }
        Ok(self.launcher.rename(&self.draft, &self.file)?)
    }

    /// The snapshot that is there already, locked: this machine's, and nobody reads it. `None` if
    /// there is none.
    fn check_replaced(&self) -> Result<Option<File>, SnapshotError> {
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

    fn load(&self) -> Result<(), SnapshotError> {
        let tag = || self.tag.clone();
        let (file, _) =
            directory::open(&self.file, OpenOptions::new().read(true)).map_err(|source| self.unopened(source))?;
        files::take(&file, Access::Read).map_err(|error| self.in_use(error))?;
        let paging = Paging::new(file).map_err(|source| SnapshotError::Damaged { tag: tag(), source })?;
        let outline = paging.outline();
        // What could not run here at all is told first.
        self.migration.check_snapshot(&outline).map_err(|source| SnapshotError::Unfit { tag: tag(), source })?;
        self.check_owner(&outline)?;
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

    fn check_owner(&self, outline: &Outline) -> Result<(), SnapshotError> {
        let (tag, path) = (self.tag.clone(), self.file.clone());
        match Owner::of(&outline.label, &self.identity) {
            Owner::Ours => Ok(()),
            Owner::Another(owner) => Err(SnapshotError::Another { tag, owner, path }),
            Owner::Unknown => Err(SnapshotError::Unknown { tag, path }),
        }
    }

    fn in_use(&self, error: FileError) -> SnapshotError {
        SnapshotError::InUse { tag: self.tag.clone(), source: error.into() }
    }

    fn unopened(&self, source: io::Error) -> SnapshotError {
        SnapshotError::Open { tag: self.tag.clone(), source }
    }

    fn failed(&self, status: Status) -> SnapshotError {
        let why = self.migration.snapshot_error();
        SnapshotError::Failed(why.unwrap_or_else(|| format!("snapshot '{}': {}", self.tag, status.name())))
    }
}

/// A file that says whose snapshot it is.
struct Labelled {
    to: Descriptor,
    label: String,
}

impl Sink for Labelled {
    fn fd(&self) -> BorrowedFd<'_> {
        self.to.fd()
    }

    fn label(&self) -> &str {
        &self.label
    }

    fn commit(self: Box<Self>) -> io::Result<()> {
        Box::new(self.to).commit()
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
