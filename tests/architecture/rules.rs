//! The rules about imports, sizes and words.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::comments::comments;
use super::table::Tables;
use super::tree::{Files, Import, Kind, MODULE, Mark, Tree, is_source};

const MOST_LINES: usize = 450;
const MOST_LINES_OF_A_FUNCTION: usize = 60;
const MOST_COLUMNS: usize = 100;
/// As for code.
const MOST_COLUMNS_OF_A_PICTURE: usize = 120;

/// Where commands, parameters and capabilities have their names.
const NAMES: [&str; 3] = ["src/monitor/table", "src/migration/parameters", "src/migration/capabilities"];

/// A place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub rule: &'static str,
    pub file: String,
    pub subject: String,
    pub line: usize,
}

impl Finding {
    pub fn new(rule: &'static str, file: &str, subject: impl Into<String>, line: usize) -> Self {
        Self { rule, file: file.to_owned(), subject: subject.into(), line }
    }

    /// As the list of known violations has it: without its line, which moves.
    pub fn entry(&self) -> String {
        format!("{}: {}: {}", self.rule, self.file, self.subject)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}    (line {})", self.entry(), self.line)
    }
}

/// An import goes down, to a top module of a lower layer; and only some may import the engine.
pub fn imports(tree: &Tree, tables: &Tables) -> Vec<Finding> {
    let mut found = Vec::new();
    for import in tree.imports() {
        let file = &tree.modules[&import.from].file;
        let (from, to) = (top(&import.from), top(&import.to));
        if import.from[0] != import.to[0] {
            let engine = import.to[0] == "whimbrel_postcopy";
            if engine && !from.is_some_and(|module| tables.of(&import.from[0]).uses_engine(module)) {
                found.push(Finding::new("engine", file, to.unwrap_or("(root)"), import.line));
            }
            continue;
        }
        let (Some(from), Some(to)) = (from, to) else { continue };
        let layers = tables.of(&import.from[0]);
        if let (Some(above), Some(below)) = (layers.layer(from), layers.layer(to))
            && from != to
            && below <= above
        {
            found.push(Finding::new("imports", file, to, import.line));
        }
    }
    found
}

/// The module of the crate's root that a module is, or is in.
fn top(module: &[String]) -> Option<&str> {
    module.get(1).map(String::as_str)
}

/// The tables have every top module, and none that is not there.
pub fn modules(tree: &Tree, tables: &Tables) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, layers) in &tables.layers {
        let modules: BTreeSet<_> =
            tree.modules.keys().filter(|path| path[0] == *name).filter_map(|path| top(path)).collect();
        let listed: BTreeSet<_> = layers.modules().collect();
        for module in modules.symmetric_difference(&listed) {
            let what = if modules.contains(module) { "has no layer" } else { "is not there" };
            found.push(Finding::new("table", super::table::PAGE, format!("{name}::{module} {what}"), 0));
        }
    }
    found
}

/// Neighbours (the files and folders of one folder) do not import each other in a circle.
pub fn circles(tree: &Tree) -> Vec<Finding> {
    let mut edges: BTreeMap<&[String], BTreeSet<(&str, &str)>> = BTreeMap::new();
    let imports = tree.imports();
    for Import { from, to, .. } in &imports {
        let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
        // Top modules have layers instead; and a folder's own file is for all in the folder.
        if common > 1 && common < from.len().min(to.len()) {
            edges.entry(&from[..common]).or_default().insert((&from[common], &to[common]));
        }
    }
    let mut found = Vec::new();
    for (folder, edges) in edges {
        for circle in strongly_connected(&edges) {
            let names: Vec<_> = circle.into_iter().collect();
            found.push(Finding::new("circle", &tree.modules[folder].file, names.join(" "), 0));
        }
    }
    found
}

/// The sets of names each of which reaches all the others.
fn strongly_connected<'a>(edges: &BTreeSet<(&'a str, &'a str)>) -> BTreeSet<BTreeSet<&'a str>> {
    let reached = |from: &'a str| {
        let mut found = BTreeSet::new();
        let mut open = vec![from];
        while let Some(name) = open.pop() {
            let next = edges.iter().filter(|edge| edge.0 == name).map(|edge| edge.1);
            open.extend(next.filter(|next| found.insert(*next)).collect::<Vec<_>>());
        }
        found
    };
    let all: BTreeMap<_, _> = edges.iter().map(|edge| (edge.0, reached(edge.0))).collect();
    let circle = |name: &&'a str| -> BTreeSet<&'a str> {
        all[name].iter().copied().filter(|other| all.get(other).is_some_and(|back| back.contains(name))).collect()
    };
    all.keys().map(circle).filter(|circle| !circle.is_empty()).collect()
}

/// Files, functions and lines of comments are no longer than a reader likes.
pub fn sizes(tree: &Tree, files: &Files) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in tree.files() {
        if files[file].lines().count() > MOST_LINES {
            found.push(Finding::new("long file", file, format!("more than {MOST_LINES} lines"), MOST_LINES));
        }
    }
    for module in tree.modules.values() {
        for function in module.functions.iter().filter(|it| it.lines > MOST_LINES_OF_A_FUNCTION) {
            found.push(Finding::new("long function", &module.file, &function.name, function.line));
        }
    }
    for (file, text) in files.iter().filter(|(file, _)| is_source(file)) {
        let mut picture = false;
        let wide = comments(text).into_iter().find(|it| {
            picture ^= it.text.contains("```");
            it.columns > if picture { MOST_COLUMNS_OF_A_PICTURE } else { MOST_COLUMNS }
        });
        if let Some(it) = wide {
            found.push(Finding::new("wide comment", file, format!("more than {MOST_COLUMNS} columns"), it.line));
        }
    }
    found
}

