//! Migrations as the monitor sees them: parameters and capabilities, one job at a time, its report.

pub mod capabilities;
mod contents;
mod error;
pub mod files;
mod job;
mod links;
pub mod parameters;
pub mod reading;
pub mod rules;
pub mod setting;
mod staying;
pub mod streams;
pub mod uri;

pub use error::MigrationError;
pub use job::{Migration, MigrationEvent, OnFailure, Side};
