//! Commands on migrations.

use whimbrel_postcopy::stats::Status;

use super::{capabilities, channels, parameters};
use crate::migration::uri::Uri;
use crate::monitor::args::{Args, Kind, Param};
use crate::monitor::command::{Answer, Awaited, Command, Context, done, hmp, out_of_band, qmp, quiet, say};
use crate::monitor::error::CommandError;
use crate::monitor::info_migrate::info_migrate;
use crate::monitor::query_migrate::query_migrate;

const EXIT_ON_ERROR: &str = "exit-on-error";
const URI: &[Param] = &[Param::required("uri", Kind::Text)];
const STATE: &[Param] = &[Param::required("state", Kind::Text)];

pub(super) const COMMANDS: &[Command] = &[
    Command {
        help: "move the machine to URI (-d: do not wait for the end; -r: join a paused postcopy migration again)",
        hmp: hmp(
            "migrate",
            &[
                Param::optional("detach", Kind::Switch('d')),
                Param::optional("resume", Kind::Switch('r')),
                Param::required("uri", Kind::Text),
            ],
            |args, cx| {
                migrate(args, uri(args)?, cx)?;
                let waits = (args.flag("detach") != Some(true)).then_some(Awaited::Migration);
                Ok(Answer { text: String::new(), waits })
            },
        ),
        qmp: qmp(
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
            |args, cx| match args.flag("detach") {
                Some(false) => Err(CommandError::not_accepted("detach", "false", [])),
                _ => done(migrate(args, channels::address(args)?, cx)),
            },
        ),
    },
    Command {
        help: "wait for a machine at URI, after '--incoming defer'",
        hmp: hmp("migrate_incoming", URI, |args, cx| {
            say(listening(cx.vm.incoming(&uri(args)?, args.flag(EXIT_ON_ERROR))?))
        }),
        qmp: qmp(
            "migrate-incoming",
            &[channels::URI, channels::CHANNELS, Param::optional(EXIT_ON_ERROR, Kind::Bool)],
            |args, cx| done(cx.vm.incoming(&channels::address(args)?, args.flag(EXIT_ON_ERROR)).map(drop)),
        ),
    },
    Command {
        help: "take the running migration back; not possible once the destination runs",
        hmp: hmp("migrate_cancel", &[], |_, cx| quiet(cx.vm.migrate_cancel())),
        qmp: qmp("migrate_cancel", &[], |_, cx| done(cx.vm.migrate_cancel())),
    },
    Command {
        help: "let the destination run now; the rest of memory follows",
        hmp: hmp("migrate_start_postcopy", &[], |_, cx| quiet(cx.vm.start_postcopy())),
        qmp: qmp("migrate-start-postcopy", &[], |_, cx| done(cx.vm.start_postcopy())),
    },
    Command {
        help: "go on with a switchover that capability pause-before-switchover holds; STATE is pre-switchover",
        hmp: hmp("migrate_continue", STATE, |args, cx| quiet(migrate_continue(args, cx))),
        qmp: qmp("migrate-continue", STATE, |args, cx| done(migrate_continue(args, cx))),
    },
    Command {
        help: "break the link of a postcopy migration, also of one that is being joined again: both sides pause and can recover",
        hmp: hmp("migrate_pause", &[], |_, cx| quiet(cx.vm.migrate_pause())),
        qmp: out_of_band(qmp("migrate-pause", &[], |_, cx| done(cx.vm.migrate_pause()))),
    },
    Command {
        help: "on the destination: wait at URI for the source of a paused postcopy migration",
        hmp: hmp("migrate_recover", URI, |args, cx| say(listening(cx.vm.recover(&uri(args)?)?))),
        qmp: out_of_band(qmp("migrate-recover", URI, |args, cx| done(cx.vm.recover(&uri(args)?).map(drop)))),
    },
    capabilities::SET,
    parameters::SET,
    Command {
        help: "show how the migration stands (-a: with blocktime, latencies and the switchover step by step)",
        hmp: hmp("info migrate", &[Param::optional("all", Kind::Switch('a'))], |args, cx| {
            let all = args.flag("all") == Some(true);
            say(info_migrate(cx.vm.report().as_ref(), cx.vm.listening().as_ref(), all))
        }),
        qmp: qmp("query-migrate", &[], |_, cx| Ok(query_migrate(cx.vm.report().as_ref(), cx.vm.listening().as_ref()))),
    },
    capabilities::SHOW,
    parameters::SHOW,
];

fn uri(args: &Args) -> Result<Uri, CommandError> {
    Ok(args.text("uri")?.parse()?)
}

fn migrate(args: &Args, uri: Uri, cx: &Context<'_>) -> Result<(), CommandError> {
    match args.flag("resume") == Some(true) {
        true => Ok(cx.vm.migrate_resume(&uri)?),
        false => Ok(cx.vm.migrate(&uri)?),
    }
}

/// Where a guest or a source is waited for.
fn listening(at: Uri) -> String {
    format!("Listening at {at}\n")
}

/// There is only one state that a migration can be told to leave.
fn migrate_continue(args: &Args, cx: &Context<'_>) -> Result<(), CommandError> {
    match args.text("state")? {
        state if state == Status::PreSwitchover.name() => Ok(cx.vm.migrate_continue()?),
        other => Err(CommandError::not_accepted("state", other, [Status::PreSwitchover.name()])),
    }
}
