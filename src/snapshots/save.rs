//! `savevm`: a draft is written, and becomes the snapshot once it is whole.

use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use whimbrel_postcopy::progress::Observer;
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::stream::{Descriptor, Sink, save};

use super::SnapshotError;
use super::work::{Await, Work};
use crate::machine::RunState;
use crate::migration::{CommandRefused, Migration};
use crate::sentence::sentence;

impl Work {
    pub(super) fn save(&self) -> Result<(), SnapshotError> {
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
        begin(&self.migration, Box::new(sink), end.clone())?;
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
}

/// Begins to write the guest. The end comes by `observer`.
fn begin(migration: &Migration, sink: Box<dyn Sink>, observer: Arc<dyn Observer>) -> Result<(), CommandRefused> {
    let mut idle = migration.idle()?;
    let machine = migration.machine();
    if machine.run_state() == RunState::InternalError {
        return Err(CommandRefused::NoGuest(RunState::InternalError));
    }
    let mode = idle.save_mode()?;
    idle.disown_source();
    idle.saving(save(machine.clone(), sink, mode, observer).map_err(CommandRefused::Resource)?);
    Ok(())
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
