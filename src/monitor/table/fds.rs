//! Commands on descriptors that a client hands over.

use crate::monitor::args::{Args, Kind, Param};
use crate::monitor::command::{Command, Context, done, hmp, qmp, quiet};
use crate::monitor::error::CommandError;

const FDNAME: &str = "fdname";
const NAME: &[Param] = &[Param::required(FDNAME, Kind::Text)];

pub(super) const COMMANDS: &[Command] = &[
    Command {
        help: "name the file descriptor that comes with this command over a unix socket (SCM_RIGHTS)",
        hmp: hmp("getfd", NAME, |args, cx| quiet(getfd(args, cx))),
        qmp: qmp("getfd", NAME, |args, cx| done(getfd(args, cx))),
    },
    Command {
        help: "close a file descriptor that getfd named",
        hmp: hmp("closefd", NAME, |args, cx| quiet(closefd(args, cx))),
        qmp: qmp("closefd", NAME, |args, cx| done(closefd(args, cx))),
    },
];

fn getfd(args: &Args, cx: &mut Context<'_>) -> Result<(), CommandError> {
    let name = args.text(FDNAME)?;
    let fd = cx.handed.take().ok_or(CommandError::NoFd)?;
    Ok(cx.vm.fds().keep(name, fd)?)
}

fn closefd(args: &Args, cx: &mut Context<'_>) -> Result<(), CommandError> {
    let name = args.text(FDNAME)?;
    cx.vm.fds().take(name).map(drop).ok_or_else(|| CommandError::UnknownFd(name.to_owned()))
}
