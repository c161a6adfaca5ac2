//! Migrations as the monitor sees them: parameters and capabilities, one job at a time, its report.

mod active;
mod background_snapshot;
pub mod capabilities;
mod control;
mod error;
mod file_kind;
pub mod files;
mod host;
mod idle;
mod incoming;
mod links;
mod options;
mod outgoing;
pub mod parameters;
pub mod reading;
pub mod rules;
pub mod setting;
mod settings;
pub mod streams;
pub mod uri;

pub use active::Side;
pub use control::{Migration, MigrationEvent};
pub use error::CommandRefused;
pub use host::{HostUnfit, check_host};
pub use idle::Idle;
