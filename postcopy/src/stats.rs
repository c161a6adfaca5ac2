//! What a migration tells about itself: plain values, taken at one moment.

use std::time::Duration;

/// A migration's status by the names QEMU's users know. Derived from the state machines, never
/// stored beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// No migration yet.
    None,
    /// Connecting and comparing configurations.
    Setup,
    /// Asked to cancel, not yet done.
    Cancelling,
    /// Cancelled: the guest is on the source.
    Cancelled,
    /// Precopy passes.
    Active,
    /// Everything but the pages that follow is there, and the destination loads it; it does not run
    /// yet.
    PostcopyDevice,
    /// The destination runs, pages follow.
    PostcopyActive,
    /// The destination runs (or may run), the link is broken.
    PostcopyPaused,
    /// Joining again, before the handshake.
    PostcopyRecoverSetup,
    /// Joining again, exchanging bitmaps.
    PostcopyRecover,
    /// Source paused, and waits until it is told to go on.
    PreSwitchover,
    /// Source paused, last state on its way.
    Device,
    /// The guest is on the destination, whole.
    Completed,
    /// It failed, and the guest is about to go on on the source.
    Failing,
    /// The migration failed; the guest is on the source.
    Failed,
}

impl Status {
    /// The name in `query-migrate` and `info migrate`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Setup => "setup",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Active => "active",
            Self::PostcopyDevice => "postcopy-device",
            Self::PostcopyActive => "postcopy-active",
            Self::PostcopyPaused => "postcopy-paused",
            Self::PostcopyRecoverSetup => "postcopy-recover-setup",
            Self::PostcopyRecover => "postcopy-recover",
            Self::PreSwitchover => "pre-switchover",
            Self::Device => "device",
            Self::Completed => "completed",
            Self::Failing => "failing",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing more will happen by itself, or ever.
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::None | Self::Cancelled | Self::Completed | Self::Failed)
    }

    /// Whether it ended, and nothing of what was sent is of use to anybody.
    pub const fn came_to_nothing(self) -> bool {
        matches!(self, Self::Cancelled | Self::Failed)
    }
}

/// Pages and bytes of one migration, by QEMU's field names. Sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RamReport {
    /// Bytes sent for RAM, headers included.
    pub transferred: u64,
    /// Bytes of RAM still to be sent.
    pub remaining: u64,
    /// Bytes of guest RAM.
    pub total: u64,
    /// Pages sent as zero.
    pub duplicate: u64,
    /// Pages that were not sent, for the destination maps this side's RAM.
    pub skipped: u64,
    /// Pages sent whole.
    pub normal: u64,
    /// Pages that the guest dirties, per second.
    pub dirty_pages_rate: u64,
    /// Throughput over the last measured interval, in megabits per second.
    pub mbps: f64,
    /// How often the dirty log was read.
    pub dirty_sync_count: u64,
    /// Pages that the destination asked for.
    pub postcopy_requests: u64,
    /// Pages sent per second, over the last measured interval.
    pub pages_per_second: u64,
    /// Bytes sent while the guest ran on the source, but for those on multifd channels.
    pub precopy_bytes: u64,
    /// The same while it ran nowhere.
    pub downtime_bytes: u64,
    /// The same while it ran on the destination.
    pub postcopy_bytes: u64,
    /// Bytes sent on multifd channels.
    pub multifd_bytes: u64,
}

/// Pages of which only the changes went, by QEMU's field names for `xbzrle-cache`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct XbzrleReport {
    /// Room for pages as they were sent, in bytes.
    pub cache_size: u64,
    /// Bytes that the changes took on the wire, headers included.
    pub bytes: u64,
    /// Pages of which only the changes went.
    pub pages: u64,
    /// Pages that went whole because it was not known how they had been sent before. Those of the
    /// first pass do not count.
    pub cache_miss: u64,
    /// The part of these among all that were looked for, between the last two readings of the log;
    /// 0 to 1.
    pub cache_miss_rate: f64,
    /// How many times longer the pages are than their changes, over the same time.
    pub encoding_rate: f64,
    /// Pages that went whole because their changes would have been longer.
    pub overflow: u64,
}

