//! docs/failure.md quotes what the program prints: each quoted text stands in the code that prints
//! it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Every source file of the program, without its tests.
fn sources(folder: &Path, all: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            sources(&path, all);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let text = fs::read_to_string(path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            // A literal that goes on in the next line.
            let mut joined = String::new();
            for part in code.split("\\\n") {
                joined.push_str(if joined.is_empty() { part } else { part.trim_start() });
            }
            all.push(joined);
        }
    }
}

/// The texts in quotation marks in the table's rows.
fn quoted(document: &str) -> Vec<&str> {
    let rows = document.lines().filter(|line| line.starts_with('|'));
    rows.flat_map(|row| row.split('"').skip(1).step_by(2)).collect()
}

#[test]
fn the_texts_are_the_program_s() {
    let document = fs::read_to_string(root().join("docs/failure.md")).unwrap();
    let mut code = Vec::new();
    sources(&root().join("src"), &mut code);
    sources(&root().join("postcopy/src"), &mut code);
    // What is put together from a constant.
    let code: Vec<String> =
        code.iter().map(|text| text.replace("{RECOVER}", "'migrate_recover' here and 'migrate -r' there")).collect();
    let texts = quoted(&document);
    assert!(texts.len() > 30, "the table quotes little: {texts:?}");
    for text in texts {
        for part in text.split("...").map(|part| part.trim_matches([' ', ':', '\''])).filter(|part| !part.is_empty()) {
            // What the code puts in by a name stands elsewhere in it.
            let part =
                match (part.strip_prefix("the link to the "), part.strip_prefix("the virtual machine failed to ")) {
                    (Some(_), _) => "the link to the {peer} failed".to_owned(),
                    (_, Some(doing)) => format!("failed_to(\"{doing}\")"),
                    _ => part.to_owned(),
                };
            assert!(code.iter().any(|text| text.contains(&part)), "nothing prints '{part}', of '{text}'");
        }
    }
}
