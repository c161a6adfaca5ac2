//! `docs/qemu-compatibility.md` against QEMU's own description of its commands and events, which
//! `scripts/qmp_differences --record` wrote down: each argument, member and value is here with the
//! same type, or has a row that says why not.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use whimbrel_postcopy::stats::{Status, Throttling};

use super::block::{query_block, sample};
use super::compatibility::{DOCUMENT, cut};
use super::find_qmp;
use crate::machine::{MachineEvent, RunState, ShutdownCause};
use crate::migration::{MigrationEvent, Side};
use crate::monitor::args::Kind;
use crate::monitor::event::Event;
use crate::monitor::fake::{FakeVm, report};
use crate::monitor::qmp::run;
use crate::monitor::query_migrate::query_migrate;
use crate::snapshots::{JobEvent, JobStatus};

const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lib/differences/qemu-schema.json");

/// Types by the paths of members; what may be left out has a `?`.
type Members = BTreeMap<String, String>;

fn members(value: &Value) -> Members {
    value.as_object().unwrap().iter().map(|(path, kind)| (path.clone(), kind.as_str().unwrap().to_owned())).collect()
}

/// The paths of all that is in an answer, with JSON's types.
fn shape(value: &Value, at: &str, into: &mut BTreeMap<String, BTreeSet<&'static str>>) {
    let mut note = |kind| _ = into.entry(at.to_owned()).or_default().insert(kind);
    match value {
        Value::Object(fields) => {
            if !at.is_empty() {
                note("object");
            }
            for (name, inner) in fields {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                shape(inner, &at, into);
            }
        }
        Value::Array(all) => all.iter().for_each(|inner| shape(inner, &format!("{at}[]"), into)),
        Value::String(_) => note("string"),
        Value::Number(number) => note(if number.is_f64() { "number" } else { "int" }),
        Value::Bool(_) => note("boolean"),
        Value::Null => note("null"),
    }
}

/// Whether a value of JSON's type is one of QEMU's.
fn fits(qemu: &str, here: &str) -> bool {
    match qemu {
        "object" | "string" | "boolean" | "int" => qemu == here,
        "number" => matches!(here, "int" | "number"),
        // A word of some.
        _ => here == "string",
    }
}

/// What the commands answer, in all moments that differ.
fn answers() -> BTreeMap<&'static str, Vec<Value>> {
    let vm = FakeVm::new();
    let mut all: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    run(&vm, "snapshot-save", json!({"job-id": "job0", "tag": "t", "vmstate": "", "devices": []}));
    vm.jobs.borrow_mut()[0].error = Some("why".to_owned());
    run(&vm, "set-vcpu-dirty-limit", json!({"dirty-rate": 5}));
    let now = report(Status::PostcopyActive);
    for (side, throttling) in [
        (Side::Source, Throttling::AutoConverge(7)),
        (Side::Destination, Throttling::DirtyLimit(std::time::Duration::from_secs(1))),
    ] {
        let mut report = now.clone();
        (report.throttling, report.error) = (Some(throttling), Some("why".to_owned()));
        for status in [Status::Active, Status::PostcopyActive] {
            report.status = status;
            let listening = "tcp:h:1".parse().unwrap();
            all.entry("query-migrate")
                .or_default()
                .push(query_migrate(Some(&(side, report.clone())), Some(&listening)));
            let listening = "unix:/a".parse().unwrap();
            all.entry("query-migrate")
                .or_default()
                .push(query_migrate(Some(&(side, report.clone())), Some(&listening)));
        }
    }
    vm.report.replace(Some((Side::Source, now)));
    all.insert("query-block", vec![query_block(&sample())]);
    for name in super::commands().filter_map(|it| it.qmp).map(|face| face.name) {
        if (name.starts_with("query-") || name == "x-query-migrate-pages") && !all.contains_key(name) {
            all.insert(name, vec![run(&vm, name, json!({}))["return"].take()]);
        }
    }
    // Any type is right in it.
    all.remove("query-qmp-schema");
    all
}

