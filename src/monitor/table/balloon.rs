//! Commands on the guest's memory balloon.

use serde_json::json;

use crate::monitor::args::{Kind, Param};
use crate::monitor::command::{Command, Context, done, hmp, qmp, quiet, say};
use crate::monitor::error::CommandError;
use crate::size::parse_size;

/// What a bare number counts for people, in bytes.
const MIB: u64 = 1 << 20;
const VALUE: &str = "value";

pub(super) const COMMANDS: &[Command] = &[
    Command {
        help: "ask the guest to make do with this much memory (people: a bare number is in MiB; programs: bytes)",
        hmp: hmp("balloon", &[Param::required(VALUE, Kind::Text)], |args, cx| {
            quiet(balloon(parse_size(args.text(VALUE)?, MIB)?, cx))
        }),
        qmp: qmp("balloon", &[Param::required(VALUE, Kind::Integer)], |args, cx| {
            done(balloon(args.integer(VALUE).and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0), cx))
        }),
    },
    Command {
        help: "show how much memory the guest has, less what its balloon holds",
        // In MiB, rounded down, as in QEMU.
        hmp: hmp("info balloon", &[], |_, cx| say(format!("balloon: actual={}\n", cx.vm.balloon_actual()? >> 20))),
        qmp: qmp("query-balloon", &[], |_, cx| Ok(json!({ "actual": cx.vm.balloon_actual()? }))),
    },
];

fn balloon(bytes: u64, cx: &Context<'_>) -> Result<(), CommandError> {
    match bytes {
        0 => Err(CommandError::OutOfRange { name: VALUE, expected: "a size" }),
        _ => Ok(cx.vm.set_balloon(bytes)?),
    }
}
