//! Whimbrel: a KVM virtual machine monitor built around postcopy-first live migration.

pub mod config;
pub mod machine;
pub mod migration;
