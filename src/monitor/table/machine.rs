//! Commands on the machine and on the monitor itself.

use super::{Command, aliased, face};
use crate::monitor::args::{Kind, Param};
use crate::monitor::request::Request;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        help: "show the help of all commands or of one",
        hmp: aliased(
            face("help", &[Param::optional("command", Kind::Line)], |args| {
                Ok(Request::Help(args.optional_text("command").map(str::to_owned)))
            }),
            &["?"],
        ),
        qmp: None,
    },
    Command { help: "list the commands", hmp: None, qmp: face("query-commands", &[], |_| Ok(Request::QueryCommands)) },
    Command {
        help: "describe what commands take and which events there are; what they return is not described (type `any`)",
        hmp: None,
        qmp: face("query-qmp-schema", &[], |_| Ok(Request::QuerySchema)),
    },
    Command {
        help: "execute a line of the monitor for people and return its output",
        hmp: None,
        qmp: face(
            "human-monitor-command",
            &[Param::required("command-line", Kind::Text), Param::optional("cpu-index", Kind::Integer)],
            |args| {
                let line = args.text("command-line")?.to_owned();
                Ok(Request::HumanMonitorCommand { line, vcpu: args.integer("cpu-index") })
            },
        ),
    },
    Command {
        help: "stop the virtual CPUs",
        hmp: aliased(face("stop", &[], |_| Ok(Request::Stop)), &["s"]),
        qmp: face("stop", &[], |_| Ok(Request::Stop)),
    },
    Command {
        help: "start the virtual CPUs again",
        hmp: aliased(face("cont", &[], |_| Ok(Request::Cont)), &["c"]),
        qmp: face("cont", &[], |_| Ok(Request::Cont)),
    },
    Command {
        help: "reset the machine; while a postcopy's pages are missing it returns at once, and event `RESET` tells when it is done",
        hmp: face("system_reset", &[], |_| Ok(Request::SystemReset)),
        qmp: face("system_reset", &[], |_| Ok(Request::SystemReset)),
    },
    Command {
        help: "press the power button, so that the guest powers off by itself",
        hmp: face("system_powerdown", &[], |_| Ok(Request::SystemPowerdown)),
        qmp: face("system_powerdown", &[], |_| Ok(Request::SystemPowerdown)),
    },
    Command {
        help: "end the process, and with it the machine",
        hmp: aliased(face("quit", &[], |_| Ok(Request::Quit)), &["q", "exit"]),
        qmp: face("quit", &[], |_| Ok(Request::Quit)),
    },
    Command {
        help: "show whether the machine runs",
        hmp: face("info status", &[], |_| Ok(Request::QueryStatus)),
        qmp: face("query-status", &[], |_| Ok(Request::QueryStatus)),
    },
    Command {
        help: "show the virtual CPUs and their threads",
        hmp: face("info cpus", &[], |_| Ok(Request::QueryCpus)),
        qmp: face("query-cpus-fast", &[], |_| Ok(Request::QueryCpus)),
    },
    Command {
        help: "show the disks and their images",
        hmp: face("info block", &[], |_| Ok(Request::QueryBlock)),
        // Images below are never told of in the one above: that is what `flat` asks for.
        qmp: face("query-block", &[Param::optional("flat", Kind::Bool)], |_| Ok(Request::QueryBlock)),
    },
    Command {
        help: "show the machine's name",
        hmp: face("info name", &[], |_| Ok(Request::QueryName)),
        qmp: face("query-name", &[], |_| Ok(Request::QueryName)),
    },
    Command {
        help: "show the machine's identity",
        hmp: face("info uuid", &[], |_| Ok(Request::QueryUuid)),
        qmp: face("query-uuid", &[], |_| Ok(Request::QueryUuid)),
    },
    Command {
        help: "show the version of Whimbrel",
        hmp: face("info version", &[], |_| Ok(Request::QueryVersion)),
        qmp: face("query-version", &[], |_| Ok(Request::QueryVersion)),
    },
    Command {
        help: "show whether KVM is used",
        hmp: face("info kvm", &[], |_| Ok(Request::QueryKvm)),
        qmp: face("query-kvm", &[], |_| Ok(Request::QueryKvm)),
    },
    Command {
        help: "show the accelerators, and which of them is used",
        hmp: face("info accelerators", &[], |_| Ok(Request::QueryAccelerators)),
        qmp: face("query-accelerators", &[], |_| Ok(Request::QueryAccelerators)),
    },
];
