//! Migrations as the monitor sees them: parameters and capabilities, one job at a time, its report.

mod active;
mod background_snapshot;
pub mod capabilities;
mod error;
mod file_kind;
pub mod files;
mod links;
pub mod parameters;
pub mod reading;
pub mod rules;
pub mod setting;
pub mod streams;
pub mod uri;

pub use active::{Migration, MigrationEvent, OnFailure, Side};
pub use error::CommandRefused;
