//! Migrations are broken in every way, and no guest is ever lost.
//!
//! | file | what is in it |
//! |---|---|
//! | `case` | the table of faults of the link |
//! | `journey` | a migration over a faulty link, watched and brought to its end |
//! | `links` | the table is carried out |
//! | `kills` | processes die, or stand still, at every phase |
//!
//! A short form of each is part of the ordinary run; `scripts/torture` runs the long ones, which are ignored here.

mod case;
mod journey;
mod kills;
mod links;

/// A line that `scripts/torture` counts: what was broken, and where the guest was in the end.
fn report(kind: &str, outcome: &str, name: &str) {
    println!("torture {kind} | {outcome} | {name}");
}

/// After the last case: fails with the names of those that failed.
fn finish(failed: &[String]) {
    assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
}
