//! Looking at registers.

use super::{Command, face};
use crate::monitor::args::{Kind, Param};
use crate::monitor::error::CommandError;
use crate::monitor::request::{Request, Whose};

const VCPU: &str = "vcpu";

pub(super) const COMMANDS: &[Command] = &[Command {
    help: "show the registers of a virtual CPU, the first if none is named (-a: of all); a guest that runs stands still for that moment",
    hmp: face(
        "info registers",
        &[Param::optional("all", Kind::Switch('a')), Param::optional(VCPU, Kind::Text)],
        |args| {
            if args.flag("all") == Some(true) {
                return Ok(Request::QueryRegisters(Whose::All));
            }
            let Some(text) = args.optional_text(VCPU) else { return Ok(Request::QueryRegisters(Whose::Current)) };
            let vcpu = text.parse().map_err(|_| CommandError::OutOfRange { name: VCPU, expected: "a number" })?;
            Ok(Request::QueryRegisters(Whose::Of(vcpu)))
        },
    ),
    qmp: None,
}];
