//! Skipping a test, loudly. Other tests that may have to share this file by its path.

use std::fs::OpenOptions;
use std::io::Write;

/// Where `scripts/test` counts the skipped tests: a file to append a line to.
const SKIPS: &str = "WHIMBREL_SKIPS";

/// Says that the calling test does not run, and why.
pub fn skip(why: &str) {
    let thread = std::thread::current();
    // The test harness gives the thread the test's name.
    let line = format!("SKIPPED: {}: {why}\n", thread.name().unwrap_or("a test"));
    // Not by `eprint!`, which the harness swallows when a test passes.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os(SKIPS) {
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}
