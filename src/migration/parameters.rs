//! Migration parameters: their values ([`Parameters`]), and a row for each ([`Parameter`]).
//!
//! A new parameter is a field with its default here, and a row in `table`. HMP, QMP, its schema,
//! `whimbrel migrate --parameter` and the checks of a change follow from the row.

mod parameter;
mod policy;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use whimbrel_postcopy::channel::KEEPALIVE;
use whimbrel_postcopy::encoding::ZeroPages;
use whimbrel_postcopy::source::{AutoConverge, Policy};

use crate::net::Schedule;

pub use parameter::{Form, Live, Parameter};
pub use table::PARAMETERS;

/// How a migration runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// `max-bandwidth` in bytes per second, 0 for no limit.
    pub max_bandwidth: u64,
    /// `max-postcopy-bandwidth` in bytes per second for background pages, 0 for no limit.
    pub max_postcopy_bandwidth: u64,
    /// `avail-switchover-bandwidth` in bytes per second, 0 to measure it.
    pub avail_switchover_bandwidth: u64,
    /// `downtime-limit`.
    pub downtime_limit: Duration,
    /// `postcopy-policy`: when a migration turns to postcopy by itself. `x-postcopy-after` sets and
    /// shows the policy that counts passes.
    pub postcopy_policy: Policy,
    /// `multifd-channels`: on how many channels pages go with capability `multifd`.
    pub multifd_channels: u8,
    /// `throttle-trigger-threshold`, `cpu-throttle-*` and `max-cpu-throttle`: how capability
    /// auto-converge slows the guest down.
    pub auto_converge: AutoConverge,
    /// `vcpu-dirty-limit`: what each vCPU may dirty with capability dirty-limit, in MiB per second.
    pub vcpu_dirty_limit: u64,
    /// `x-vcpu-dirty-limit-period`: how often that is measured.
    pub dirty_limit_period: Duration,
    /// `multifd-compression`: whether pages go compressed, and by what.
    pub compression: MultifdCompression,
    /// `multifd-zlib-level`: 0 for none to 9 for the most that `zlib` can do.
    pub zlib_level: u8,
    /// `multifd-zstd-level`: 1 to 20 for the most that `zstd` can do; 0 is its own choice.
    pub zstd_level: u8,
    /// `xbzrle-cache-size`: so many bytes of pages are kept as they were sent, with capability
    /// `xbzrle`; a power of two, at least a page.
    pub xbzrle_cache: u64,
    /// `zero-page-detection`: which thread looks for zero pages. Capability `zero-blocks` is
    /// whether one does.
    pub zero_pages: ZeroPages,
    /// `x-reconnect`: for so long a postcopy whose link broke tries by itself to connect to the
    /// same address again, and its destination listens there; zero: `migrate_recover` and `migrate
    /// -r` do it.
    pub reconnect: Duration,
    /// `announce-*`: how a guest that arrives here, or that `announce_self` is said of, is
    /// announced to the network.
    pub announce: Schedule,
    /// `x-keepalive`: how long a peer may be silent.
    pub keepalive: Duration,
    /// `tls-creds`: the directory with the certificates; `None`: no TLS.
    pub tls_creds: Option<PathBuf>,
    /// `tls-hostname`: what the destination's certificate must be for, if not for the host that is
    /// connected to.
    pub tls_hostname: Option<String>,
    /// `direct-io`: the pages of a file with mapped RAM are written, and read in order, past the
    /// host's page cache.
    pub direct_io: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            max_bandwidth: 0,
            max_postcopy_bandwidth: 0,
            avail_switchover_bandwidth: 0,
            downtime_limit: Duration::from_millis(300),
            postcopy_policy: Policy::Manual,
            multifd_channels: 2,
            auto_converge: AutoConverge { threshold: 50, initial: 20, increment: 10, tailslow: false, most: 99 },
            vcpu_dirty_limit: 1,
            dirty_limit_period: Duration::from_secs(1),
            compression: MultifdCompression::None,
            zlib_level: 1,
            zstd_level: 1,
            xbzrle_cache: 64 << 20,
            zero_pages: ZeroPages::default(),
            reconnect: Duration::ZERO,
            announce: Schedule::default(),
            keepalive: KEEPALIVE,
            tls_creds: None,
            tls_hostname: None,
            direct_io: false,
        }
    }
}

/// What pages are compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MultifdCompression {
    /// They are not.
    None,
    /// zlib.
    Zlib,
    /// Zstandard.
    Zstd,
}

#[cfg(test)]
mod tests;
