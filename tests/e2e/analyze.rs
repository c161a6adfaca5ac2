//! Recorded migrations taken apart, by `whimbrel analyze` and by `scripts/analyze_migration.py`:
//! both must say the same.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Machine, Vm, host};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/analyze_migration.py");
/// Bytes of a message's header.
const HEADER: usize = 8;

fn python() -> Command {
    let mut command = Command::new("python3");
    command.arg("-B").arg(SCRIPT).stdin(Stdio::null());
    command
}

/// The exit code, and what it said on standard output and on standard error.
fn says(mut command: Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn program_says(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whimbrel"));
    command.arg("analyze").args(arguments).stdin(Stdio::null());
    says(command)
}

fn script_says(arguments: &[&str]) -> (i32, String, String) {
    let mut command = python();
    command.args(arguments);
    says(command)
}

/// What both tools say, which must be the same: the exit code and the text.
fn both(arguments: &[&str]) -> (i32, String) {
    let (code, text, log) = program_says(arguments);
    let (other_code, other_text, other_log) = script_says(arguments);
    assert_eq!(code, other_code, "{arguments:?}:\n{log}\n{other_log}");
    if text != other_text {
        // JSON may be written in more than one way.
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|_| Value::String(text.to_owned()));
        assert_eq!(value(&text), value(&other_text), "{arguments:?}");
    }
    (code, text)
}

fn report(arguments: &[&str]) -> (i32, Value) {
    let (code, text) = both(&[arguments, &["--json"]].concat());
    (code, serde_json::from_str(&text).unwrap())
}

/// The guest's RAM as its process has it: a file in memory, because it is shared.
fn ram_of(vm: &Vm) -> Vec<(String, Vec<u8>)> {
    let links = fs::read_dir(format!("/proc/{}/fd", vm.pid())).unwrap().map(|entry| entry.unwrap().path());
    let blocks = links.filter_map(|path| {
        let target = fs::read_link(&path).ok()?.display().to_string();
        let name = target.strip_prefix("/memfd:")?.strip_suffix(" (deleted)")?.to_owned();
        let mut bytes = Vec::new();
        fs::File::open(path).ok()?.read_to_end(&mut bytes).ok()?;
        Some((name, bytes))
    });
    blocks.collect()
}

/// Where each message of a whole stream begins.
fn messages(stream: &[u8]) -> Vec<usize> {
    let mut begins = vec![40];
    while begins.last().is_some_and(|at| *at < stream.len()) {
        let at = *begins.last().unwrap();
        let length = u32::from_le_bytes(stream[at + 4..at + 8].try_into().unwrap()) as usize;
        begins.push(at + HEADER + length);
    }
    begins.pop();
    begins
}

/// A guest that left by `uri`, which is a stream; its machine stays, with its RAM as it was.
fn recorded(uri: &str) -> Vm {
    let machine = Machine::new("32M,shared=on").with(&["--rng", "--balloon", "--console", "null"]);
    let mut source = machine.boot_and_begin("ws=4M order=rand write=50");
    source.migrate(uri);
    source.qmp.await_migration("completed");
    source
}

fn extracted(tool: &str, arguments: &[&str], there: &Path) {
    let words: Vec<&str> = arguments.iter().copied().chain(["--extract", there.to_str().unwrap()]).collect();
    let (code, _, log) = match tool {
        "script" => script_says(&words),
        _ => program_says(&words),
    };
    assert_eq!(code, 0, "{tool}: {log}");
}

