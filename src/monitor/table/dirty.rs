//! Commands on how fast the guest writes to its memory.

use super::{Command, face};
use crate::dirty::{Mode, Plan, PlanError, TimeUnit};
use crate::monitor::args::{Args, Kind, Param};
use crate::monitor::error::CommandError;
use crate::monitor::request::Request;

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
        hmp: face(
            "calc_dirty_rate",
            &[
                Param::optional("dirty_ring", Kind::Switch('r')),
                Param::optional("dirty_bitmap", Kind::Switch('b')),
                Param::required(SECOND, Kind::Text),
                Param::optional(SAMPLE_PAGES_PER_GB, Kind::Text),
            ],
            |args| {
                let mode = match (args.flag("dirty_ring"), args.flag("dirty_bitmap")) {
                    (Some(true), Some(true)) => return Err(CommandError::TwoModes),
                    (Some(true), _) => return Err(PlanError::DirtyRing.into()),
                    (_, Some(true)) => Mode::DirtyBitmap,
                    _ => Mode::PageSampling,
                };
                let time = number(args, SECOND)?.unwrap_or(0);
                let plan = Plan::new(time, TimeUnit::Second, number(args, SAMPLE_PAGES_PER_GB)?, mode)?;
                Ok(Request::MeasureDirtyRate(plan))
            },
        ),
        qmp: face(
            "calc-dirty-rate",
            &[
                Param::required(TIME, Kind::Integer),
                Param::optional(UNIT, Kind::Text),
                Param::optional(SAMPLE_PAGES, Kind::Integer),
                Param::optional(MODE, Kind::Text),
            ],
            |args| {
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
                Ok(Request::MeasureDirtyRate(plan))
            },
        ),
    },
    Command {
        help: "show the dirty rate that was measured last",
        hmp: face("info dirty_rate", &[], |_| Ok(Request::QueryDirtyRate(TimeUnit::Second))),
        qmp: face("query-dirty-rate", &[Param::optional(UNIT, Kind::Text)], |args| {
            Ok(Request::QueryDirtyRate(unit(args)?))
        }),
    },
    Command {
        help: "slow the guest down so that it dirties no more than so many MiB a second for each vCPU, all together (0: no limit)",
        hmp: face(
            "set_vcpu_dirty_limit",
            &[Param::required("dirty_rate", Kind::Text), Param::optional("cpu_index", Kind::Text)],
            |args| {
                let rate = number(args, "dirty_rate")?.unwrap_or(0);
                Ok(Request::SetDirtyLimit { vcpu: number(args, "cpu_index")?, rate })
            },
        ),
        qmp: face(
            "set-vcpu-dirty-limit",
            &[Param::required(RATE, Kind::Integer), Param::optional(VCPU, Kind::Integer)],
            |args| Ok(Request::SetDirtyLimit { vcpu: args.integer(VCPU), rate: args.integer(RATE).unwrap_or(0) }),
        ),
    },
    Command {
        help: "take the dirty limit back",
        hmp: face("cancel_vcpu_dirty_limit", &[Param::optional("cpu_index", Kind::Text)], |args| {
            Ok(Request::CancelDirtyLimit { vcpu: number(args, "cpu_index")? })
        }),
        qmp: face("cancel-vcpu-dirty-limit", &[Param::optional(VCPU, Kind::Integer)], |args| {
            Ok(Request::CancelDirtyLimit { vcpu: args.integer(VCPU) })
        }),
    },
    Command {
        help: "show the dirty limit and the rate that it leaves: a vCPU's is its part of what all of them dirty",
        hmp: face("info vcpu_dirty_limit", &[], |_| Ok(Request::QueryDirtyLimit)),
        qmp: face("query-vcpu-dirty-limit", &[], |_| Ok(Request::QueryDirtyLimit)),
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
