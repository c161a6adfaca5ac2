//! [`Snapshot`]: what a virtual machine says of its migration at one moment.

use serde_json::{Map, Value, json};

use super::map::PageShares;
use crate::client::{Connection, Progress, QmpError};

/// Answers of one virtual machine, taken one right after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    name: Value,
    status: Value,
    migrate: Value,
    /// Null where the monitor does not know the question.
    pages: Value,
}

/// How long touched pages took to come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Pages measured.
    pub count: u64,
    /// Nanoseconds: mean, median, 99th percentile, slowest.
    pub ns: [u64; 4],
    /// Entry `n` counts those of `2^n` microseconds up to `2^(n+1)`.
    pub distribution: Vec<u64>,
}

impl Snapshot {
    /// Asks, for a map of the pages in so many parts. A monitor that has no such map is none the
    /// worse.
    pub fn take(vm: &mut Connection, buckets: u32) -> Result<Self, QmpError> {
        let mut ask = |command: &str, arguments: Value| match arguments {
            Value::Object(arguments) => vm.execute(command, arguments),
            _ => vm.execute(command, Map::new()),
        };
        let optional = |answer: Result<Value, QmpError>| match answer {
            Err(QmpError::Refused(_)) => Ok(Value::Null),
            other => other,
        };
        let buckets = buckets.clamp(1, super::map::MOST);
        Ok(Self {
            name: optional(ask("query-name", Value::Null))?["name"].clone(),
            status: ask("query-status", Value::Null)?,
            migrate: ask("query-migrate", Value::Null)?,
            pages: optional(ask("x-query-migrate-pages", json!({"buckets": buckets})))?,
        })
    }

    /// The answers as they came.
    pub fn to_json(&self) -> Value {
        json!({"name": self.name, "status": self.status, "migrate": self.migrate, "pages": self.pages})
    }

    /// The machine's name.
    pub fn name(&self) -> Option<&str> {
        self.name.as_str()
    }

    /// How the machine stands, in QEMU's word.
    pub fn run_state(&self) -> &str {
        self.status["status"].as_str().unwrap_or("unknown")
    }

    /// Which end of a migration it is, if any.
    pub fn side(&self) -> Option<&str> {
        self.pages["side"].as_str()
    }

    /// How far the migration is.
    pub fn progress(&self) -> Progress {
        Progress::of(&self.migrate)
    }

    /// Pages that the guest dirties, per second.
    pub fn dirty_pages_rate(&self) -> u64 {
        self.migrate["ram"]["dirty-pages-rate"].as_u64().unwrap_or(0)
    }

    /// Bytes in a page.
    pub fn page_size(&self) -> u64 {
        self.migrate["ram"]["page-size"].as_u64().unwrap_or(4096)
    }

    /// The expected downtime in milliseconds, while there is one.
    pub fn expected_downtime_ms(&self) -> Option<u64> {
        self.migrate["expected-downtime"].as_u64()
    }

    /// How long touched pages took to come; `None` where none did.
    pub fn latency(&self) -> Option<Latency> {
        let demand = self.migrate.get("x-demand-pages")?;
        let number = |name: &str| demand[name].as_u64().unwrap_or(0);
        Some(Latency {
            count: number("count"),
            ns: ["mean-ns", "p50-ns", "p99-ns", "max-ns"].map(number),
            distribution: numbers(&self.migrate["postcopy-latency-dist"]),
        })
    }

    /// Milliseconds in which every vCPU waited for a page.
    pub fn blocktime_ms(&self) -> Option<u64> {
        self.migrate["postcopy-blocktime"].as_u64()
    }

    /// Milliseconds in which each vCPU waited for a page.
    pub fn vcpu_blocktime_ms(&self) -> Vec<u64> {
        numbers(&self.migrate["postcopy-vcpu-blocktime"])
    }

    /// Which pages have arrived; `None` where nobody says.
    pub fn pages(&self) -> Option<PageShares> {
        PageShares::new(self.pages["pages"].as_u64()?, numbers(&self.pages["buckets"]))
    }

    /// One that says this.
    #[cfg(test)]
    pub fn of(name: &str, status: &str, migrate: Value, pages: Value) -> Self {
        Self { name: name.into(), status: json!({ "status": status }), migrate, pages }
    }
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().map_or(&[][..], Vec::as_slice).iter().map(|it| it.as_u64().unwrap_or(0)).collect()
}
