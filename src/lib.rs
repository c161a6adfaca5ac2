//! Whimbrel: a KVM virtual machine monitor built around postcopy-first live migration.

pub mod boot;
pub mod chardev;
pub mod config;
pub mod devices;
pub mod kvm;
pub mod machine;
pub mod migration;
pub mod state;
pub mod vcpu;
