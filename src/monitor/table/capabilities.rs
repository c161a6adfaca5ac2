//! Commands on migration capabilities.

use serde_json::{Value, json};

use crate::migration::capabilities::{Capabilities, Capability};
use crate::monitor::args::{Args, Kind, Param};
use crate::monitor::command::{Command, Context, done, hmp, qmp, quiet, say};
use crate::monitor::error::CommandError;
use crate::nearest::hint;

pub(super) const SET: Command = Command {
    help: "switch a migration capability",
    hmp: hmp(
        "migrate_set_capability",
        &[Param::required("capability", Kind::Text), Param::required("state", Kind::Bool)],
        |args, cx| quiet(switch(named_capability(args)?, cx)),
    ),
    qmp: qmp("migrate-set-capabilities", &[Param::required("capabilities", Kind::Array)], |args, cx| {
        done(switch(capability_list(args)?, cx))
    }),
};

pub(super) const SHOW: Command = Command {
    help: "show the migration capabilities",
    hmp: hmp("info migrate_capabilities", &[], |_, cx| say(info_capabilities(cx.vm.capabilities()))),
    qmp: qmp("query-migrate-capabilities", &[], |_, cx| Ok(query_capabilities(cx.vm.capabilities()))),
};

/// Switches all or none.
fn switch(changes: impl IntoIterator<Item = (Capability, bool)>, cx: &Context<'_>) -> Result<(), CommandError> {
    let mut all = cx.vm.capabilities();
    for (capability, on) in changes {
        all.set(capability, on)?;
    }
    Ok(cx.vm.set_capabilities(all)?)
}

/// HMP's `NAME on|off`; `None` where nothing is to be switched.
fn named_capability(args: &Args) -> Result<Option<(Capability, bool)>, CommandError> {
    let name = args.text("capability")?;
    let on = args.flag("state") == Some(true);
    let capability = Capability::to_switch(name, on).ok_or_else(|| CommandError::NoSuchName {
        kind: "capability",
        name: name.to_owned(),
        hint: hint(name, Capability::names()),
        lister: "info migrate_capabilities",
    })??;
    Ok(capability.map(|it| (it, on)))
}

/// QMP's `[{"capability": NAME, "state": BOOL}, ...]`.
fn capability_list(args: &Args) -> Result<Vec<(Capability, bool)>, CommandError> {
    let mut changes = Vec::new();
    for (n, entry) in args.array("capabilities").iter().enumerate() {
        let wrong =
            |member: &str, expected| CommandError::WrongType { name: format!("capabilities[{n}]{member}"), expected };
        let missing = |member: &str| CommandError::Missing(format!("capabilities[{n}].{member}"));
        let fields = entry.as_object().ok_or_else(|| wrong("", "object"))?;
        let name = fields
            .get("capability")
            .ok_or_else(|| missing("capability"))?
            .as_str()
            .ok_or_else(|| wrong(".capability", "string"))?;
        let on = fields
            .get("state")
            .ok_or_else(|| missing("state"))
            .and_then(|state| state.as_bool().ok_or_else(|| wrong(".state", "boolean")))?;
        let known = |key: &&String| matches!(key.as_str(), "capability" | "state");
        if let Some(other) = fields.keys().find(|key| !known(key)) {
            return Err(CommandError::unexpected(&format!("capabilities[{n}].{other}"), []));
        }
        let capability = Capability::to_switch(name, on)
            .ok_or_else(|| CommandError::not_accepted("capability", name, Capability::names()))??;
        changes.extend(capability.map(|it| (it, on)));
    }
    Ok(changes)
}

fn info_capabilities(all: Capabilities) -> String {
    all.shown().map(|(name, on)| format!("{name}: {}\n", if on { "on" } else { "off" })).collect()
}

fn query_capabilities(all: Capabilities) -> Value {
    all.shown().map(|(name, on)| json!({"capability": name, "state": on})).collect()
}
