//! Commands on migrations.

use whimbrel_postcopy::stats::Status;

use super::{Command, channels, face, out_of_band};
use crate::migration::capabilities::Capability;
use crate::migration::parameters::{Form, PARAMETERS, Parameter};
use crate::migration::setting::Setting;
use crate::migration::uri::Uri;
use crate::monitor::args::{Args, Kind, Param};
use crate::monitor::error::CommandError;
use crate::monitor::request::Request;
use crate::nearest::hint;

const URI: &[Param] = &[Param::required("uri", Kind::Text)];
const STATE: &[Param] = &[Param::required("state", Kind::Text)];

pub(super) const COMMANDS: &[Command] = &[
    Command {
        help: "move the machine to URI (-d: do not wait for the end; -r: join a paused postcopy migration again)",
        hmp: face(
            "migrate",
            &[
                Param::optional("detach", Kind::Switch('d')),
                Param::optional("resume", Kind::Switch('r')),
                Param::required("uri", Kind::Text),
            ],
            |args| migrate(args, uri(args)?, args.flag("detach") != Some(true)),
        ),
        qmp: face(
            "migrate",
            &[
                channels::URI,
                channels::CHANNELS,
                Param::optional("resume", Kind::Bool),
                // QMP's migrate never waits; 'detach' was made to say so, and management tools
                // still do.
                Param::optional("detach", Kind::Bool),
                Param::optional("blk", Kind::Unsupported),
                Param::optional("inc", Kind::Unsupported),
            ],
            |args| match args.flag("detach") {
                Some(false) => Err(CommandError::not_accepted("detach", "false", [])),
                _ => migrate(args, channels::address(args)?, false),
            },
        ),
    },
    Command {
        help: "wait for a machine at URI, after '--incoming defer'",
        hmp: face("migrate_incoming", URI, |args| Ok(incoming_at(args, uri(args)?))),
        qmp: face(
            "migrate-incoming",
            &[channels::URI, channels::CHANNELS, Param::optional("exit-on-error", Kind::Bool)],
            |args| Ok(incoming_at(args, channels::address(args)?)),
        ),
    },
    Command {
        help: "take the running migration back; not possible once the destination runs",
        hmp: face("migrate_cancel", &[], |_| Ok(Request::MigrateCancel)),
        qmp: face("migrate_cancel", &[], |_| Ok(Request::MigrateCancel)),
    },
    Command {
        help: "let the destination run now; the rest of memory follows",
        hmp: face("migrate_start_postcopy", &[], |_| Ok(Request::MigrateStartPostcopy)),
        qmp: face("migrate-start-postcopy", &[], |_| Ok(Request::MigrateStartPostcopy)),
    },
    Command {
        help: "go on with a switchover that capability pause-before-switchover holds; STATE is pre-switchover",
        hmp: face("migrate_continue", STATE, held),
        qmp: face("migrate-continue", STATE, held),
    },
    Command {
        help: "break the link of a postcopy migration, also of one that is being joined again: both sides pause and can recover",
        hmp: face("migrate_pause", &[], |_| Ok(Request::MigratePause)),
        qmp: out_of_band(face("migrate-pause", &[], |_| Ok(Request::MigratePause))),
    },
    Command {
        help: "on the destination: wait at URI for the source of a paused postcopy migration",
        hmp: face("migrate_recover", URI, |args| uri(args).map(Request::MigrateRecover)),
        qmp: out_of_band(face("migrate-recover", URI, |args| uri(args).map(Request::MigrateRecover))),
    },
    Command {
        help: "switch a migration capability",
        hmp: face(
            "migrate_set_capability",
            &[Param::required("capability", Kind::Text), Param::required("state", Kind::Bool)],
            |args| {
                let name = args.text("capability")?;
                let on = args.flag("state") == Some(true);
                let capability = Capability::to_switch(name, on).ok_or_else(|| CommandError::NoSuchName {
                    kind: "capability",
                    name: name.to_owned(),
                    hint: hint(name, Capability::names()),
                    lister: "info migrate_capabilities",
                })??;
                Ok(Request::SetCapabilities(capability.into_iter().map(|it| (it, on)).collect()))
            },
        ),
        qmp: face("migrate-set-capabilities", &[Param::required("capabilities", Kind::Array)], capability_list),
    },
    Command {
        help: "set a migration parameter (bandwidths and sizes take a suffix K, M, G or T; a bandwidth without one is in MiB)",
        hmp: face(
            "migrate_set_parameter",
            &[Param::required("parameter", Kind::Text), Param::required("value", Kind::Text)],
            named_parameter,
        ),
        qmp: face("migrate-set-parameters", PARAMETER_ARGS, |args| {
            let given = |it: &'static Parameter| {
                let name = it.name;
                let setting = match it.form {
                    Form::Number => args.integer(name).map(Setting::from),
                    Form::Size | Form::Bytes => args.size(name).map(|it| Setting::Number(it.into())),
                    Form::Text | Form::Word => args.text_or_null(name).map(Setting::from),
                    Form::Flag => args.flag(name).map(Setting::Flag),
                };
                Some((it, setting?))
            };
            Ok(Request::SetParameters(PARAMETERS.iter().filter_map(given).collect()))
        }),
    },
    Command {
        help: "show how the migration stands (-a: with blocktime, latencies and the switchover step by step)",
        hmp: face("info migrate", &[Param::optional("all", Kind::Switch('a'))], |args| {
            Ok(Request::QueryMigrate { all: args.flag("all") == Some(true) })
        }),
        qmp: face("query-migrate", &[], |_| Ok(Request::QueryMigrate { all: true })),
    },
    Command {
        help: "show the migration capabilities",
        hmp: face("info migrate_capabilities", &[], |_| Ok(Request::QueryCapabilities)),
        qmp: face("query-migrate-capabilities", &[], |_| Ok(Request::QueryCapabilities)),
    },
    Command {
        help: "show the migration parameters",
        hmp: face("info migrate_parameters", &[], |_| Ok(Request::QueryParameters)),
        qmp: face("query-migrate-parameters", &[], |_| Ok(Request::QueryParameters)),
    },
];