/// Words that stand only where the table has them.
pub fn places(tree: &Tree, tables: &Tables) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut used = BTreeSet::new();
    for module in tree.modules.values() {
        for mark in &module.marks {
            let Some(what) = restricted(mark) else { continue };
            match tables.place(what, &module.file) {
                Some(place) => drop(used.insert(place)),
                None => {
                    let subject = format!("{} in {}", mark.word.trim_start_matches('.'), mark.function);
                    found.push(Finding::new(what, &module.file, subject, mark.line));
                }
            }
        }
    }
    for (_, place) in tables.places.iter().enumerate().filter(|(at, _)| !used.contains(at)) {
        let what = format!("nothing is '{}' in {}", place.what, place.file);
        found.push(Finding::new("table", super::table::PAGE, what, 0));
    }
    found
}

/// What the table of places calls a word.
fn restricted(mark: &Mark) -> Option<&'static str> {
    let word = mark.word.as_str();
    match (mark.kind, word.rsplit("::").next().unwrap_or(word)) {
        (Kind::Unsafe, _) => Some("unsafe"),
        (Kind::Text, _) => None,
        (_, "sleep" | "yield_now" | "spin_loop" | "park_timeout" | "nanosleep" | "clock_nanosleep") => Some("sleep"),
        // In a constant the compiler panics.
        (_, "assert!" | "assert_eq!" | "assert_ne!") => (mark.function != MODULE).then_some("panic"),
        (_, "panic!" | "unreachable!" | "todo!" | "unimplemented!") => Some("panic"),
        (_, ".unwrap" | ".expect" | ".unwrap_err" | ".expect_err") => Some("panic"),
        (_, "unwrap" | "expect") if word.contains("::") => Some("panic"),
        (_, "NONE" | "ZERO") => None,
        _ if word.contains("PollTimeout::") => Some("timed poll"),
        _ => None,
    }
}

/// Workspaces beside the main one take the versions that it has: what is built for one is there for
/// the others. After a change: `cp Cargo.lock tests/fuzz/ && cargo metadata --manifest-path
/// tests/fuzz/Cargo.toml`.
pub fn versions(files: &Files) -> Vec<Finding> {
    let main = packages(files, "Cargo.lock");
    let names: BTreeSet<_> = main.iter().map(|(name, _)| name).collect();
    let file = "tests/fuzz/Cargo.lock";
    let others = packages(files, file).into_iter().filter(|it| names.contains(&it.0) && !main.contains(it));
    others.map(|(name, version)| Finding::new("version", file, format!("{name} {version}"), 0)).collect()
}

/// The packages of a lock file with their versions.
fn packages<'a>(files: &'a Files, file: &str) -> BTreeSet<(&'a str, &'a str)> {
    let lines: Vec<_> = files.get(file).map_or("", String::as_str).lines().collect();
    let value = |line: &'a str, key: &str| line.strip_prefix(key)?.strip_suffix('"');
    lines.windows(2).filter_map(|it| Some((value(it[0], "name = \"")?, value(it[1], "version = \"")?))).collect()
}

/// The engine speaks of no command line and of no monitor: it says what is wrong, and they say what
/// to do about it.
pub fn words(tree: &Tree) -> Vec<Finding> {
    let mut names = BTreeSet::new();
    for module in tree.modules.values() {
        if NAMES.iter().any(|names| module.file.starts_with(names)) {
            let texts = module.marks.iter().filter(|mark| mark.kind == Kind::Text).map(|mark| mark.word.as_str());
            names.extend(texts.filter(|text| is_name(text)));
        }
    }
    let mut found = Vec::new();
    for module in tree.modules.values().filter(|module| module.file.starts_with("postcopy/src/")) {
        for mark in module.marks.iter().filter(|mark| mark.kind == Kind::Text) {
            for word in spoken(&mark.word).into_iter().filter(|word| names.contains(word) || is_option(word)) {
                found.push(Finding::new("monitor's word", &module.file, word, mark.line));
            }
        }
    }
    found
}

/// `migrate_recover`, `max-bandwidth`: names of several words, which say nothing else.
fn is_name(text: &str) -> bool {
    let ours = text.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-' || it == b'_');
    ours && text.len() > 3 && text[1..text.len() - 1].contains(['-', '_']) && !text.contains("--")
}

/// `--memory`, `shared=on`.
fn is_option(word: &str) -> bool {
    let long = word.strip_prefix("--").is_some_and(|rest| rest.starts_with(|it: char| it.is_ascii_lowercase()));
    long || word.split_once('=').is_some_and(|(name, value)| !name.is_empty() && matches!(value, "on" | "off"))
}

/// The words of a text as a user types them.
fn spoken(text: &str) -> Vec<&str> {
    text.split(|it: char| !(it.is_ascii_alphanumeric() || matches!(it, '-' | '_' | '=')))
        .filter(|it| !it.is_empty())
        .collect()
}
