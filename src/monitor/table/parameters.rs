//! Commands on migration parameters. Which there are, `migration::parameters` says.

use serde_json::{Map, Value};

use crate::migration::parameters::{Form, PARAMETERS, Parameter, Parameters};
use crate::migration::setting::Setting;
use crate::monitor::args::{Args, Kind, Param};
use crate::monitor::command::{Command, Context, done, hmp, qmp, quiet, say};
use crate::monitor::error::CommandError;
use crate::nearest::hint;

pub(super) const SET: Command = Command {
    help: "set a migration parameter (bandwidths and sizes take a suffix K, M, G or T; a bandwidth without one is in MiB)",
    hmp: hmp(
        "migrate_set_parameter",
        &[Param::required("parameter", Kind::Text), Param::required("value", Kind::Text)],
        |args, cx| quiet(set([named_parameter(args)?], cx)),
    ),
    qmp: qmp("migrate-set-parameters", PARAMETER_ARGS, |args, cx| {
        done(set(PARAMETERS.iter().filter_map(|it| Some((it, given(args, it)?))), cx))
    }),
};

pub(super) const SHOW: Command = Command {
    help: "show the migration parameters",
    hmp: hmp("info migrate_parameters", &[], |_, cx| say(info_parameters(&cx.vm.parameters()))),
    qmp: qmp("query-migrate-parameters", &[], |_, cx| Ok(query_parameters(&cx.vm.parameters()))),
};

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

/// What QMP's arguments say of this one.
fn given(args: &Args, parameter: &Parameter) -> Option<Setting> {
    let name = parameter.name;
    match parameter.form {
        Form::Number => args.integer(name).map(Setting::from),
        Form::Size | Form::Bytes => args.size(name).map(|it| Setting::Number(it.into())),
        Form::Text | Form::Word => args.text_or_null(name).map(Setting::from),
        Form::Flag => args.flag(name).map(Setting::Flag),
    }
}

/// HMP's `NAME VALUE`.
fn named_parameter(args: &Args) -> Result<(&'static Parameter, Setting), CommandError> {
    let (name, text) = (args.text("parameter")?, args.text("value")?);
    let parameter = Parameter::find(name).ok_or_else(|| CommandError::NoSuchName {
        kind: "parameter",
        name: name.to_owned(),
        hint: hint(name, PARAMETERS.iter().map(|it| it.name)),
        lister: "info migrate_parameters",
    })??;
    Ok((parameter, parameter.read(text)?))
}

/// Sets all or none.
fn set<'a>(changes: impl IntoIterator<Item = (&'a Parameter, Setting)>, cx: &Context<'_>) -> Result<(), CommandError> {
    let mut all = cx.vm.parameters();
    for (parameter, value) in changes {
        all.set(parameter, value)?;
    }
    Ok(cx.vm.set_parameters(all)?)
}

fn info_parameters(all: &Parameters) -> String {
    let value = |it: &Parameter| match (it.form, all.get(it)) {
        (Form::Word, Setting::Text(word)) => word,
        (_, value) => value.to_string(),
    };
    let line = |it: &Parameter| format!("{}: {} {}", it.name, value(it), it.unit).trim_end().to_owned() + "\n";
    PARAMETERS.iter().map(line).collect()
}

fn query_parameters(all: &Parameters) -> Value {
    Value::Object(PARAMETERS.iter().map(|it| (it.name.to_owned(), value(all.get(it)))).collect::<Map<_, _>>())
}

fn value(setting: Setting) -> Value {
    match setting {
        Setting::Number(number) => u64::try_from(number).map_or_else(|_| (number as i64).into(), Value::from),
        Setting::Text(text) => text.into(),
        Setting::Flag(on) => on.into(),
    }
}
