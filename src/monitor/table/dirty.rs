//! Commands on how fast the guest writes to its memory.

use serde_json::{Value, json};

use crate::dirty::{DirtyRate, Measuring, Mode, Plan, PlanError, TimeUnit, VcpuDirtyLimit};
use crate::monitor::args::{Args, Kind, Param};
use crate::monitor::command::{Command, done, hmp, qmp, say};
use crate::monitor::error::CommandError;

const TIME: &str = "calc-time";
const UNIT: &str = "calc-time-unit";
const SAMPLE_PAGES: &str = "sample-pages";
const MODE: &str = "mode";
const SECOND: &str = "second";
const SAMPLE_PAGES_PER_GB: &str = "sample_pages_per_GB";
const RATE: &str = "dirty-rate";
const VCPU: &str = "cpu-index";

pub(super) const COMMANDS: &[Command] = &[
    Command {
        help: "measure how fast the guest dirties its memory, for so many seconds (-b: by KVM's log, which is exact; without: by a sample of its pages)",
        hmp: hmp(
            "calc_dirty_rate",
            &[
                Param::optional("dirty_ring", Kind::Switch('r')),
                Param::optional("dirty_bitmap", Kind::Switch('b')),
                Param::required(SECOND, Kind::Text),
                Param::optional(SAMPLE_PAGES_PER_GB, Kind::Text),
            ],
            |args, cx| {
                let mode = match (args.flag("dirty_ring"), args.flag("dirty_bitmap")) {
                    (Some(true), Some(true)) => return Err(CommandError::TwoModes),
                    (Some(true), _) => return Err(PlanError::DirtyRing.into()),
                    (_, Some(true)) => Mode::DirtyBitmap,
                    _ => Mode::PageSampling,
                };
                let time = number(args, SECOND)?.unwrap_or(0);
                let plan = Plan::new(time, TimeUnit::Second, number(args, SAMPLE_PAGES_PER_GB)?, mode)?;
                cx.vm.measure_dirty_rate(plan)?;
                say(info_measuring(&plan))
            },
        ),
        qmp: qmp(
            "calc-dirty-rate",
            &[
                Param::required(TIME, Kind::Integer),
                Param::optional(UNIT, Kind::Text),
                Param::optional(SAMPLE_PAGES, Kind::Integer),
                Param::optional(MODE, Kind::Text),
            ],
            |args, cx| {
                let unit = unit(args)?;
                let mode = match args.optional_text(MODE) {
                    None => Mode::PageSampling,
                    Some("dirty-ring") => return Err(PlanError::DirtyRing.into()),
                    Some(text) => Mode::ALL
                        .into_iter()
                        .find(|it| it.name() == text)
                        .ok_or_else(|| CommandError::not_accepted(MODE, text, Mode::ALL.map(Mode::name)))?,
                };
                let plan = Plan::new(args.integer(TIME).unwrap_or(0), unit, args.integer(SAMPLE_PAGES), mode)?;
                done(cx.vm.measure_dirty_rate(plan))
            },
        ),
    },
    Command {
        help: "show the dirty rate that was measured last",
        hmp: hmp("info dirty_rate", &[], |_, cx| say(info_dirty_rate(&cx.vm.dirty_rate()))),
        qmp: qmp("query-dirty-rate", &[Param::optional(UNIT, Kind::Text)], |args, cx| {
            let unit = unit(args)?;
            Ok(query_dirty_rate(&cx.vm.dirty_rate(), unit))
        }),
    },
    Command {
        help: "slow the guest down so that it dirties no more than so many MiB a second for each vCPU, all together (0: no limit)",
        hmp: hmp(
            "set_vcpu_dirty_limit",
            &[Param::required("dirty_rate", Kind::Text), Param::optional("cpu_index", Kind::Text)],
            |args, cx| {
                let rate = number(args, "dirty_rate")?.unwrap_or(0);
                cx.vm.set_dirty_limit(number(args, "cpu_index")?, rate)?;
                say(INFO_LIMIT_CHANGED)
            },
        ),
        qmp: qmp(
            "set-vcpu-dirty-limit",
            &[Param::required(RATE, Kind::Integer), Param::optional(VCPU, Kind::Integer)],
            |args, cx| done(cx.vm.set_dirty_limit(args.integer(VCPU), args.integer(RATE).unwrap_or(0))),
        ),
    },
    Command {
        help: "take the dirty limit back",
        hmp: hmp("cancel_vcpu_dirty_limit", &[Param::optional("cpu_index", Kind::Text)], |args, cx| {
            cx.vm.cancel_dirty_limit(number(args, "cpu_index")?)?;
            say(INFO_LIMIT_CHANGED)
        }),
        qmp: qmp("cancel-vcpu-dirty-limit", &[Param::optional(VCPU, Kind::Integer)], |args, cx| {
            done(cx.vm.cancel_dirty_limit(args.integer(VCPU)))
        }),
    },
    Command {
        help: "show the dirty limit and the rate that it leaves: a vCPU's is its part of what all of them dirty",
        hmp: hmp("info vcpu_dirty_limit", &[], |_, cx| say(info_dirty_limit(&cx.vm.dirty_limits()))),
        qmp: qmp("query-vcpu-dirty-limit", &[], |_, cx| Ok(query_dirty_limit(&cx.vm.dirty_limits()))),
    },
];

