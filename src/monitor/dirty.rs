//! Dirty rates and limits, in QEMU's fields and lines.

use serde_json::{Value, json};

use crate::dirty::{DirtyRate, Measuring, Mode, Plan, TimeUnit, VcpuDirtyLimit};

/// What people are told who changed a limit.
pub const INFO_LIMIT_CHANGED: &str = "[Please use 'info vcpu_dirty_limit' to query dirty limit for virtual CPU]\n";

/// `query-dirty-rate`, with its time in this unit.
pub fn query_dirty_rate(rate: &DirtyRate, wanted: TimeUnit) -> Value {
    let mut value = json!({
        "status": rate.measuring.name(),
        "start-time": rate.start,
        "calc-time": rate.plan.map_or(0, |plan| wanted.count(plan.time)),
        "calc-time-unit": wanted.name(),
        "sample-pages": rate.plan.filter(|plan| plan.mode == Mode::PageSampling).map_or(0, |plan| plan.sample_pages),
        "mode": mode(rate).name(),
    });
    if let Measuring::Measured(rate) = rate.measuring {
        value["dirty-rate"] = rate.into();
    }
    value
}

/// `info dirty_rate`.
pub fn info_dirty_rate(rate: &DirtyRate) -> String {
    let mut text = format!("Status: {}\nStart Time: {} (ms)\n", rate.measuring.name(), rate.start.saturating_mul(1000));
    if mode(rate) == Mode::PageSampling {
        text.push_str(&format!("Sample Pages: {} (per GB)\n", rate.plan.map_or(0, |plan| plan.sample_pages)));
    }
    let unit = match unit(rate) {
        TimeUnit::Second => "sec",
        TimeUnit::Millisecond => "ms",
    };
    let time = rate.plan.map_or(0, |plan| plan.calc_time());
    let measured = match rate.measuring {
        Measuring::Measured(rate) => format!("{rate} (MB/s)"),
        Measuring::Unstarted | Measuring::UnderWay => "(not ready)".to_owned(),
    };
    text + &format!("Period: {time} ({unit})\nMode: {}\nDirty rate: {measured}\n", mode(rate).name())
}

/// What people are told who began a measurement.
pub fn info_measuring(plan: &Plan) -> String {
    format!(
        "Starting dirty rate measurement with period {} {}s\n[Please use 'info dirty_rate' to check results]\n",
        plan.calc_time(),
        plan.unit.name()
    )
}

/// `query-vcpu-dirty-limit`.
pub fn query_dirty_limit(limits: &[VcpuDirtyLimit]) -> Value {
    limits.iter().map(|it| json!({"cpu-index": it.vcpu, "limit-rate": it.limit, "current-rate": it.current})).collect()
}

/// `info vcpu_dirty_limit`.
pub fn info_dirty_limit(limits: &[VcpuDirtyLimit]) -> String {
    if limits.is_empty() {
        return "Dirty page limit not enabled!\n".to_owned();
    }
    let line = |it: &VcpuDirtyLimit| {
        format!("vcpu[{}], limit rate {} (MB/s), current rate {} (MB/s)\n", it.vcpu, it.limit, it.current)
    };
    limits.iter().map(line).collect()
}

fn unit(rate: &DirtyRate) -> TimeUnit {
    rate.plan.map_or(TimeUnit::Second, |plan| plan.unit)
}

fn mode(rate: &DirtyRate) -> Mode {
    rate.plan.map_or(Mode::PageSampling, |plan| plan.mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_the_first_measurement() {
        let none = DirtyRate { measuring: Measuring::Unstarted, start: 0, plan: None };
        assert_eq!(
            query_dirty_rate(&none, TimeUnit::Second),
            json!({"status": "unstarted", "start-time": 0, "calc-time": 0, "calc-time-unit": "second", "sample-pages": 0,
                "mode": "page-sampling"})
        );
        assert!(info_dirty_rate(&none).ends_with("Mode: page-sampling\nDirty rate: (not ready)\n"));
    }

    #[test]
    fn a_measurement_of_milliseconds_by_the_log() {
        let plan = Plan::new(250, TimeUnit::Millisecond, None, Mode::DirtyBitmap).ok();
        let rate = DirtyRate { measuring: Measuring::Measured(7), start: 3, plan };
        assert_eq!(
            query_dirty_rate(&rate, TimeUnit::Millisecond),
            json!({"status": "measured", "dirty-rate": 7, "start-time": 3, "calc-time": 250, "calc-time-unit": "millisecond",
                "sample-pages": 0, "mode": "dirty-bitmap"})
        );
        assert_eq!(
            info_dirty_rate(&rate),
            "Status: measured\nStart Time: 3000 (ms)\nPeriod: 250 (ms)\nMode: dirty-bitmap\nDirty rate: 7 (MB/s)\n"
        );
    }
}