/// What events carry.
fn events() -> BTreeMap<&'static str, Vec<Value>> {
    let vm = FakeVm::new();
    let mut all: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    let told = [
        Event::of_machine(MachineEvent::Stop, &vm),
        Event::of_machine(MachineEvent::Resume, &vm),
        Event::of_machine(MachineEvent::Powerdown, &vm),
        Event::of_machine(MachineEvent::BalloonChange, &vm),
        Event::of_machine(MachineEvent::Reset { guest: true }, &vm),
        Event::of_machine(MachineEvent::Shutdown(ShutdownCause::HostQuit), &vm),
        Event::of_migration(&MigrationEvent::Status(Status::Active)),
        Event::of_migration(&MigrationEvent::Pass(2)),
        Event::of_job(&JobEvent { id: "a".into(), status: JobStatus::Running, internal: false }),
    ];
    for event in told {
        all.entry(event.name).or_default().push(event.data.unwrap_or_else(|| json!({})));
    }
    all
}

/// The rows, each a pattern and whether it was of use.
struct Rows(Vec<(String, RefCell<bool>)>);

impl Rows {
    fn of_the_document() -> Self {
        let document = std::fs::read_to_string(DOCUMENT).unwrap();
        let rows = cut(&document, "members").1.lines().skip(2).flat_map(|row| {
            let cells: Vec<&str> = row.trim_matches(['|', ' ']).split(" | ").collect();
            assert!(cells.len() == 2 && cells[1].len() > 3, "no reason: {row}");
            let names: Vec<String> = cells[0].split('`').skip(1).step_by(2).map(str::to_owned).collect();
            names
        });
        Self(rows.map(|name| (name, RefCell::new(false))).collect())
    }

    /// Whether there is one about this; a `*` at the end of a row's name stands for any end.
    fn explain(&self, what: &str) -> bool {
        let row = self.0.iter().find(|(name, _)| match name.strip_suffix('*') {
            Some(begin) => what.starts_with(begin),
            None => what == name,
        });
        row.inspect(|(_, used)| _ = used.replace(true)).is_some()
    }
}

/// What is not the same in both, as the rows name it.
fn compare(what: &str, qemu: &Members, samples: &[Value], differences: &mut Vec<String>) {
    let mut here = BTreeMap::new();
    samples.iter().for_each(|sample| shape(sample, "", &mut here));
    let plain = |path: &str| path.replace('?', "");
    for (path, kind) in qemu {
        match here.get(&plain(path)) {
            None => differences.push(format!("{what}: {}", plain(path))),
            Some(kinds) if !kinds.iter().all(|it| fits(kind, it)) => {
                differences.push(format!("{what}: {} is {kinds:?}, not {kind}", plain(path)));
            }
            Some(_) => {}
        }
    }
    let known: BTreeSet<String> = qemu.keys().map(|path| plain(path)).collect();
    differences.extend(here.keys().filter(|path| !known.contains(*path)).map(|path| format!("{what}: +{path}")));
}

/// Arguments that are not taken, or taken otherwise. What is inside them is the business of the
/// commands' own tests.
fn compare_arguments(name: &str, qemu: &Members, differences: &mut Vec<String>) {
    let Some(face) = find_qmp(name) else { return };
    let outer = qemu.iter().filter(|(path, _)| !path.contains('.'));
    let mut known = BTreeSet::new();
    for (path, kind) in outer {
        let argument = path.replace(['?', '[', ']'], "");
        let optional = path.contains('?');
        let param = face.params.iter().find(|it| it.name == argument);
        let right = param.is_some_and(|param| {
            let kind_fits = match param.kind {
                Kind::Text | Kind::Line => kind == "string" || kind.contains('|'),
                Kind::TextOrNull => kind == "null/string",
                Kind::Bool | Kind::Switch(_) => kind == "boolean",
                Kind::Integer | Kind::Size => kind == "int",
                Kind::Array => path.ends_with("[]"),
                Kind::Nothing | Kind::Unsupported => false,
            };
            kind_fits && param.optional == optional
        });
        if !right {
            differences.push(format!("{name} takes {argument}"));
        }
        known.insert(argument);
    }
    let ours = face.params.iter().filter(|it| !known.contains(it.name)).map(|it| it.name);
    differences.extend(ours.map(|argument| format!("{name} takes +{argument}")));
}