/// Names and contents of a directory's files.
fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into(), fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_whole_stream_is_read_alike_by_both_and_holds_the_guest() {
    if !host::has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stream").display().to_string();
    let source = recorded(&format!("file:{path},offset=4096"));
    let at = format!("{path},offset=0x1000");
    let (code, report) = report(&[&at]);
    assert_eq!((code, &report["damage"]), (0, &Value::Array(Vec::new())), "{report:#}");
    for block in report["blocks"].as_array().unwrap() {
        assert_eq!(block["come"], block["pages"], "{block}");
    }
    let states = report["state"].as_array().unwrap();
    assert!(states.len() > 12 && states.iter().all(|state| state["described"] == true), "{states:#?}");
    // The same in every other form.
    assert_eq!(both(&[&path, "--offset", "4096"]).0, 0);
    for dump in ["state", "desc", "ram"] {
        for json in [&["--json"][..], &[]] {
            let (code, text) = both(&[&["-d", dump, &at], json].concat());
            assert!(code == 0 && text.len() > 200, "{dump}: {text}");
        }
    }
    let (_, text) = both(&["-d", "state", "--json", &at]);
    let value: Value = serde_json::from_str(&text).unwrap();
    let vcpu = value["state"].as_array().unwrap().iter().find(|state| state["name"] == "vcpu").unwrap();
    // In protected or long mode.
    assert_eq!(vcpu["fields"]["segment registers"]["cr0"].as_u64().unwrap() & 1, 1);
    // RAM and states, as they were.
    let (one, other) = (dir.path().join("one"), dir.path().join("other"));
    extracted("whimbrel", &[&at], &one);
    extracted("script", &[&at], &other);
    let (one, other) = (files(&one), files(&other));
    let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&one), names(&other));
    for ((name, bytes), (_, others)) in one.iter().zip(&other) {
        assert!(name.extension().is_some_and(|it| it == "json") || bytes == others, "{} differs", name.display());
    }
    let ram = ram_of(&source);
    assert!(!ram.is_empty());
    for (name, bytes) in ram {
        let file = PathBuf::from(format!("{name}.ram"));
        let found =
            one.iter().find(|(name, _)| *name == file).unwrap_or_else(|| panic!("no {name}: {:?}", names(&one)));
        assert!(found.1 == bytes, "{name} is not what the guest had");
    }
}

#[test]
fn cut_and_damaged_streams_are_described_alike_up_to_the_damage() {
    if !host::has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stream").display().to_string();
    drop(recorded(&format!("exec:cat > {path}")));
    let stream = fs::read(&path).unwrap();
    let begins = messages(&stream);
    let find = |tag: u8| *begins.iter().find(|at| stream[**at] == tag).unwrap();
    let (ram, description, pages, state) = (find(2), find(3), find(6), find(10));
    let broken = dir.path().join("broken");
    let name = broken.to_str().unwrap();
    let cuts = [
        (0, "no stream begins here"),
        (20, "ends 20 bytes before"),
        (ram + 3, "ends 5 bytes before"),
        (description + HEADER + 1000, "before it does"),
        (pages, "between two messages"),
        (pages + HEADER + 7, "before it does"),
        (pages + HEADER + 16 + 5000, "before it does"),
        (state + HEADER + 3000, "before it does"),
        (stream.len() - 1, "ends 1 bytes before"),
    ];
    for (cut, why) in cuts {
        fs::write(&broken, &stream[..cut]).unwrap();
        let (code, report) = report(&[name]);
        let damage = &report["damage"];
        assert!(code == 1 && damage[0]["why"].as_str().unwrap().contains(why), "cut at {cut}: {damage}");
        assert_eq!((&damage[0]["offset"], damage.as_array().unwrap().len()), (&cut.into(), 1), "{damage}");
        both(&[name]);
        both(&[name, "-d", "state", "--json"]);
        both(&[name, "-d", "ram"]);
    }
    // The states before a cut in their midst are whole.
    fs::write(&broken, &stream[..state + HEADER + 3000]).unwrap();
    let (_, cut) = report(&[name]);
    assert_eq!(cut["state"][0]["name"], "clock");
    let damages: [(usize, u8, &str); 5] = [
        (pages, 99, "knows no message 99"),
        (pages + 2, 1, "its flags are 0x1"),
        (pages + 7, 0xff, "more than the"),
        (description + HEADER, b'}', "is not JSON"),
        (pages + HEADER, 9, "names block 9"),
    ];
    for (at, byte, why) in damages {
        let mut bytes = stream.clone();
        bytes[at] = byte;
        fs::write(&broken, &bytes).unwrap();
        let (code, report) = report(&[name]);
        assert!(code == 1 && report["damage"][0]["why"].as_str().unwrap().contains(why), "{}", report["damage"]);
        both(&[name, "-d", "ram", "--json"]);
    }
    // Out of a pipe, where nothing can be passed over.
    let mut child =
        python().arg("-").arg("--json").stdin(fs::File::open(&path).unwrap()).stdout(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["end"], stream.len());
}
