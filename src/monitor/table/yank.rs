//! Breaking what hangs.

use serde_json::{Value, json};

use crate::monitor::args::{Args, Kind, Param};
use crate::monitor::command::{Command, out_of_band, qmp};
use crate::monitor::error::CommandError;

const INSTANCES: &str = "instances";
const MIGRATION: &str = "migration";
/// QEMU's other kinds of instances, none of which there is here.
const ABSENT: [&str; 2] = ["block-node", "chardev"];

pub(super) const COMMANDS: &[Command] = &[
    Command {
        help: "break the migration's link, whatever it is at: before the hand-over it fails and the guest stays, then it pauses",
        hmp: None,
        qmp: out_of_band(qmp("yank", &[Param::required(INSTANCES, Kind::Array)], |args, cx| {
            match !names_migration(args)? || cx.vm.yank() {
                true => Ok(json!({})),
                false => Err(CommandError::NothingToYank(MIGRATION.to_owned())),
            }
        })),
    },
    Command {
        help: "list what yank can break",
        hmp: None,
        qmp: out_of_band(qmp("query-yank", &[], |_, cx| {
            Ok(match cx.vm.has_link() {
                true => json!([{ "type": MIGRATION }]),
                false => json!([]),
            })
        })),
    },
];

/// Whether the migration is among the instances: `[{"type": "migration"}]`.
fn names_migration(args: &Args) -> Result<bool, CommandError> {
    let mut migration = false;
    for (n, instance) in args.array(INSTANCES).iter().enumerate() {
        match kind(n, instance)? {
            MIGRATION => migration = true,
            absent => return Err(CommandError::NothingToYank(absent.to_owned())),
        }
    }
    Ok(migration)
}

/// The type of the instance at `n`.
fn kind(n: usize, instance: &Value) -> Result<&str, CommandError> {
    let wrong =
        |member: &str, expected| CommandError::WrongType { name: format!("{INSTANCES}[{n}]{member}"), expected };
    let fields = instance.as_object().ok_or_else(|| wrong("", "object"))?;
    let kind = fields.get("type").ok_or_else(|| CommandError::Missing(format!("{INSTANCES}[{n}].type")))?;
    match kind.as_str().ok_or_else(|| wrong(".type", "string"))? {
        MIGRATION => match fields.keys().find(|key| *key != "type") {
            Some(other) => Err(CommandError::unexpected(&format!("{INSTANCES}[{n}].{other}"), [])),
            None => Ok(MIGRATION),
        },
        absent if ABSENT.contains(&absent) => Ok(absent),
        other => Err(CommandError::not_accepted("type", other, [MIGRATION])),
    }
}
