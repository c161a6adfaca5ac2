//! Each rule finds what breaks it, in a small tree that does nothing else wrong.

use super::rules::Finding;
use super::table::PAGE;
use super::tree::Files;
use super::{findings, lines};

const TABLES: &str = "\
# Architecture

### Layers of the monitor

| Modules | Engine |
|---|---|
| `high` | |
| `middle`, `beside` | `middle` |
| `low` | |

### Layers of the engine

| Modules |
|---|
| `wire` |

### Only in these places

| What | Where | Why |
|---|---|---|
| unsafe | `src/low/` | it has to be somewhere |
";

/// A tree without fault.
fn tree() -> Files {
    let files = [
        (PAGE, TABLES),
        ("src/lib.rs", "pub mod beside;\npub mod high;\npub mod low;\npub mod middle;\n"),
        ("src/main.rs", "use whimbrel::high::run;\nfn main() { run(); }\n"),
        ("src/high.rs", "pub fn run() { crate::middle::go(); }\n#[cfg(test)]\nmod tests;\n"),
        ("src/high/tests.rs", "#[test]\nfn it() { None::<u8>.unwrap(); }\n"),
        ("src/middle.rs", "use whimbrel_postcopy::wire::Frame;\nuse crate::low::Low;\npub fn go() {}\n"),
        ("src/beside.rs", "use crate::low::{part, Low};\npub struct Beside;\n"),
        ("src/low/mod.rs", "pub mod part;\nmod other;\npub use other::Other;\npub struct Low;\n"),
        ("src/low/part.rs", "use super::Other;\npub fn read(at: *const u8) -> u8 { unsafe { *at } }\n"),
        ("src/low/other.rs", "use super::Low;\npub struct Other;\n"),
        ("postcopy/src/lib.rs", "pub mod wire;\n"),
        ("postcopy/src/wire.rs", "/// See wire.rs.\npub struct Frame;\n"),
        ("src/monitor/table.rs", ""),
        ("README.md", "[Layers](docs/architecture.md#layers-of-the-engine), [low](src/low/), `src/{high,middle}.rs`\n"),
    ];
    files.into_iter().map(|(file, text)| (file.to_owned(), text.to_owned())).collect()
}

/// What is found in the tree when text is put at the end of a file.
fn with(file: &str, text: &str) -> Vec<String> {
    let mut files = tree();
    files.entry(file.to_owned()).or_default().push_str(text);
    entries(&files)
}

fn entries(files: &Files) -> Vec<String> {
    findings(files).iter().map(Finding::entry).collect()
}

fn assert_found(file: &str, text: &str, entry: &str) {
    let found = with(file, text);
    assert_eq!(lines(&found), format!("{entry}\n"), "{file} with: {text}");
}

#[test]
fn a_tree_without_fault_has_no_findings() {
    assert_eq!(with("README.md", ""), [""; 0]);
}

#[test]
fn an_import_goes_down() {
    assert_found("src/low/part.rs", "use crate::middle::go;\n", "imports: src/low/part.rs: middle");
    assert_found("src/middle.rs", "use crate::beside::Beside;\n", "imports: src/middle.rs: beside");
    assert_found("src/middle.rs", "fn f() { crate::high::run() }\n", "imports: src/middle.rs: high");
    assert_found("src/middle.rs", "fn f() { println!(\"{}\", crate::high::run()) }\n", "imports: src/middle.rs: high");
    assert_found("src/low/mod.rs", "use super::middle::{self as m};\n", "imports: src/low/mod.rs: middle");
    assert_eq!(with("src/high.rs", "use crate::low::part::read;\n"), [""; 0]);
}

#[test]
fn a_name_is_followed_to_where_it_stands() {
    let mut files = tree();
    files.entry("src/lib.rs".to_owned()).or_default().push_str("pub use high::run;\n");
    files.entry("src/low/part.rs".to_owned()).or_default().push_str("use crate::run;\n");
    assert_eq!(entries(&files), ["imports: src/low/part.rs: high"]);
}

#[test]
fn the_engine_is_for_some() {
    assert_found("src/low/part.rs", "use whimbrel_postcopy::wire;\n", "engine: src/low/part.rs: wire");
    let mut files = tree();
    files.entry("src/middle.rs".to_owned()).or_default().push_str("pub use whimbrel_postcopy::wire;\n");
    files.entry("src/high.rs".to_owned()).or_default().push_str("use crate::middle::wire::Frame;\n");
    assert_eq!(entries(&files), [""; 0], "what a module passes on is its own");
}

#[test]
fn neighbours_import_each_other_in_no_circle() {
    assert_found("src/low/other.rs", "use super::part::read;\n", "circle: src/low/mod.rs: other part");
}

#[test]
fn every_module_has_a_layer() {
    assert_found(
        "postcopy/src/lib.rs",
        "mod new {}\n",
        "table: docs/architecture.md: whimbrel_postcopy::new has no layer",
    );
    let mut files = tree();
    files.insert(PAGE.to_owned(), TABLES.replace("`high`", "`high`, `gone`"));
    assert_eq!(entries(&files), ["table: docs/architecture.md: whimbrel::gone is not there"]);
}

#[test]
fn files_functions_and_comments_are_short() {
    let long = "//\n".repeat(450);
    assert_found("src/high.rs", &long, "long file: src/high.rs: more than 450 lines");
    let long = format!("fn long() {{\n{}}}\n", "    go();\n".repeat(59));
    assert_found("src/high.rs", &long, "long function: src/high.rs: long");
    let short = format!("fn short() {{\n{}}}\n", "    go();\n".repeat(58));
    assert_eq!(with("src/high.rs", &short), [""; 0]);
    let wide = format!("// {}\n", "a".repeat(98));
    let picture = format!("//! ```text\n//! {}\n//! ```\n", "a".repeat(116));
    assert_eq!(with("src/new.rs", &picture), [""; 0]);
    assert_found("src/new.rs", &(picture + &wide), "wide comment: src/new.rs: more than 100 columns");
    assert_found("src/high/tests.rs", &wide, "wide comment: src/high/tests.rs: more than 100 columns");
}

