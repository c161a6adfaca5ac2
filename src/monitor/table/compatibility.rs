//! `docs/qemu-compatibility.md` against what is built: each name of QEMU's has one row, which says
//! what becomes of it here and where that is tested.

use std::collections::BTreeMap;
use std::path::Path;

use super::{commands, find_hmp, find_qmp};
use crate::migration::capabilities::Capability;
use crate::migration::parameters::{PARAMETERS, Parameter};
use crate::monitor::event::Event;

pub(super) const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/qemu-compatibility.md");
const WORKS: &str = "works";
const REFUSED: &str = "refused by name";

/// QEMU's commands about migrations, for programs; what is built besides is found in the command
/// table.
const PROGRAMS: &[&str] = &[
    "migrate",
    "migrate-incoming",
    "migrate_cancel",
    "migrate-continue",
    "migrate-start-postcopy",
    "migrate-pause",
    "migrate-recover",
    "query-migrate",
    "migrate-set-capabilities",
    "query-migrate-capabilities",
    "migrate-set-parameters",
    "query-migrate-parameters",
    "migrate-set-cache-size",
    "query-migrate-cache-size",
    "migrate_set_downtime",
    "migrate_set_speed",
    "query-migrationthreads",
    "announce-self",
    "yank",
    "query-yank",
    "getfd",
    "closefd",
    "add-fd",
    "remove-fd",
    "query-fdsets",
    "snapshot-save",
    "snapshot-load",
    "snapshot-delete",
    "calc-dirty-rate",
    "query-dirty-rate",
    "set-vcpu-dirty-limit",
    "cancel-vcpu-dirty-limit",
    "query-vcpu-dirty-limit",
    "client_migrate_info",
    "query-colo-status",
    "x-colo-lost-heartbeat",
    "xen-save-devices-state",
    "xen-load-devices-state",
    "xen-colo-do-checkpoint",
    "job-cancel",
    "job-complete",
    "job-finalize",
    "job-pause",
    "job-resume",
];

/// The same for people.
const PEOPLE: &[&str] = &[
    "migrate",
    "migrate_incoming",
    "migrate_cancel",
    "migrate_continue",
    "migrate_start_postcopy",
    "migrate_pause",
    "migrate_recover",
    "migrate_set_capability",
    "migrate_set_parameter",
    "migrate_set_cache_size",
    "migrate_set_downtime",
    "migrate_set_speed",
    "info migrate",
    "info migrate_capabilities",
    "info migrate_parameters",
    "info migrate_cache_size",
    "announce_self",
    "getfd",
    "closefd",
    "savevm",
    "loadvm",
    "delvm",
    "info snapshots",
    "calc_dirty_rate",
    "info dirty_rate",
    "set_vcpu_dirty_limit",
    "cancel_vcpu_dirty_limit",
    "info vcpu_dirty_limit",
    "client_migrate_info",
    "x_colo_lost_heartbeat",
];

/// QEMU's events that a migration may bring.
const EVENTS: &[&str] =
    &["MIGRATION", "MIGRATION_PASS", "STOP", "RESUME", "UNPLUG_PRIMARY", "COLO_EXIT", "VFIO_MIGRATION"];

