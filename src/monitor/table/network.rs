//! Commands on the network cards.

use super::{Command, face};
use crate::monitor::args::{Args, Kind, Param};
use crate::monitor::error::CommandError;
use crate::monitor::request::Request;
use crate::net::{Schedule, Timing};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        help: "announce the guest to the network as after a migration, through all cards or those in a list such as net0,net1",
        hmp: face(
            "announce_self",
            &[Param::optional("interfaces", Kind::Text), Param::optional("id", Kind::Text)],
            |args| {
                let names = args.optional_text("interfaces").unwrap_or_default();
                let interfaces = names.split(',').filter(|it| !it.is_empty()).map(str::to_owned).collect();
                Ok(announce(args, None, interfaces))
            },
        ),
        qmp: face(
            "announce-self",
            &[
                Param::required(Timing::Initial.name(), Kind::Integer),
                Param::required(Timing::Max.name(), Kind::Integer),
                Param::required(Timing::Rounds.name(), Kind::Integer),
                Param::required(Timing::Step.name(), Kind::Integer),
                Param::optional("interfaces", Kind::Array),
                Param::optional("id", Kind::Text),
            ],
            |args| Ok(announce(args, Some(schedule(args)?), args.texts("interfaces")?)),
        ),
    },
    Command {
        help: "show the network cards",
        hmp: face("info network", &[], |_| Ok(Request::QueryNetwork)),
        qmp: None,
    },
];

fn announce(args: &Args, schedule: Option<Schedule>, interfaces: Vec<String>) -> Request {
    Request::AnnounceSelf { schedule, interfaces, id: args.optional_text("id").unwrap_or_default().to_owned() }
}

fn schedule(args: &Args) -> Result<Schedule, CommandError> {
    let mut schedule = Schedule::default();
    for timing in Timing::ALL {
        let value = args.integer(timing.name()).ok_or_else(|| CommandError::Missing(timing.name().to_owned()))?;
        let refuse = |_| CommandError::OutOfRange { name: timing.name(), expected: timing.expected() };
        schedule.set(timing, value).map_err(refuse)?;
    }
    Ok(schedule)
}
