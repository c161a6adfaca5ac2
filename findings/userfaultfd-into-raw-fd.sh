#!/usr/bin/env bash
# Software:  crate userfaultfd 0.9.0
# Guess:     Uffd::into_raw_fd gives the descriptor away, open: that is what the standard trait IntoRawFd is for.
# Happens:   it returns the number and closes the descriptor: self is dropped at the end of the function.
#            fcntl on the result says EBADF, or, in a process that opens files, it is by then another file.
# Where:     userfaultfd src/lib.rs: `impl IntoRawFd` returns self.fd, and `impl Drop` closes it.
# Meaning:   handing a userfaultfd to another process or thread the usual way sends a dead or foreign descriptor;
#            the fault handler then waits on something else. as_raw_fd with mem::forget is the way round.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
mkdir src
cat > Cargo.toml <<'EOF'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
userfaultfd = "=0.9.0"
libc = "=0.2.177"
EOF
cat > src/main.rs <<'EOF'
use std::os::fd::{AsRawFd, IntoRawFd};

fn open(fd: i32) -> bool {
    (unsafe { libc::fcntl(fd, libc::F_GETFD) }) != -1
}

fn main() {
    let uffd = userfaultfd::UffdBuilder::new().close_on_exec(true).user_mode_only(true).create().expect("userfaultfd");
    let before = open(uffd.as_raw_fd());
    println!("{before} {}", open(uffd.into_raw_fd()));
}
EOF
cargo build -q
seen=$(target/debug/finding) || { echo "this system gives out no userfaultfd: nothing can be said"; exit 2; }
echo "software: userfaultfd 0.9.0"
echo "expected: (open before into_raw_fd, open after it) true true"
echo "seen:     $seen"
[[ $seen == 'true false' ]] || { echo "the behaviour has changed"; exit 1; }
