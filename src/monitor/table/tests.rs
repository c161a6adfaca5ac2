use std::collections::HashSet;
use std::fmt::Write;

use super::*;
use crate::migration::capabilities::Capability;
use crate::migration::parameters::PARAMETERS;
use crate::migration::rules::{RULES, Rule};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/monitor.md");
const END: &str = "<!-- end -->\n";

/// The tables that `docs/monitor.md` shows, by their marks.
fn tables() -> [(&'static str, String); 2] {
    [("commands", command_table()), ("rules", rule_table())]
}

/// What excludes, or needs, what.
fn rule_table() -> String {
    let mut text = String::from("| this | | that | why, and what to do |\n|---|---|---|---|\n");
    for [one, relation, other, why] in RULES.iter().map(Rule::row) {
        writeln!(text, "| {} | {relation} | {} | {why} |", named(one), named(other)).unwrap();
    }
    text
}

/// Names of settings are code, others are words.
fn named(name: &str) -> String {
    if name.contains(' ') { name.to_owned() } else { code(name) }
}

/// Every command.
fn command_table() -> String {
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
fn the_documentation_has_the_tables() {
    let mut document = std::fs::read_to_string(DOCUMENT).unwrap();
    let blesses = std::env::var_os("WHIMBREL_BLESS").is_some();
    for (mark, anew) in tables() {
        let begin = format!("<!-- generated: {mark} -->\n");
        let (before, rest) = document.split_once(&begin).unwrap();
        let (table, after) = rest.split_once(END).unwrap();
        if !blesses {
            assert_eq!(table, anew, "run the tests with WHIMBREL_BLESS=1 to write it anew");
        }
        document = format!("{before}{begin}{anew}{END}{after}");
    }
    if blesses {
        std::fs::write(DOCUMENT, document).unwrap();
    }
}

#[test]
fn the_documentation_names_every_capability_and_parameter() {
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let capabilities = Capability::names();
    for name in capabilities.chain(PARAMETERS.iter().map(|it| it.name)) {
        assert!(document.contains(&format!("| `{name}` |")), "{name}");
    }
}

#[test]
fn names_are_unique() {
    let (mut hmp, mut qmp) = (HashSet::new(), HashSet::new());
    for command in commands() {
        assert!(command.hmp.is_some() || command.qmp.is_some());
        for name in command.hmp.into_iter().flat_map(|it| it.aliases.iter().copied().chain([it.name])) {
            assert!(hmp.insert(name), "{name}");
        }
        if let Some(face) = command.qmp {
            assert!(qmp.insert(face.name), "{}", face.name);
        }
    }
}
