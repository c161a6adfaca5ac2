//! Commands on the machine.

use serde_json::{Value, json};

use super::block::{info_block, query_block};
use crate::machine::{RunState, VcpuInfo};
use crate::monitor::args::{Kind, Param};
use crate::monitor::command::{Command, aliased, done, hmp, qmp, quiet, say};

/// What QEMU calls a vCPU that has what the host has.
const CPU_MODEL: &str = "host";

pub(super) const COMMANDS: &[Command] = &[
    Command {
        help: "stop the virtual CPUs",
        hmp: aliased(hmp("stop", &[], |_, cx| quiet(cx.vm.stop())), &["s"]),
        qmp: qmp("stop", &[], |_, cx| done(cx.vm.stop())),
    },
    Command {
        help: "start the virtual CPUs again",
        hmp: aliased(hmp("cont", &[], |_, cx| quiet(cx.vm.cont())), &["c"]),
        qmp: qmp("cont", &[], |_, cx| done(cx.vm.cont())),
    },
    Command {
        help: "reset the machine; while a postcopy's pages are missing it returns at once, and event `RESET` tells when it is done",
        hmp: hmp("system_reset", &[], |_, cx| quiet(cx.vm.reset())),
        qmp: qmp("system_reset", &[], |_, cx| done(cx.vm.reset())),
    },
    Command {
        help: "press the power button, so that the guest powers off by itself",
        hmp: hmp("system_powerdown", &[], |_, cx| quiet(cx.vm.powerdown())),
        qmp: qmp("system_powerdown", &[], |_, cx| done(cx.vm.powerdown())),
    },
    Command {
        help: "end the process, and with it the machine",
        hmp: aliased(
            hmp("quit", &[], |_, cx| {
                cx.vm.quit();
                say("")
            }),
            &["q", "exit"],
        ),
        qmp: qmp("quit", &[], |_, cx| {
            cx.vm.quit();
            Ok(json!({}))
        }),
    },
    Command {
        help: "show whether the machine runs",
        hmp: hmp("info status", &[], |_, cx| say(info_status(cx.vm.run_state()))),
        qmp: qmp("query-status", &[], |_, cx| {
            let state = cx.vm.run_state();
            Ok(json!({"status": state.name(), "running": state == RunState::Running}))
        }),
    },
    Command {
        help: "show the virtual CPUs and their threads",
        hmp: hmp("info cpus", &[], |_, cx| say(cx.vm.vcpus().iter().map(info_cpu).collect::<String>())),
        qmp: qmp("query-cpus-fast", &[], |_, cx| Ok(cx.vm.vcpus().iter().map(query_cpu).collect())),
    },
    Command {
        help: "show the disks and their images",
        hmp: hmp("info block", &[], |_, cx| say(info_block(&cx.vm.disks()))),
        // Images below are never told of in the one above: that is what `flat` asks for.
        qmp: qmp("query-block", &[Param::optional("flat", Kind::Bool)], |_, cx| Ok(query_block(&cx.vm.disks()))),
    },
    Command {
        help: "show the machine's name",
        hmp: hmp("info name", &[], |_, cx| say(cx.vm.name().map_or_else(String::new, |name| name + "\n"))),
        qmp: qmp("query-name", &[], |_, cx| Ok(cx.vm.name().map_or_else(|| json!({}), |name| json!({ "name": name })))),
    },
    Command {
        help: "show the machine's identity",
        // All zero for none, as in QEMU.
        hmp: hmp("info uuid", &[], |_, cx| say(format!("{}\n", cx.vm.uuid().unwrap_or_default()))),
        qmp: qmp("query-uuid", &[], |_, cx| Ok(json!({ "UUID": cx.vm.uuid().unwrap_or_default().to_string() }))),
    },
    Command {
        help: "show the version of Whimbrel",
        hmp: hmp("info version", &[], |_, _| say(concat!(env!("CARGO_PKG_VERSION"), "\n"))),
        qmp: qmp("query-version", &[], |_, _| Ok(version())),
    },
    Command {
        help: "show whether KVM is used",
        hmp: hmp("info kvm", &[], |_, _| say("kvm support: enabled\n")),
        qmp: qmp("query-kvm", &[], |_, _| Ok(json!({"enabled": true, "present": true}))),
    },
    Command {
        help: "show the accelerators, and which of them is used",
        // The one in brackets is in use.
        hmp: hmp("info accelerators", &[], |_, _| say("[kvm]\n")),
        qmp: qmp("query-accelerators", &[], |_, _| Ok(json!({"enabled": "kvm", "present": ["kvm"]}))),
    },
];

fn info_status(state: RunState) -> String {
    match state {
        RunState::Running => "VM status: running\n".to_owned(),
        RunState::Paused => "VM status: paused\n".to_owned(),
        other => format!("VM status: paused ({})\n", other.name()),
    }
}

fn info_cpu(cpu: &VcpuInfo) -> String {
    // As in QEMU, the mark is on the CPU that the monitor's commands would be about.
    let mark = if cpu.index == 0 { '*' } else { ' ' };
    format!("{mark} CPU #{}: thread_id={} model={CPU_MODEL}\n", cpu.index, cpu.thread_id)
}

fn query_cpu(cpu: &VcpuInfo) -> Value {
    json!({
        "cpu-index": cpu.index,
        "qom-type": format!("{CPU_MODEL}-x86_64-cpu"),
        "qom-path": format!("/machine/unattached/device[{}]", cpu.index),
        "thread-id": cpu.thread_id,
        "target": "x86_64",
    })
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
