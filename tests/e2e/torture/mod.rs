//! Migrations are broken in every way, and no guest is ever lost.
//!
//! | file | what is in it |
//! |---|---|
//! | `again` | fifty failures in a row |
//! | `case` | the table of faults of the link |
//! | `chance` | random choices with a seed |
//! | `encrypted` | the faults of a link with TLS, record by record |
//! | `journey` | a migration over a faulty link, watched and brought to its end |
//! | `links` | the table is carried out |
//! | `kills` | processes die, or stand still, at every phase |
//! | `limits` | the destination's host runs out of something |
//! | `soak` | for as long as one likes |
//!
//! A short form of each is part of the ordinary run; `scripts/torture` runs the long ones, which
//! are ignored here.

mod again;
mod case;
mod chance;
mod encrypted;
mod journey;
mod kills;
mod limits;
mod links;
mod soak;

/// A line that `scripts/torture` counts: what was broken, and where the guest was in the end.
fn report(kind: &str, outcome: &str, name: &str) {
    println!("torture {kind} | {outcome} | {name}");
}

/// After the last case: fails with the names of those that failed.
fn finish(failed: &[String]) {
    assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
}