/// One section of the document: its mark, and every name with whether it works.
struct Section {
    mark: &'static str,
    rows: Vec<(&'static str, bool)>,
}

/// `first`, and then whatever of `others` is not among them.
fn merged(first: &[&'static str], others: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let mut all = first.to_vec();
    all.extend(others.filter(|name| !first.contains(name)));
    all
}

fn section(mark: &'static str, names: Vec<&'static str>, works: impl Fn(&str) -> bool) -> Section {
    Section { mark, rows: names.into_iter().map(|name| (name, works(name))).collect() }
}

/// What the document must hold, by the code's own tables.
fn sections() -> Vec<Section> {
    let programs = commands().filter_map(|it| it.qmp.map(|face| face.name));
    let people = commands().filter_map(|it| it.hmp.map(|face| face.name));
    let capabilities: Vec<_> = Capability::names().collect();
    let parameters: Vec<_> = PARAMETERS.iter().map(|it| it.name).collect();
    vec![
        section("programs", merged(PROGRAMS, programs), |name| find_qmp(name).is_some()),
        section("people", merged(PEOPLE, people), |name| find_hmp(name).is_some()),
        section("capabilities", merged(&capabilities, Capability::unsupported()), |name| {
            matches!(Capability::find(name), Some(Ok(_)))
        }),
        section("parameters", merged(&parameters, Parameter::UNSUPPORTED.into_iter()), |name| {
            matches!(Parameter::find(name), Some(Ok(_)))
        }),
        section("events", merged(EVENTS, Event::NAMES.into_iter()), |name| Event::NAMES.contains(&name)),
    ]
}

/// A section's begin, its rows, its end.
pub(super) fn cut<'a>(document: &'a str, mark: &str) -> (&'a str, &'a str, &'a str) {
    let begin = format!("<!-- generated: {mark} -->\n");
    let at = document.find(&begin).unwrap_or_else(|| panic!("no {begin}")) + begin.len();
    let end = at + document[at..].find("<!-- end -->\n").unwrap_or_else(|| panic!("no end of {mark}"));
    (&document[..at], &document[at..end], &document[end..])
}

/// The last columns by name and state, which are written by hand.
fn remarks(rows: &str) -> BTreeMap<(String, String), String> {
    let cells = |row: &str| row.split(" | ").map(|it| it.trim_matches(['|', ' ', '`']).to_owned()).collect::<Vec<_>>();
    let row = |row: &str| match cells(row).as_slice() {
        [name, state, ..] => {
            let remark = row.splitn(3, " | ").nth(2).unwrap_or_default();
            Some(((name.clone(), state.clone()), remark.trim_end_matches('|').trim().to_owned()))
        }
        _ => None,
    };
    rows.lines().skip(2).filter_map(row).collect()
}

/// The section anew, with the remarks that still hold.
fn markdown(section: &Section, remarks: &BTreeMap<(String, String), String>) -> String {
    let mut text = String::from("| name | here | tested by, or why not |\n|---|---|---|\n");
    for (name, works) in &section.rows {
        let state = if *works { WORKS } else { REFUSED };
        let remark = remarks.get(&((*name).to_owned(), state.to_owned())).map_or("", String::as_str);
        text.push_str(&format!("| `{name}` | {state} | {remark} |\n"));
    }
    text
}

/// Whether `remark` names a test that there is, as `` `tests/e2e/cancel.rs::too_late_to_cancel` ``.
fn names_a_test(remark: &str) -> bool {
    let Some((file, test)) = remark.trim_matches('`').split_once("::") else { return false };
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap_or_default();
    text.contains(&format!("#[test]\nfn {test}()")) || text.contains(&format!("    #[test]\n    fn {test}()"))
}

#[test]
fn each_name_has_its_row() {
    let mut document = std::fs::read_to_string(DOCUMENT).unwrap();
    for section in sections() {
        let (before, rows, after) = cut(&document, section.mark);
        let anew = markdown(&section, &remarks(rows));
        if std::env::var_os("WHIMBREL_BLESS").is_none() {
            assert_eq!(rows, anew, "run the tests with WHIMBREL_BLESS=1 to write it anew");
        }
        document = format!("{before}{anew}{after}");
    }
    if std::env::var_os("WHIMBREL_BLESS").is_some() {
        std::fs::write(DOCUMENT, document).unwrap();
    }
}

#[test]
fn each_row_names_a_test_that_there_is_or_says_why_not() {
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let mut wrong = Vec::new();
    for section in sections() {
        for ((name, state), remark) in remarks(cut(&document, section.mark).1) {
            let right = if state == WORKS { names_a_test(&remark) } else { !remark.is_empty() };
            if !right {
                wrong.push(format!("{}: `{name}` {state}: '{remark}'", section.mark));
            }
        }
    }
    assert!(wrong.is_empty(), "no such test, or no reason, in docs/qemu-compatibility.md:\n{}", wrong.join("\n"));
}
