//! Commands on the network cards.

use crate::monitor::args::{Args, Kind, Param};
use crate::monitor::command::{Command, done, hmp, qmp, quiet, say};
use crate::monitor::error::CommandError;
use crate::net::{InterfaceInfo, Schedule, Timing};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        help: "announce the guest to the network as after a migration, through all cards or those in a list such as net0,net1",
        hmp: hmp(
            "announce_self",
            &[Param::optional("interfaces", Kind::Text), Param::optional("id", Kind::Text)],
            |args, cx| {
                let names = args.optional_text("interfaces").unwrap_or_default();
                let interfaces: Vec<_> = names.split(',').filter(|it| !it.is_empty()).map(str::to_owned).collect();
                quiet(cx.vm.announce(&interfaces, id(args), cx.vm.parameters().announce))
            },
        ),
        qmp: qmp(
            "announce-self",
            &[
                Param::required(Timing::Initial.name(), Kind::Integer),
                Param::required(Timing::Max.name(), Kind::Integer),
                Param::required(Timing::Rounds.name(), Kind::Integer),
                Param::required(Timing::Step.name(), Kind::Integer),
                Param::optional("interfaces", Kind::Array),
                Param::optional("id", Kind::Text),
            ],
            |args, cx| {
                let schedule = schedule(args)?;
                done(cx.vm.announce(&args.texts("interfaces")?, id(args), schedule))
            },
        ),
    },
    Command {
        help: "show the network cards",
        hmp: hmp("info network", &[], |_, cx| say(cx.vm.interfaces().iter().map(info_network).collect::<String>())),
        qmp: None,
    },
];

/// A name for the announcement, empty by default: a second one of the same name replaces the first.
fn id(args: &Args) -> &str {
    args.optional_text("id").unwrap_or_default()
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

fn info_network(card: &InterfaceInfo) -> String {
    format!("{}: model=virtio-net,macaddr={}\n \\ type=tap,ifname={}\n", card.name, card.mac, card.tap)
}
