//! Migrations as the monitor sees them: parameters and capabilities, one job at a time, its report.

pub mod parameters;
pub mod uri;

use std::sync::Arc;

use whimbrel_postcopy::stats::{Report, Status};

use crate::machine::Machine;
use parameters::{Capabilities, Parameters};
use uri::Uri;

/// Something that a monitor client wants to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MigrationEvent {
    /// The status changed (event `MIGRATION`).
    Status(Status),
    /// A precopy pass began (event `MIGRATION_PASS`), counted from 1.
    Pass(u64),
}

/// Why a migration command was refused. The text is what the user sees.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// One sentence for the user.
    #[error("{0}")]
    Refused(String),
}

/// Which end of the migration a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest leaves.
    Source,
    /// The guest arrives.
    Destination,
}

/// The one place that starts, steers and reports this VM's migrations. All methods return at once.
pub struct Migration {
    machine: Arc<Machine>,
}

impl Migration {
    /// For `machine`; `events` is called from the engine's threads.
    pub fn new(
        machine: Arc<Machine>,
        _postcopy_after: Option<u32>,
        _events: Arc<dyn Fn(MigrationEvent) + Send + Sync>,
    ) -> Arc<Self> {
        Arc::new(Self { machine })
    }
    /// `migrate -d URI`: begins; the rest is told by events and [`Migration::report`].
    pub fn start(&self, _uri: &Uri) -> Result<(), MigrationError> {
        let _ = &self.machine;
        Err(MigrationError::Refused("stub".into()))
    }
    /// `migrate -r URI`.
    pub fn resume(&self, _uri: &Uri) -> Result<(), MigrationError> {
        Err(MigrationError::Refused("stub".into()))
    }
    /// `migrate_cancel`.
    pub fn cancel(&self) -> Result<(), MigrationError> {
        Err(MigrationError::Refused("stub".into()))
    }
    /// `migrate_start_postcopy`.
    pub fn start_postcopy(&self) -> Result<(), MigrationError> {
        Err(MigrationError::Refused("stub".into()))
    }
    /// `migrate_pause`: breaks a postcopy migration's link on purpose.
    pub fn pause(&self) -> Result<(), MigrationError> {
        Err(MigrationError::Refused("stub".into()))
    }
    /// `migrate_incoming URI`, or `--incoming URI`. Listens before it returns; `Ok` is the address listened on (a tcp port 0 is resolved).
    pub fn incoming(&self, _uri: &Uri) -> Result<Uri, MigrationError> {
        Err(MigrationError::Refused("stub".into()))
    }
    /// `migrate_recover URI` on the destination.
    pub fn recover(&self, _uri: &Uri) -> Result<Uri, MigrationError> {
        Err(MigrationError::Refused("stub".into()))
    }
    /// What `query-migrate` and `info migrate` show; `None` before the first migration.
    pub fn report(&self) -> Option<(Side, Report)> {
        None
    }
    /// The capabilities as they stand.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }
    /// Replaces them; refused while a migration runs.
    pub fn set_capabilities(&self, _new: Capabilities) -> Result<(), MigrationError> {
        Ok(())
    }
    /// The parameters as they stand.
    pub fn parameters(&self) -> Parameters {
        Parameters::default()
    }
    /// Replaces them; takes effect at once, also in a running migration.
    pub fn set_parameters(&self, _new: Parameters) -> Result<(), MigrationError> {
        Ok(())
    }
}
