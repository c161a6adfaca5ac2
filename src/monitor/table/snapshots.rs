//! Commands on snapshots, and on the jobs that save, load and delete them.

use super::{Command, face};
use crate::monitor::args::{Args, Kind, Param};
use crate::monitor::error::CommandError;
use crate::monitor::request::Request;
use crate::snapshots::{self, Operation};

const TAG: &str = "tag";
const JOB: &str = "job-id";
const VMSTATE: &str = "vmstate";
const DEVICES: &str = "devices";
const NAME: &[Param] = &[Param::required(TAG, Kind::Text)];
/// QEMU has the last two name block devices.
const WITH_STATE: &[Param] = &[
    Param::required(JOB, Kind::Text),
    Param::required(TAG, Kind::Text),
    Param::optional(VMSTATE, Kind::Text),
    Param::optional(DEVICES, Kind::Array),
];
const WITHOUT_STATE: &[Param] =
    &[Param::required(JOB, Kind::Text), Param::required(TAG, Kind::Text), Param::optional(DEVICES, Kind::Array)];

pub(super) const COMMANDS: &[Command] = &[
    Command {
        help: "save the machine as a snapshot, in the place of any of that name; the guest goes on (programs: as a job, and no other is replaced)",
        hmp: face("savevm", &[Param::optional(TAG, Kind::Text)], |args| Ok(of_people(args, snapshots::Kind::Save))),
        qmp: face("snapshot-save", WITH_STATE, |args| of_programs(args, snapshots::Kind::Save)),
    },
    Command {
        help: "put the machine back to a snapshot; it runs if it ran before this, and reads its memory as it needs it",
        hmp: face("loadvm", NAME, |args| Ok(of_people(args, snapshots::Kind::Load))),
        qmp: face("snapshot-load", WITH_STATE, |args| of_programs(args, snapshots::Kind::Load)),
    },
    Command {
        help: "delete a snapshot",
        hmp: face("delvm", NAME, |args| Ok(of_people(args, snapshots::Kind::Delete))),
        qmp: face("snapshot-delete", WITHOUT_STATE, |args| of_programs(args, snapshots::Kind::Delete)),
    },
    Command {
        help: "list the snapshots",
        hmp: face("info snapshots", &[], |_| Ok(Request::QuerySnapshots)),
        qmp: None,
    },
    Command { help: "list the jobs", hmp: None, qmp: face("query-jobs", &[], |_| Ok(Request::QueryJobs)) },
    Command {
        help: "forget a job that is over",
        hmp: None,
        qmp: face("job-dismiss", &[Param::required("id", Kind::Text)], |args| {
            Ok(Request::DismissJob(args.text("id")?.to_owned()))
        }),
    },
];

fn of_people(args: &Args, kind: snapshots::Kind) -> Request {
    Request::Snapshot(Operation { kind, tag: args.optional_text(TAG).map(str::to_owned), job: None })
}

fn of_programs(args: &Args, kind: snapshots::Kind) -> Result<Request, CommandError> {
    if let Some(node) = args.optional_text(VMSTATE).filter(|node| !node.is_empty()) {
        return Err(CommandError::NoNode { name: VMSTATE, value: node.to_owned() });
    }
    if let Some(node) = args.texts(DEVICES)?.into_iter().next() {
        return Err(CommandError::NoNode { name: DEVICES, value: node });
    }
    let (tag, job) = (args.text(TAG)?.to_owned(), args.text(JOB)?.to_owned());
    Ok(Request::Snapshot(Operation { kind, tag: Some(tag), job: Some(job) }))
}