/// How many powers of two of a microsecond latencies are counted by.
pub const BUCKETS: usize = 24;

/// Demand-page latency as the destination sees it: from reading the fault to the page being in
/// place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LatencyReport {
    /// Demand pages measured.
    pub count: u64,
    /// Mean.
    pub mean: Duration,
    /// Median.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// The slowest.
    pub max: Duration,
    /// Counts by power of two: entry `n` counts latencies in `[2^n, 2^(n+1))` microseconds, entry 0
    /// also those below 1, the last one also those above. As many as QEMU has.
    pub distribution: [u64; BUCKETS],
    /// Mean of the pages that each vCPU waited for; zero where it waited for none.
    pub vcpus: Vec<Duration>,
    /// Mean of the pages that others waited for.
    pub others: Duration,
}

/// One traced step of the switchover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What was done, for example `pause` or `load`.
    pub name: &'static str,
    /// When it ended, counted from the moment the switchover began.
    pub at: Duration,
}

/// Which pages have arrived, coarsely. Taken bit by bit while the migration goes on: no moment of
/// it is special.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageMap {
    /// Pages of guest RAM.
    pub pages: u64,
    /// How many have arrived of each part of it. Part `n` of `N` is pages `n * pages / N` up to
    /// `(n + 1) * pages / N`, through all RAM blocks in their order.
    pub arrived: Vec<u64>,
}

impl PageMap {
    /// Of `pages` pages in `buckets` parts, at least one and at most one a page; `count` says how
    /// many of pages `start..end` have arrived.
    pub fn new(pages: u64, buckets: u32, count: impl Fn(u64, u64) -> u64) -> Self {
        let buckets = u64::from(buckets).clamp(1, pages.max(1));
        let edge = |n: u64| (u128::from(n) * u128::from(pages) / u128::from(buckets)) as u64;
        Self { pages, arrived: (0..buckets).map(|n| count(edge(n), edge(n + 1))).collect() }
    }

    /// Where none has arrived.
    pub fn nothing(pages: u64, buckets: u32) -> Self {
        Self::new(pages, buckets, |_, _| 0)
    }
}

/// How a guest that does not converge is slowed down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Throttling {
    /// Its vCPUs rest for so many percent of the time.
    AutoConverge(u8),
    /// It is kept at a dirty rate; its vCPUs rest for so long each time.
    DirtyLimit(Duration),
}

/// Where the guest of a migration is that completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whereabouts {
    /// At the destination.
    #[default]
    There,
    /// In a file, or with a reader who has not been heard of. It stands still here, too.
    WrittenDown,
    /// Here, where it goes on: what was written is a snapshot of it.
    Here,
}

/// Everything there is to say about one migration, at one moment.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it stands.
    pub status: Status,
    /// Where the guest is, once it completed.
    pub whereabouts: Whereabouts,
    /// From the start to now or to the end.
    pub total_time: Duration,
    /// From the start to the first page.
    pub setup_time: Duration,
    /// How long vCPUs stood still, once known.
    pub downtime: Option<Duration>,
    /// How long they would stand still if the switch came now (precopy).
    pub expected_downtime: Option<Duration>,
    /// Why it failed or paused, one sentence.
    pub error: Option<String>,
    /// Pages and bytes.
    pub ram: RamReport,
    /// Source: pages of which only the changes went, where they may.
    pub deltas: Option<XbzrleReport>,
    /// Destination: demand-page latency.
    pub demand: Option<LatencyReport>,
    /// Destination: time in which every vCPU was blocked on a page.
    pub blocktime: Option<Duration>,
    /// Destination: time each vCPU was blocked on a page.
    pub vcpu_blocktime: Vec<Duration>,
    /// Source: how the guest is slowed down, while it is.
    pub throttling: Option<Throttling>,
    /// The switchover, step by step.
    pub steps: Vec<Step>,
}
