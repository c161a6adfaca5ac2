//! Looking at registers.

use crate::monitor::args::{Args, Kind, Param};
use crate::monitor::command::{Command, Context, hmp, say};
use crate::monitor::error::CommandError;

const VCPU: &str = "vcpu";

pub(super) const COMMANDS: &[Command] = &[Command {
    help: "show the registers of a virtual CPU, the first if none is named (-a: of all); a guest that runs stands still for that moment",
    hmp: hmp(
        "info registers",
        &[Param::optional("all", Kind::Switch('a')), Param::optional(VCPU, Kind::Text)],
        |args, cx| {
            let one = wanted(args, cx)?;
            let mut all: Vec<_> = cx.vm.registers()?.into_iter().enumerate().collect();
            if let Some(index) = one {
                all.retain(|it| it.0 == index);
                if all.is_empty() {
                    return Err(CommandError::NoSuchVcpu(index));
                }
            }
            say(all.iter().map(|(index, text)| format!("CPU#{index}\n{text}")).collect::<Vec<_>>().join("\n"))
        },
    ),
    qmp: None,
}];

/// The vCPU whose registers are shown; `None`: all of them.
fn wanted(args: &Args, cx: &Context<'_>) -> Result<Option<usize>, CommandError> {
    if args.flag("all") == Some(true) {
        return Ok(None);
    }
    let Some(text) = args.optional_text(VCPU) else { return Ok(Some(cx.vcpu)) };
    text.parse().map(Some).map_err(|_| CommandError::OutOfRange { name: VCPU, expected: "a number" })
}
