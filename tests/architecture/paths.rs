//! What documentation names is there: files, folders, and what its links lead to.

use std::collections::BTreeSet;

use super::comments::comments;
use super::rules::Finding;
use super::tree::{Files, is_source};

/// Names that end so are files of the repository, wherever they stand.
const ENDINGS: [&str; 7] = [".rs", ".py", ".md", ".svg", ".toml", ".s", ".ld"];
/// Names that begin so are of the repository, too.
const ROOTS: [&str; 7] = ["src/", "postcopy/", "tests/", "docs/", "scripts/", "findings/", ".ci/"];

/// What stands behind these is of another project.
const OTHERS: [&str; 3] = ["Linux's", "QEMU's", "Xen's"];

/// Pages, and the comments of sources, that name a file or folder which is not there.
pub fn paths(files: &Files) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, text) in files {
        let mut name = |line: usize, text: &str| {
            let missing = named(text).into_iter().filter(|path| !is_there(files, path));
            found.extend(missing.map(|path| Finding::new("path", file, path, line)));
        };
        if is_page(file) {
            page(file, text).iter().for_each(|(line, text)| name(*line, text));
        } else if is_source(file) {
            comments(text).iter().for_each(|comment| name(comment.line, comment.text));
        }
    }
    found
}

/// Links to a file or heading that is not there.
pub fn links(files: &Files) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, text) in files.iter().filter(|(file, _)| is_page(file)) {
        for (line, text) in page(file, text) {
            for target in targets(text).into_iter().filter(|target| !leads_somewhere(files, file, target)) {
                found.push(Finding::new("link", file, target, line));
            }
        }
    }
    found
}

fn is_page(file: &str) -> bool {
    let at_home = !file.contains('/') || file.starts_with("docs/") || file == "postcopy/README.md";
    at_home && file.ends_with(".md")
}

/// The lines of a page; of the change log those that are not history.
fn page<'a>(file: &str, text: &'a str) -> Vec<(usize, &'a str)> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    if file != "CHANGELOG.md" {
        return lines.collect();
    }
    let unreleased = lines.skip_while(|(_, line)| !line.starts_with("## "));
    unreleased
        .enumerate()
        .take_while(|(at, (_, line))| *at == 0 || !line.starts_with("## "))
        .map(|(_, it)| it)
        .collect()
}

/// The paths that a line names.
fn named(text: &str) -> BTreeSet<String> {
    let apart = |it: char| it.is_whitespace() || "`()[]\";<>#|=".contains(it);
    let mut found = BTreeSet::new();
    let mut before = "";
    for word in text.split(apart).filter(|word| !word.is_empty()) {
        let path = word.trim_matches('\'').trim_end_matches(['.', ',', ':', '!', '?']);
        if is_path(path) && !OTHERS.contains(&before) {
            found.extend(spelled_out(path));
        }
        before = word;
    }
    found
}

fn is_path(word: &str) -> bool {
    let plain = word.chars().all(|it| it.is_ascii_alphanumeric() || "/.-_{},*".contains(it));
    let ends = |end: &str| {
        word.strip_suffix(end)
            .is_some_and(|stem| stem.ends_with(|it: char| it.is_ascii_alphanumeric() || "_}*".contains(it)))
    };
    let ours = ENDINGS.iter().any(|end| ends(end)) || ROOTS.iter().any(|root| word.starts_with(root));
    plain && ours && !word.starts_with(['/', '.'])
}

/// `a/{b,c}.rs` is two paths.
fn spelled_out(path: &str) -> Vec<String> {
    match (path.split_once('{'), path.split_once('}')) {
        (Some((before, _)), Some((inner, after))) if inner.len() > before.len() => {
            let names = inner[before.len() + 1..].split(',');
            names.flat_map(|name| spelled_out(&format!("{before}{}{after}", name.trim()))).collect()
        }
        _ => path.split(',').filter(|path| !path.is_empty()).map(str::to_owned).collect(),
    }
}

/// Whether there is such a file or folder: in the repository, or somewhere in it under a longer
/// name.
fn is_there(files: &Files, path: &str) -> bool {
    let path = path.trim_end_matches('/').replace("**/", "*");
    let (before, after) = path.split_once('*').unwrap_or((&path, ""));
    files.keys().any(|it| {
        let begins = it.match_indices(before).map(|(at, _)| at).filter(|at| *at == 0 || it.as_bytes()[at - 1] == b'/');
        begins.map(|at| &it[at + before.len()..]).any(|rest| {
            if path.contains('*') {
                rest.ends_with(after) || rest.contains(&format!("{after}/"))
            } else {
                rest.is_empty() || rest.starts_with('/')
            }
        })
    })
}

/// What the links of a line lead to.
fn targets(text: &str) -> Vec<&str> {
    let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    links.map(|target| target.split_whitespace().next().unwrap_or("")).collect()
}

fn leads_somewhere(files: &Files, file: &str, target: &str) -> bool {
    if target.contains("://") || target.starts_with("mailto:") {
        return true;
    }
    let (path, heading) = target.split_once('#').map_or((target, None), |(path, heading)| (path, Some(heading)));
    let path = if path.is_empty() { file.to_owned() } else { joined(file, path) };
    let folder = format!("{path}/");
    match (files.get(&path), heading) {
        (Some(page), Some(heading)) => {
            page.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == heading)
        }
        (Some(_), None) => true,
        (None, _) => files.keys().any(|file| file.starts_with(&folder)),
    }
}

/// A path as seen from the folder of a file.
fn joined(file: &str, path: &str) -> String {
    let mut parts: Vec<_> = file.split('/').collect();
    parts.pop();
    for part in path.trim_end_matches('/').split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// What a heading is called in links.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|it| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_'))
        .map(|it| if it == ' ' { '-' } else { it })
        .collect()
}