#[test]
fn some_things_stand_in_their_places_only() {
    let cases = [
        ("fn f() { unsafe {} }", "unsafe: src/high.rs: unsafe in f"),
        ("unsafe fn f() {}", "unsafe: src/high.rs: unsafe in f"),
        ("fn f() { vec![unsafe { 1 }]; }", "unsafe: src/high.rs: unsafe in f"),
        ("fn f() { std::thread::sleep(time); }", "sleep: src/high.rs: std::thread::sleep in f"),
        ("fn f() { std::hint::spin_loop(); }", "sleep: src/high.rs: std::hint::spin_loop in f"),
        ("fn f() { poll(&mut fds, PollTimeout::from(5u8)); }", "timed poll: src/high.rs: PollTimeout::from in f"),
        ("fn f() { it.unwrap(); }", "panic: src/high.rs: unwrap in f"),
        ("fn f() { println!(\"{}\", it.unwrap()); }", "panic: src/high.rs: unwrap in f"),
        ("fn f() { it.expect(\"a reason\"); }", "panic: src/high.rs: expect in f"),
        ("fn f() { it.map(Option::unwrap); }", "panic: src/high.rs: Option::unwrap in f"),
        ("fn f() { unreachable!(); }", "panic: src/high.rs: unreachable! in f"),
        ("struct A;\nimpl A { fn f() { assert!(1 > 2); } }", "panic: src/high.rs: assert! in f"),
    ];
    for (text, entry) in cases {
        assert_found("src/high.rs", &format!("{text}\n"), entry);
    }
    let fine = "const _: () = assert!(1 < 2);\nfn f() { poll(fds, PollTimeout::NONE); it.expect(&Reply::Ready); it.unwrap_or(1); }\n";
    assert_eq!(with("src/high.rs", fine), [""; 0]);
    let mut files = tree();
    files.insert("src/low/part.rs".to_owned(), String::new());
    assert_eq!(entries(&files), ["table: docs/architecture.md: nothing is 'unsafe' in src/low/"]);
}

#[test]
fn the_engine_does_not_speak_of_commands() {
    let engine = |text: &str| {
        let mut files = tree();
        files.insert("src/high.rs".to_owned(), "pub fn run() {}\npub mod names;\n".to_owned());
        files.entry("src/lib.rs".to_owned()).or_default().push_str("pub mod monitor;\n");
        files.insert("src/monitor.rs".to_owned(), "pub mod table;\n".to_owned());
        files.insert("src/high/names.rs".to_owned(), String::new());
        files.insert(
            "src/monitor/table.rs".to_owned(),
            "pub const NAMES: [&str; 2] = [\"max-bandwidth\", \"stop\"];\n".to_owned(),
        );
        files.insert(PAGE.to_owned(), TABLES.replace("`high`", "`high`, `monitor`"));
        files.insert("postcopy/src/wire.rs".to_owned(), format!("#[error({text:?})]\npub struct Frame;\n"));
        entries(&files)
    };
    assert_eq!(engine("set 'max-bandwidth' first"), ["monitor's word: postcopy/src/wire.rs: max-bandwidth"]);
    assert_eq!(engine("give it --memory"), ["monitor's word: postcopy/src/wire.rs: --memory"]);
    assert_eq!(engine("a file with lazy=on"), ["monitor's word: postcopy/src/wire.rs: lazy=on"]);
    assert_eq!(engine("it stops at max -- bandwidth"), [""; 0]);
}

#[test]
fn other_workspaces_take_the_same_versions() {
    let fuzz = |version: &str| {
        let mut files = tree();
        files.insert("Cargo.lock".to_owned(), "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n".to_owned());
        let own = format!(
            "[[package]]\nname = \"a\"\nversion = \"{version}\"\n[[package]]\nname = \"b\"\nversion = \"2.0.0\"\n"
        );
        files.insert("tests/fuzz/Cargo.lock".to_owned(), own);
        entries(&files)
    };
    assert_eq!(fuzz("1.0.0"), [""; 0]);
    assert_eq!(fuzz("1.0.1"), ["version: tests/fuzz/Cargo.lock: a 1.0.1"]);
}

#[test]
fn documentation_names_what_is_there() {
    assert_found("README.md", "see `src/gone.rs`\n", "path: README.md: src/gone.rs");
    assert_found("README.md", "see gone.rs.\n", "path: README.md: gone.rs");
    assert_found("README.md", "see `src/low/{part,gone}.rs`\n", "path: README.md: src/low/gone.rs");
    assert_found("README.md", "see `tests/*.rs`\n", "path: README.md: tests/*.rs");
    assert_found("src/high.rs", "// As `low/gone.rs` does.\n", "path: src/high.rs: low/gone.rs");
    assert_found("postcopy/README.md", "[it](low/)\n", "link: postcopy/README.md: low/");
    assert_found("README.md", "[it](docs/architecture.md#gone)\n", "link: README.md: docs/architecture.md#gone");
    assert_found(
        "CHANGELOG.md",
        "## [Unreleased]\n- `src/gone.rs`\n## [1]\n- `src/old.rs`\n",
        "path: CHANGELOG.md: src/gone.rs",
    );
    let fine =
        "QEMU's `scripts/other.py`, `src/**/part.rs`, low/, target/a.log, [web](https://a.b/c.rs), 'src/high.rs'\n";
    assert_eq!(with("README.md", fine), [""; 0]);
}
