//! Commands on descriptors that a client hands over.

use super::{Command, face};
use crate::monitor::args::{Args, Kind, Param};
use crate::monitor::error::CommandError;
use crate::monitor::request::Request;

const NAME: &[Param] = &[Param::required("fdname", Kind::Text)];

pub(super) const COMMANDS: &[Command] = &[
    Command {
        help: "name the file descriptor that comes with this command over a unix socket (SCM_RIGHTS)",
        hmp: face("getfd", NAME, |args| name(args).map(Request::GetFd)),
        qmp: face("getfd", NAME, |args| name(args).map(Request::GetFd)),
    },
    Command {
        help: "close a file descriptor that getfd named",
        hmp: face("closefd", NAME, |args| name(args).map(Request::CloseFd)),
        qmp: face("closefd", NAME, |args| name(args).map(Request::CloseFd)),
    },
];

fn name(args: &Args) -> Result<String, CommandError> {
    args.text("fdname").map(str::to_owned)
}
