use std::collections::HashSet;
use std::fmt::Write;

use super::*;
use crate::migration::capabilities::Capability;
use crate::migration::parameters::Parameter;

const BEGIN: &str = "<!-- generated: commands -->\n";
const END: &str = "<!-- end -->\n";

/// The table as `docs/monitor.md` shows it.
fn markdown() -> String {
    let mut text = String::from("| for people | for programs (QMP) | what it does |\n|---|---|---|\n");
    for command in commands() {
        let hmp = command.hmp.map_or(String::new(), |it| code(&it.usage()));
        let qmp = command.qmp.map_or(String::new(), |it| match it.members() {
            members if members.is_empty() => code(it.name),
            members => format!("{}: {members}", code(it.name)),
        });
        writeln!(text, "| {hmp} | {qmp} | {} |", command.help).unwrap();
    }
    text
}

fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

#[test]
fn the_documentation_has_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/monitor.md");
    let document = std::fs::read_to_string(path).unwrap();
    let (before, rest) = document.split_once(BEGIN).unwrap();
    let (table, after) = rest.split_once(END).unwrap();
    if std::env::var_os("WHIMBREL_BLESS").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{}{END}{after}", markdown())).unwrap();
        return;
    }
    assert_eq!(table, markdown(), "run the tests with WHIMBREL_BLESS=1 to write it anew");
}

#[test]
fn the_documentation_names_every_capability_and_parameter() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/monitor.md");
    let document = std::fs::read_to_string(path).unwrap();
    let capabilities = Capability::ALL.into_iter().map(Capability::name);
    for name in capabilities.chain(Parameter::ALL.into_iter().map(Parameter::name)) {
        assert!(document.contains(&format!("| `{name}` |")), "{name}");
    }
}

#[test]
fn names_are_unique() {
    let (mut hmp, mut qmp) = (HashSet::new(), HashSet::new());
    for command in commands() {
        assert!(command.hmp.is_some() || command.qmp.is_some());
        for name in command.hmp.into_iter().flat_map(|it| [Some(it.name), it.alias]).flatten() {
            assert!(hmp.insert(name), "{name}");
        }
        if let Some(face) = command.qmp {
            assert!(qmp.insert(face.name), "{}", face.name);
        }
    }
}
