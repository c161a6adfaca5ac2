//! The programs of the lab's guest: each checks itself and prints what it has done, a line at a time.
fn main() {}
