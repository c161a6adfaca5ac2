//! `loadvm`: the guest of a file takes the place of the one that runs here.

use std::fs::OpenOptions;
use std::sync::Arc;

use whimbrel_postcopy::destination::{self, Options};
use whimbrel_postcopy::progress::Observer;
use whimbrel_postcopy::stats::Status;
use whimbrel_postcopy::stream::Paging;
use whimbrel_postcopy::uffd::Uffd;
use whimbrel_postcopy::wire::Features;

use super::work::{Await, Work};
use super::{SnapshotError, directory};
use crate::block::lock::Access;
use crate::migration::files;
use crate::migration::{CommandRefused, Migration};

impl Work {
    pub(super) fn load(&self) -> Result<(), SnapshotError> {
        let tag = || self.tag.clone();
        let (file, _) =
            directory::open(&self.file, OpenOptions::new().read(true)).map_err(|source| self.unopened(source))?;
        files::take(&file, Access::Read).map_err(|error| self.in_use(error))?;
        let paging = Paging::new(file).map_err(|source| SnapshotError::Damaged { tag: tag(), source })?;
        let outline = paging.outline();
        // What could not run here at all is told first.
        let fits = self.migration.machine().check_outline(&outline).map_err(CommandRefused::from);
        fits.map_err(|source| SnapshotError::Unfit { tag: tag(), source })?;
        self.check_owner(&outline)?;
        let end = Arc::new(Await::default());
        let loading = begin(&self.migration, paging, end.clone());
        loading.map_err(|source| SnapshotError::Unfit { tag: tag(), source })?;
        // The rest of its memory follows; the guest does not wait for it.
        use Status::{Completed, PostcopyActive, PostcopyPaused};
        match end.first_of(|status| status.is_ended() || matches!(status, PostcopyActive | PostcopyPaused)) {
            Completed | PostcopyActive => Ok(()),
            status => {
                let failed = self.failed(status);
                self.migration.abandon_loading();
                self.migration.machine().stays_vacant();
                Err(failed)
            }
        }
    }
}

/// Has the guest of the file take this one's place. Until the file has been looked through nothing
/// is changed. Whether the guest runs, or why not, comes by `observer`.
fn begin(migration: &Migration, paging: Paging, observer: Arc<dyn Observer>) -> Result<(), CommandRefused> {
    let mut idle = migration.idle()?;
    let machine = migration.machine();
    machine.check_outline(&paging.outline())?;
    // Without userfaultfd the guest could not be given its pages.
    Uffd::open().map_err(CommandRefused::NoDemand)?;
    idle.disown_source();
    machine.reset_for_load()?;
    let options = Options { features: Features::POSTCOPY, listen_again: None };
    match destination::start_with(machine.clone(), Box::new(paging), observer, options) {
        Ok(handle) => {
            idle.loading(handle);
            Ok(())
        }
        Err(error) => {
            machine.stays_vacant();
            Err(CommandRefused::Resource(error))
        }
    }
}
