//! Commands on the monitor itself.

use serde_json::{Value, json};

use super::schema::schema;
use super::{NEGOTIATE, commands, find_hmp, hint_hmp};
use crate::monitor::args::{Kind, Param};
use crate::monitor::command::{Command, Face, HmpHandler, aliased, hmp, qmp, say};
use crate::monitor::error::CommandError;

const VCPU: &str = "cpu-index";

pub(super) const COMMANDS: &[Command] = &[
    Command {
        help: "show the help of all commands or of one",
        hmp: aliased(
            hmp("help", &[Param::optional("command", Kind::Line)], |args, _| say(help(args.optional_text("command")))),
            &["?"],
        ),
        qmp: None,
    },
    Command { help: "list the commands", hmp: None, qmp: qmp("query-commands", &[], |_, _| Ok(query_commands())) },
    Command {
        help: "describe what commands take and which events there are; what they return is not described (type `any`)",
        hmp: None,
        qmp: qmp("query-qmp-schema", &[], |_, _| Ok(schema())),
    },
    Command {
        help: "execute a line of the monitor for people and return its output",
        hmp: None,
        qmp: qmp(
            "human-monitor-command",
            &[Param::required("command-line", Kind::Text), Param::optional(VCPU, Kind::Integer)],
            |args, cx| {
                let refused = CommandError::OutOfRange { name: VCPU, expected: "a CPU number" };
                let vcpu = usize::try_from(args.integer(VCPU).unwrap_or(0)).ok();
                let vcpu = vcpu.filter(|it| *it < cx.vm.vcpus().len()).ok_or(refused)?;
                Ok((cx.hmp)(args.text("command-line")?, cx.vm, vcpu).into())
            },
        ),
    },
];

/// All commands, those of `info`, or one.
fn help(topic: Option<&str>) -> String {
    let faces = || commands().filter_map(|it| Some((it, it.hmp.as_ref()?)));
    let is_info = |face: &Face<HmpHandler>| face.name.starts_with("info ");
    match topic {
        None => {
            let mut text: String = faces().filter(|it| !is_info(it.1)).map(line).collect();
            text.push_str("info [subcommand] -- show something; 'info' alone lists what\n");
            text
        }
        Some("info") => faces().filter(|it| is_info(it.1)).map(line).collect(),
        Some(name) => match find_hmp(name) {
            Some((command, face)) => line((command, face)),
            None => format!("unknown command: '{name}'{}\n", hint_hmp(name)),
        },
    }
}

fn line((command, face): (&Command, &Face<HmpHandler>)) -> String {
    format!("{} -- {}\n", face.usage(), command.help)
}

fn query_commands() -> Value {
    let names = commands().filter_map(|command| command.qmp.as_ref()).map(|face| face.name);
    names.chain([NEGOTIATE]).map(|name| json!({ "name": name })).collect()
}