/// The unit of time; seconds unless given.
fn unit(args: &Args) -> Result<TimeUnit, CommandError> {
    let Some(text) = args.optional_text(UNIT) else { return Ok(TimeUnit::Second) };
    let refused = || CommandError::not_accepted(UNIT, text, TimeUnit::ALL.map(TimeUnit::name));
    TimeUnit::ALL.into_iter().find(|it| it.name() == text).ok_or_else(refused)
}

/// A number that a person wrote.
fn number(args: &Args, name: &'static str) -> Result<Option<i64>, CommandError> {
    let wrong = |_| CommandError::OutOfRange { name, expected: "a number" };
    args.optional_text(name).map(|text| text.parse().map_err(wrong)).transpose()
}

/// What people are told who changed a limit.
const INFO_LIMIT_CHANGED: &str = "[Please use 'info vcpu_dirty_limit' to query dirty limit for virtual CPU]\n";

/// `query-dirty-rate`, with its time in this unit.
fn query_dirty_rate(rate: &DirtyRate, wanted: TimeUnit) -> Value {
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
fn info_dirty_rate(rate: &DirtyRate) -> String {
    let mut text = format!("Status: {}\nStart Time: {} (ms)\n", rate.measuring.name(), rate.start.saturating_mul(1000));
    if mode(rate) == Mode::PageSampling {
        text.push_str(&format!("Sample Pages: {} (per GB)\n", rate.plan.map_or(0, |plan| plan.sample_pages)));
    }
    let unit = match rate.plan.map_or(TimeUnit::Second, |plan| plan.unit) {
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
fn info_measuring(plan: &Plan) -> String {
    format!(
        "Starting dirty rate measurement with period {} {}s\n[Please use 'info dirty_rate' to check results]\n",
        plan.calc_time(),
        plan.unit.name()
    )
}

/// `query-vcpu-dirty-limit`.
fn query_dirty_limit(limits: &[VcpuDirtyLimit]) -> Value {
    limits.iter().map(|it| json!({"cpu-index": it.vcpu, "limit-rate": it.limit, "current-rate": it.current})).collect()
}

/// `info vcpu_dirty_limit`.
fn info_dirty_limit(limits: &[VcpuDirtyLimit]) -> String {
    if limits.is_empty() {
        return "Dirty page limit not enabled!\n".to_owned();
    }
    let line = |it: &VcpuDirtyLimit| {
        format!("vcpu[{}], limit rate {} (MB/s), current rate {} (MB/s)\n", it.vcpu, it.limit, it.current)
    };
    limits.iter().map(line).collect()
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
