//! Commands on the guest's memory balloon.

use super::{Command, face};
use crate::monitor::args::{Kind, Param};
use crate::monitor::error::CommandError;
use crate::monitor::request::Request;
use crate::size::parse_size;

/// What a bare number counts for people, in bytes.
const MIB: u64 = 1 << 20;
const VALUE: &str = "value";

pub(super) const COMMANDS: &[Command] = &[
    Command {
        help: "ask the guest to make do with this much memory (people: a bare number is in MiB; programs: bytes)",
        hmp: face("balloon", &[Param::required(VALUE, Kind::Text)], |args| target(parse_size(args.text(VALUE)?, MIB)?)),
        qmp: face("balloon", &[Param::required(VALUE, Kind::Integer)], |args| {
            target(args.integer(VALUE).and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0))
        }),
    },
    Command {
        help: "show how much memory the guest has, less what its balloon holds",
        hmp: face("info balloon", &[], |_| Ok(Request::QueryBalloon)),
        qmp: face("query-balloon", &[], |_| Ok(Request::QueryBalloon)),
    },
];

fn target(bytes: u64) -> Result<Request, CommandError> {
    match bytes {
        0 => Err(CommandError::OutOfRange { name: VALUE, expected: "a size" }),
        _ => Ok(Request::SetBalloon(bytes)),
    }
}
