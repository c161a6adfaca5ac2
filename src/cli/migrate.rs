//! `whimbrel migrate`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::parse;
use crate::client::{Mode, Plan, QmpAddress};
use crate::migration::uri::Uri;

const MIGRATE_EXAMPLES: &str = "\
EXAMPLES:
  Memory first, then the CPUs:
    whimbrel migrate --qmp /run/vm.qmp --to tcp:otherhost:4444

  The CPUs first, memory follows:
    whimbrel migrate --qmp /run/vm.qmp --to tcp:otherhost:4444 --mode postcopy

  One pass over memory, then the CPUs, with at most 100 MiB/s for what nobody waits for:
    whimbrel migrate --qmp /run/vm.qmp --to unix:/run/vm.in --mode hybrid --postcopy-bandwidth 100M

Ctrl-C cancels: the guest stays where it is. Once it runs on the destination that is not possible any more, and
Ctrl-C says so; a second one leaves the migration to itself.";

/// What the long help says first: see [`super::Command`].
pub(super) const ABOUT: &str = "Drives a running virtual machine through its QMP socket: sets the parameters, starts the migration, \
    shows its progress and ends with a summary. The status is 0 when the guest has arrived whole.\n\n\
    What is not given stays as it is set in the virtual machine.";

/// Arguments of `whimbrel migrate`.
#[derive(Args, Debug)]
#[command(after_long_help = MIGRATE_EXAMPLES)]
pub struct MigrateArgs {
    /// The QMP socket of the virtual machine: a path, unix:PATH or tcp:HOST:PORT
    #[arg(long, value_name = "SOCKET")]
    qmp: QmpAddress,

    /// Where another Whimbrel waits: tcp:HOST:PORT or unix:PATH
    #[arg(long, value_name = "URI")]
    to: Uri,

    /// How to move [default: as the virtual machine was told by --postcopy-after]
    #[arg(long, value_enum)]
    mode: Option<ModeName>,

    /// hybrid: how many precopy passes come before postcopy [default: 1]
    #[arg(long, value_name = "N")]
    passes: Option<u32>,

    /// Limit per second, suffix K, M, G or T, a bare number in MiB; 0: none
    #[arg(long, value_name = "SIZE", value_parser = parse::bandwidth)]
    bandwidth: Option<u64>,

    /// The same for pages that nobody waits for, in postcopy
    #[arg(long, value_name = "SIZE", value_parser = parse::bandwidth)]
    postcopy_bandwidth: Option<u64>,

    /// precopy: how long the guest may stand still, in milliseconds
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(..=2_000_000))]
    downtime_limit: Option<u64>,

    /// Encrypt: the directory with the certificates, on the host of the virtual machine; '' for not
    #[arg(long, value_name = "DIR")]
    tls_dir: Option<String>,

    /// What the destination's certificate must be for [default: the host in --to]
    #[arg(long, value_name = "NAME")]
    tls_hostname: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ModeName {
    /// All memory first, then the CPUs
    Precopy,
    /// The CPUs at once, memory follows
    Postcopy,
    /// Some passes over memory, then the CPUs, then the rest
    Hybrid,
}

/// `--passes` without hybrid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("--passes goes with --mode hybrid only; add that, or leave --passes out")]
pub struct PassesWithoutHybrid;

impl MigrateArgs {
    /// Checks the arguments against each other.
    pub fn validate(self) -> Result<Plan, PassesWithoutHybrid> {
        let mode = match (self.mode, self.passes) {
            (Some(ModeName::Hybrid), passes) => Some(Mode::Hybrid { passes: passes.unwrap_or(1) }),
            (_, Some(_)) => return Err(PassesWithoutHybrid),
            (Some(ModeName::Precopy), None) => Some(Mode::Precopy),
            (Some(ModeName::Postcopy), None) => Some(Mode::Postcopy),
            (None, None) => None,
        };
        Ok(Plan {
            qmp: self.qmp,
            to: self.to,
            mode,
            bandwidth: self.bandwidth,
            postcopy_bandwidth: self.postcopy_bandwidth,
            downtime_limit: self.downtime_limit.map(Duration::from_millis),
            tls_dir: self.tls_dir,
            tls_hostname: self.tls_hostname,
        })
    }
}
