//! [`Progress`]: what `query-migrate` says, as far as the driver looks at it.

use serde_json::Value;

/// One answer to `query-migrate`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// QEMU's status name.
    pub status: String,
    /// Why it failed.
    pub error: Option<String>,
    /// Milliseconds since the start.
    pub total_ms: u64,
    /// Milliseconds in which no vCPU ran, once known.
    pub downtime_ms: Option<u64>,
    /// Bytes sent.
    pub transferred: u64,
    /// Bytes of RAM still to be sent.
    pub remaining: u64,
    /// Bytes of guest RAM.
    pub total: u64,
    /// Pages sent whole.
    pub normal: u64,
    /// Pages sent as zero.
    pub zero: u64,
    /// Pages that the destination asked for.
    pub requests: u64,
    /// How often the dirty log was read.
    pub syncs: u64,
    /// Megabits per second.
    pub mbps: f64,
}

/// Where a migration stands, for who drives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The guest runs on the source: it can be cancelled.
    Revocable,
    /// The guest runs on the destination.
    Committed,
    /// The link broke in postcopy.
    Paused,
    /// The guest has arrived whole.
    Completed,
    /// The guest is on the source, as asked.
    Cancelled,
    /// The guest is on the source.
    Failed,
}

impl Progress {
    /// Reads an answer. What is missing is zero.
    pub fn of(value: &Value) -> Self {
        let ram = |name: &str| value["ram"][name].as_u64().unwrap_or(0);
        Self {
            status: value["status"].as_str().unwrap_or("none").to_owned(),
            error: value["error-desc"].as_str().map(str::to_owned),
            total_ms: value["total-time"].as_u64().unwrap_or(0),
            downtime_ms: value["downtime"].as_u64(),
            transferred: ram("transferred"),
            remaining: ram("remaining"),
            total: ram("total"),
            normal: ram("normal"),
            zero: ram("duplicate"),
            requests: ram("postcopy-requests"),
            syncs: ram("dirty-sync-count"),
            mbps: value["ram"]["mbps"].as_f64().unwrap_or(0.0),
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        match self.status.as_str() {
            "completed" => Phase::Completed,
            "failed" => Phase::Failed,
            "cancelled" => Phase::Cancelled,
            "postcopy-paused" => Phase::Paused,
            "postcopy-active" | "postcopy-recover" | "postcopy-recover-setup" => Phase::Committed,
            _ => Phase::Revocable,
        }
    }
}
