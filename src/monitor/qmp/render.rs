//! Replies as JSON.

use serde_json::{Map, Value, json};

use super::schema::schema;
use super::session::NEGOTIATE;
use crate::machine::RunState;
use crate::migration::parameters::{PARAMETERS, Parameters};
use crate::migration::setting::Setting;
use crate::monitor::block::query_block;
use crate::monitor::dirty;
use crate::monitor::query_migrate::{query_migrate, query_pages};
use crate::monitor::request::{CPU_MODEL, Reply};
use crate::monitor::snapshots::query_jobs;
use crate::monitor::table;

/// What stands after `"return":`.
pub fn render(reply: &Reply) -> Value {
    match reply {
        Reply::Done | Reply::Listening(_) | Reply::Measuring(_) | Reply::DirtyLimitChanged | Reply::Job(_) => json!({}),
        Reply::DirtyRate(rate, unit) => dirty::query_dirty_rate(rate, *unit),
        Reply::DirtyLimits(limits) => dirty::query_dirty_limit(limits),
        Reply::Jobs(all) => query_jobs(all),
        Reply::Migration { report, listening, .. } => query_migrate(report.as_deref(), listening.as_ref()),
        Reply::Pages(map) => query_pages(map.as_ref()),
        Reply::Capabilities(all) => all.shown().map(|(name, on)| json!({"capability": name, "state": on})).collect(),
        Reply::Parameters(all) => parameters(all),
        Reply::Status(state) => json!({
            "status": state.name(),
            "running": *state == RunState::Running,
        }),
        Reply::Cpus(cpus) => cpus
            .iter()
            .map(|cpu| {
                json!({
                    "cpu-index": cpu.index,
                    "qom-type": format!("{CPU_MODEL}-x86_64-cpu"),
                    "qom-path": format!("/machine/unattached/device[{}]", cpu.index),
                    "thread-id": cpu.thread_id,
                    "target": "x86_64",
                })
            })
            .collect(),
        Reply::Block(disks) => query_block(disks),
        Reply::Balloon(bytes) => json!({ "actual": bytes }),
        Reply::Version => version(),
        Reply::Name(name) => match name {
            Some(name) => json!({ "name": name }),
            None => json!({}),
        },
        Reply::Uuid(uuid) => json!({ "UUID": uuid.unwrap_or_default().to_string() }),
        Reply::Yank(migration) => match migration {
            true => json!([{"type": "migration"}]),
            false => json!([]),
        },
        Reply::Kvm => json!({"enabled": true, "present": true}),
        Reply::Accelerators => json!({"enabled": "kvm", "present": ["kvm"]}),
        Reply::Commands => commands(),
        Reply::Schema => schema(),
        // Asked for by HMP only.
        Reply::Help(_) | Reply::Network(_) | Reply::Registers(_) | Reply::Snapshots(_) => json!({}),
        Reply::Text(text) => Value::String(text.clone()),
    }
}

/// This program's version in QEMU's shape, in the greeting too.
pub fn version() -> Value {
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    json!({
        "qemu": {
            "micro": number(env!("CARGO_PKG_VERSION_PATCH")),
            "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
            "major": number(env!("CARGO_PKG_VERSION_MAJOR")),
        },
        "package": concat!("whimbrel ", env!("CARGO_PKG_VERSION")),
    })
}

fn parameters(all: &Parameters) -> Value {
    let fields: Map<String, Value> = PARAMETERS.iter().map(|it| (it.name.to_owned(), value(all.get(it)))).collect();
    Value::Object(fields)
}

fn value(setting: Setting) -> Value {
    match setting {
        Setting::Number(number) => u64::try_from(number).map_or_else(|_| (number as i64).into(), Value::from),
        Setting::Text(text) => text.into(),
        Setting::Flag(on) => on.into(),
    }
}

fn commands() -> Value {
    table::commands()
        .filter_map(|command| command.qmp.as_ref())
        .map(|face| face.name)
        .chain([NEGOTIATE])
        .map(|name| json!({ "name": name }))
        .collect()
}
