//! Putting pages in place once the guest may touch them.

use std::sync::Arc;
use std::time::Instant;

use super::latency::Latency;
use super::tracker::Tracker;
use crate::guest::Guest;
use crate::ram::PageRun;
use crate::uffd::{Uffd, UffdError};

/// Everything a page needs on its way into guest RAM; shared by the two threads that place pages.
pub(super) struct Place {
    pub uffd: Uffd,
    pub tracker: Arc<Tracker>,
    pub latency: Latency,
}

impl Place {
    /// Fills the run, wakes who waits, and only then counts it as received. Returns whether it was the last missing one.
    pub fn contents(&self, guest: &dyn Guest, run: PageRun, contents: &[u8]) -> Result<bool, UffdError> {
        self.uffd.copy(&guest.ram()[usize::from(run.block.0)], run, contents)?;
        Ok(self.placed(run))
    }

    /// The same with zeros.
    pub fn zeros(&self, guest: &dyn Guest, run: PageRun) -> Result<bool, UffdError> {
        self.uffd.zero(&guest.ram()[usize::from(run.block.0)], run)?;
        Ok(self.placed(run))
    }

    fn placed(&self, run: PageRun) -> bool {
        if self.tracker.is_asked(run) {
            self.latency.placed(run, Instant::now());
        }
        self.tracker.placed(run)
    }
}
