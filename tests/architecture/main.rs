//! Holds the code to the rules of docs/architecture.md: which module may import which, what stands
//! only in some places, how long files and functions are, and that documentation names no path that
//! does not exist.
//!
//! `known_violations` lists what broke a rule before the rule was written. The test fails for a
//! violation that is not in the list, and for one in the list that is mended: so the list only
//! shrinks. `PRUNE=1` takes the mended ones out.
#![allow(clippy::unwrap_used, clippy::panic)]

mod comments;
mod made_up;
mod paths;
mod rules;
mod table;
mod tree;
mod walk;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rules::Finding;
use table::Tables;
use tree::{Files, Tree};

/// Lines of `RULE: FILE: SUBJECT`, sorted.
const KNOWN: &str = "tests/architecture/known_violations";

/// All that breaks a rule.
fn findings(files: &Files) -> BTreeSet<Finding> {
    let tree = Tree::parse(files);
    let tables = Tables::read(files);
    let all = [
        rules::imports(&tree, &tables),
        rules::modules(&tree, &tables),
        rules::circles(&tree),
        rules::sizes(&tree, files),
        rules::places(&tree, &tables),
        rules::words(&tree),
        rules::versions(files),
        paths::paths(files),
        paths::links(files),
    ];
    all.into_iter().flatten().collect()
}

/// The files of the repository that are text, without what is built.
fn read(dir: &Path, root: &Path, files: &mut Files) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            if !name.ends_with("target") && name != ".git" {
                read(&path, root, files);
            }
        } else {
            files.insert(name, String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned());
        }
    }
}

#[test]
fn the_code_keeps_the_rules_of_the_architecture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Files::new();
    read(root, root, &mut files);
    let known: BTreeSet<&str> = files[KNOWN].lines().collect();
    let found = findings(&files);
    let entries: BTreeSet<_> = found.iter().map(Finding::entry).collect();

    let unknown: Vec<_> = found.iter().filter(|it| !known.contains(it.entry().as_str())).collect();
    let (left, mended): (Vec<&str>, Vec<&str>) = known.iter().partition(|it| entries.contains(**it));
    let list = lines(&left);
    let mut faults = String::new();
    if !unknown.is_empty() {
        faults += &format!("these break a rule of {}:\n{}", table::PAGE, lines(&unknown));
    }
    if std::env::var_os("PRUNE").is_some() {
        fs::write(root.join(KNOWN), list).unwrap();
    } else if list != files[KNOWN] {
        faults += &format!("out of date: PRUNE=1 sorts {KNOWN} and takes out what is mended:\n{}", lines(&mended));
    }
    assert!(faults.is_empty(), "{faults}");
}

fn lines(of: &[impl ToString]) -> String {
    of.iter().map(|it| it.to_string() + "\n").collect()
}
