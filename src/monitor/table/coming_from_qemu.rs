//! `docs/coming-from-qemu.md` against the program: whatever it says of Whimbrel's command lines and
//! commands is given to their parsers.

use clap::Parser;
use serde_json::Value;

use crate::cli::{Cli, CliError, Command};
use crate::fds::Handed;
use crate::monitor::fake::FakeVm;
use crate::monitor::hmp;
use crate::monitor::qmp::QmpSession;
use crate::monitor::session::Session;

const PAGE: &str = include_str!("../../../docs/coming-from-qemu.md");
const PROMPT: &str = "(whimbrel) ";

/// The cells of a table's row; `None` for any other line, a table's head among them.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inside = line.strip_prefix("| ")?.strip_suffix(" |")?;
    Some(inside.split(" | ").collect())
}

/// What stands in a cell as code.
fn spans(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The rows of the tables under the heading.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let section = PAGE.split("\n## ").find(|it| it.starts_with(heading)).unwrap();
    // The first two lines of a table are its head.
    section.lines().filter(|line| !line.starts_with("|---")).filter_map(cells).skip(1).collect()
}

/// The lines of the blocks in this language.
fn blocks(language: &str) -> Vec<&'static str> {
    let blocks = PAGE.split("```").skip(1).step_by(2);
    blocks.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n')).flat_map(str::lines).collect()
}

/// A shell's words, as far as the page needs them.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in line.split('\'').enumerate() {
        match at % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// A whole command line, or options of `whimbrel run`.
fn assert_command_line(text: &str) {
    let line = match text.starts_with("whimbrel ") {
        true => text.to_owned(),
        false if text.contains("--kernel") || text.contains("--incoming") => format!("whimbrel run {text}"),
        false => format!("whimbrel run --kernel builtin:test {text}"),
    };
    let cli = Cli::try_parse_from(words(&line)).unwrap_or_else(|error| panic!("{text}: {error}"));
    match cli.command {
        Command::Run(args) => match args.validate() {
            // The document's directory need not be on this host.
            Ok(_) | Err(CliError::NoSnapshots(_)) => {}
            Err(error) => panic!("{text}: {error}"),
        },
        Command::Migrate(args) => drop(args.validate().unwrap_or_else(|error| panic!("{text}: {error}"))),
        _ => {}
    }
}

fn answer(line: &str) -> String {
    hmp::run(line, &FakeVm::new(), &mut Handed::default()).text
}

/// A line at the monitor. The machine of the tests refuses `cont` in these words.
fn assert_monitor(line: &str) {
    let answer = answer(line);
    let refused = ["Error: ", "unknown command", "Try \"help"].iter().any(|word| answer.contains(word));
    assert!(!refused || answer == "Error: the guest is elsewhere\n", "{line}: {answer}");
}

#[test]
fn its_command_lines_are_understood() {
    let mut lines: Vec<&str> = rows("Command lines").iter().flat_map(|row| spans(row[2])).collect();
    assert!(lines.len() > 20, "{lines:?}");
    lines.extend(blocks("sh"));
    lines.into_iter().for_each(assert_command_line);
}

#[test]
fn its_lines_at_the_monitor_are_understood() {
    let mut lines: Vec<&str> = rows("At the monitor").iter().flat_map(|row| spans(row[2])).collect();
    assert!(lines.len() > 25, "{lines:?}");
    lines.extend(blocks("").into_iter().filter_map(|line| line.strip_prefix(PROMPT)));
    for line in lines {
        match line {
            line if line.starts_with("whimbrel ") => assert_command_line(line),
            // Other values of the command before them.
            "stalled" => assert_monitor("migrate_set_parameter postcopy-policy stalled"),
            "time=SECONDS" => assert_monitor("migrate_set_parameter postcopy-policy time=5"),
            line => assert_monitor(line),
        }
    }
}

#[test]
fn its_commands_for_programs_are_carried_out() {
    let (vm, mut session) = (FakeVm::new(), QmpSession::new());
    let lines = blocks("json");
    assert!(lines.len() > 8, "{lines:?}");
    for line in lines {
        let mut out = Vec::new();
        let _ = session.receive(line.as_bytes(), &vm, &mut out);
        let answer: Value = serde_json::from_slice(&out).unwrap();
        assert!(answer.get("return").is_some(), "{line}: {answer}");
    }
}

#[test]
fn what_it_says_is_refused_is() {
    let rows = rows("What is refused");
    assert!(rows.len() > 5);
    for row in rows {
        let (line, expected) = (spans(row[0]).next().unwrap(), spans(row[1]).next().unwrap());
        assert_eq!(answer(line).lines().next(), Some(expected), "{line}");
    }
}
