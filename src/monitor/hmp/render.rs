//! Replies as text.

use crate::machine::RunState;
use crate::migration::parameters::{Form, PARAMETERS, Parameter};
use crate::migration::setting::Setting;
use crate::monitor::block::info_block;
use crate::monitor::dirty;
use crate::monitor::info_migrate::info_migrate;
use crate::monitor::request::{CPU_MODEL, Reply};
use crate::monitor::snapshots::info_snapshots;
use crate::monitor::table::{self, Command, Face};

/// Renders a reply: empty, or whole lines.
pub fn render(reply: &Reply) -> String {
    match reply {
        // All but the first are asked for by QMP only.
        Reply::Done
        | Reply::Commands
        | Reply::Schema
        | Reply::Yank(_)
        | Reply::Pages(_)
        | Reply::Job(_)
        | Reply::Jobs(_) => String::new(),
        Reply::Snapshots(all) => info_snapshots(all),
        Reply::Listening(uri) => format!("Listening at {uri}\n"),
        Reply::Migration { report, listening, all } => info_migrate(report.as_deref(), listening.as_ref(), *all),
        Reply::Measuring(plan) => dirty::info_measuring(plan),
        Reply::DirtyRate(rate, _) => dirty::info_dirty_rate(rate),
        Reply::DirtyLimitChanged => dirty::INFO_LIMIT_CHANGED.to_owned(),
        Reply::DirtyLimits(limits) => dirty::info_dirty_limit(limits),
        Reply::Capabilities(all) => all.shown().map(|(name, on)| format!("{name}: {}\n", on_off(on))).collect(),
        Reply::Parameters(all) => {
            let value = |it: &Parameter| match (it.form, all.get(it)) {
                (Form::Word, Setting::Text(word)) => word,
                (_, value) => value.to_string(),
            };
            let line = |it: &Parameter| format!("{}: {} {}", it.name, value(it), it.unit).trim_end().to_owned() + "\n";
            PARAMETERS.iter().map(line).collect()
        }
        Reply::Status(state) => status(*state),
        Reply::Cpus(cpus) => cpus
            .iter()
            .map(|cpu| {
                // As in QEMU, the mark is on the CPU that the monitor's commands would be about.
                let mark = if cpu.index == 0 { '*' } else { ' ' };
                format!("{mark} CPU #{}: thread_id={} model={CPU_MODEL}\n", cpu.index, cpu.thread_id)
            })
            .collect(),
        Reply::Registers(all) => {
            all.iter().map(|(index, text)| format!("CPU#{index}\n{text}")).collect::<Vec<_>>().join("\n")
        }
        Reply::Network(cards) => cards
            .iter()
            .map(|it| format!("{}: model=virtio-net,macaddr={}\n \\ type=tap,ifname={}\n", it.name, it.mac, it.tap))
            .collect(),
        Reply::Block(disks) => info_block(disks),
        // In MiB, rounded down, as in QEMU.
        Reply::Balloon(bytes) => format!("balloon: actual={}\n", bytes >> 20),
        Reply::Version => format!("{}\n", env!("CARGO_PKG_VERSION")),
        Reply::Name(name) => name.as_ref().map_or_else(String::new, |it| format!("{it}\n")),
        // All zero for none, as in QEMU.
        Reply::Uuid(uuid) => format!("{}\n", uuid.unwrap_or_default()),
        Reply::Kvm => "kvm support: enabled\n".to_owned(),
        // The one in brackets is in use.
        Reply::Accelerators => "[kvm]\n".to_owned(),
        Reply::Help(topic) => help(topic.as_deref()),
        Reply::Text(text) => text.clone(),
    }
}

const fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn status(state: RunState) -> String {
    match state {
        RunState::Running => "VM status: running\n".to_owned(),
        RunState::Paused => "VM status: paused\n".to_owned(),
        other => format!("VM status: paused ({})\n", other.name()),
    }
}

/// All commands, those of `info`, or one.
fn help(topic: Option<&str>) -> String {
    let faces = || table::commands().filter_map(|it| Some((it, it.hmp.as_ref()?)));
    let is_info = |face: &Face| face.name.starts_with("info ");
    match topic {
        None => {
            let mut text: String = faces().filter(|it| !is_info(it.1)).map(line).collect();
            text.push_str("info [subcommand] -- show something; 'info' alone lists what\n");
            text
        }
        Some("info") => faces().filter(|it| is_info(it.1)).map(line).collect(),
        Some(name) => match table::find_hmp(name) {
            Some((command, face)) => line((command, face)),
            None => format!("unknown command: '{name}'{}\n", table::hint_hmp(name)),
        },
    }
}

fn line((command, face): (&Command, &Face)) -> String {
    format!("{} -- {}\n", face.usage(), command.help)
}
