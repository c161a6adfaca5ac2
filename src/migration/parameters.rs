//! Capabilities and parameters by QEMU's names.

use std::time::Duration;

/// What a migration may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// `postcopy-ram`: the destination may run before all pages are there.
    pub postcopy_ram: bool,
    /// `events`: emit MIGRATION and MIGRATION_PASS events.
    pub events: bool,
    /// `postcopy-blocktime`: measure how long vCPUs wait for pages.
    pub postcopy_blocktime: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self { postcopy_ram: true, events: false, postcopy_blocktime: true }
    }
}

/// How a migration runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// `max-bandwidth` in bytes per second, 0 for no limit.
    pub max_bandwidth: u64,
    /// `max-postcopy-bandwidth` in bytes per second for background pages, 0 for no limit.
    pub max_postcopy_bandwidth: u64,
    /// `avail-switchover-bandwidth` in bytes per second, 0 to measure it.
    pub avail_switchover_bandwidth: u64,
    /// `downtime-limit`.
    pub downtime_limit: Duration,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            max_bandwidth: 0,
            max_postcopy_bandwidth: 0,
            avail_switchover_bandwidth: 0,
            downtime_limit: Duration::from_millis(300),
        }
    }
}