/// Every parameter by its name: those that are built as integers or strings, those of QEMU's that
/// are not to be refused by name.
const PARAMETER_ARGS: &[Param] = &{
    let mut all = [Param::optional("", Kind::Unsupported); PARAMETERS.len() + Parameter::UNSUPPORTED.len()];
    let mut n = 0;
    while n < all.len() {
        all[n] = match n < PARAMETERS.len() {
            true => Param::optional(
                PARAMETERS[n].name,
                match PARAMETERS[n].form {
                    Form::Text => Kind::TextOrNull,
                    Form::Word => Kind::Text,
                    Form::Number => Kind::Integer,
                    Form::Size | Form::Bytes => Kind::Size,
                    Form::Flag => Kind::Bool,
                },
            ),
            // The first of them is the one that may be set to nothing.
            false if n == PARAMETERS.len() => Param::optional(Parameter::NOTHING, Kind::Nothing),
            false => Param::optional(Parameter::UNSUPPORTED[n - PARAMETERS.len()], Kind::Unsupported),
        };
        n += 1;
    }
    all
};

fn uri(args: &Args) -> Result<Uri, CommandError> {
    Ok(args.text("uri")?.parse()?)
}

fn incoming_at(args: &Args, uri: Uri) -> Request {
    Request::MigrateIncoming { uri, exit_on_error: args.flag("exit-on-error") }
}

/// The only state that a migration can be told to leave.
fn held(args: &Args) -> Result<Request, CommandError> {
    match args.text("state")? {
        state if state == Status::PreSwitchover.name() => Ok(Request::MigrateContinue),
        other => Err(CommandError::not_accepted("state", other, [Status::PreSwitchover.name()])),
    }
}

fn migrate(args: &Args, uri: Uri, wait: bool) -> Result<Request, CommandError> {
    Ok(Request::Migrate { uri, resume: args.flag("resume") == Some(true), wait })
}

/// QMP's `[{"capability": NAME, "state": BOOL}, ...]`.
fn capability_list(args: &Args) -> Result<Request, CommandError> {
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
    Ok(Request::SetCapabilities(changes))
}

/// HMP's `NAME VALUE`.
fn named_parameter(args: &Args) -> Result<Request, CommandError> {
    let (name, text) = (args.text("parameter")?, args.text("value")?);
    let parameter = Parameter::find(name).ok_or_else(|| CommandError::NoSuchName {
        kind: "parameter",
        name: name.to_owned(),
        hint: hint(name, PARAMETERS.iter().map(|it| it.name)),
        lister: "info migrate_parameters",
    })??;
    let setting = parameter.read(text)?;
    Ok(Request::SetParameters(vec![(parameter, setting)]))
}