/// The words of a member that is one of some, against those that there are here.
fn compare_words(what: &str, qemu: &str, here: &[&str], differences: &mut Vec<String>) {
    let qemu: BTreeSet<&str> = qemu.split('|').collect();
    let here: BTreeSet<&str> = here.iter().copied().collect();
    differences.extend(qemu.difference(&here).map(|word| format!("{what}: '{word}'")));
    differences.extend(here.difference(&qemu).map(|word| format!("{what}: +'{word}'")));
}

const STATUSES: [Status; 15] = [
    Status::None,
    Status::Setup,
    Status::Cancelling,
    Status::Cancelled,
    Status::Active,
    Status::PostcopyDevice,
    Status::PostcopyActive,
    Status::PostcopyPaused,
    Status::PostcopyRecoverSetup,
    Status::PostcopyRecover,
    Status::PreSwitchover,
    Status::Device,
    Status::Completed,
    Status::Failing,
    Status::Failed,
];

/// Arguments that are one word of some, and which of these there are.
const WORDS: [(&str, &str, &[&str]); 5] = [
    ("migrate-set-parameters", "multifd-compression?", &["none", "zlib", "zstd"]),
    ("migrate-set-parameters", "zero-page-detection?", &["none", "legacy", "multifd"]),
    ("migrate-set-parameters", "mode?", &["normal"]),
    ("calc-dirty-rate", "calc-time-unit?", &["second", "millisecond"]),
    // One of them is refused with QEMU's own words for a KVM without it.
    ("calc-dirty-rate", "mode?", &["page-sampling", "dirty-ring", "dirty-bitmap"]),
];

#[test]
fn each_argument_member_and_value_is_qemus_or_has_a_reason() {
    let record: Value = serde_json::from_slice(&std::fs::read(RECORD).unwrap()).unwrap();
    let mut differences = Vec::new();
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let commands = record["commands"].as_object().unwrap();
    for name in commands.keys().chain(record["events"].as_object().unwrap().keys()) {
        assert!(document.contains(&format!("| `{name}` | ")), "{name} has no row in docs/qemu-compatibility.md");
    }
    let answers = answers();
    for (name, command) in commands {
        compare_arguments(name, &members(&command["takes"]), &mut differences);
        if let Some(samples) = answers.get(name.as_str()) {
            compare(name, &members(&command["returns"]), samples, &mut differences);
        }
        if let Some(face) = find_qmp(name) {
            let oob = command["out-of-band"] == true;
            assert_eq!(face.out_of_band, oob, "{name} out of band");
        }
    }
    for (name, samples) in events() {
        compare(name, &members(&record["events"][name]), &samples, &mut differences);
    }
    let words = |path: &str| record.pointer(path).unwrap().as_str().unwrap().to_owned();
    let statuses = STATUSES.map(Status::name);
    compare_words("MIGRATION status", &words("/events/MIGRATION/status"), &statuses, &mut differences);
    compare_words(
        "query-migrate status",
        &words("/commands/query-migrate/returns/status?"),
        &statuses,
        &mut differences,
    );
    let states = RunState::ALL.map(RunState::name);
    compare_words("query-status status", &words("/commands/query-status/returns/status"), &states, &mut differences);
    for (name, argument, here) in WORDS {
        let kind = words(&format!("/commands/{name}/takes/{argument}"));
        let label = argument.trim_end_matches('?');
        compare_words(label, &kind, here, &mut differences);
    }
    let rows = Rows::of_the_document();
    let open: Vec<_> = differences.iter().filter(|it| !rows.explain(it)).collect();
    assert!(open.is_empty(), "without a row in docs/qemu-compatibility.md:\n{open:#?}");
    let idle: Vec<_> = rows.0.iter().filter(|(_, used)| !*used.borrow()).map(|(name, _)| name).collect();
    assert!(idle.is_empty(), "these rows explain nothing any more: {idle:?}");
}
