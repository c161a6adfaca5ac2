#!/usr/bin/env bash
# Software:  crate vm-allocator 0.1.4 (rust-vmm)
# Guess:     AllocPolicy::LastMatch gives the highest free range that fits, FirstMatch the lowest; whether
#            anything fits does not depend on the policy.
# Happens:   with LastMatch a range that would start at address 0 is never found: 16 pages can be had of
#            a 16-page space from below, but only 15 from above. A space that starts anywhere else is whole.
# Where:     vm-allocator src/allocation_engine/interval_tree.rs, the search for the last match.
# Meaning:   an I/O port space or a BAR window that is counted from 0 loses its last slot, only when it is
#            nearly full, with "resource not available" although a free range of that size is there.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"; mkdir src
cat > Cargo.toml <<'EOF'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
vm-allocator = "=0.1.4"
EOF
cat > src/main.rs <<'EOF'
use vm_allocator::{AddressAllocator, AllocPolicy};

fn pages(base: u64, policy: AllocPolicy) -> usize {
    let mut space = AddressAllocator::new(base, 0x10000).unwrap();
    (0..100).take_while(|_| space.allocate(0x1000, 0x1000, policy.clone()).is_ok()).count()
}

fn main() {
    for base in [0, 0x1000] {
        println!("{base} {} {}", pages(base, AllocPolicy::FirstMatch), pages(base, AllocPolicy::LastMatch));
    }
}
EOF
seen=$(cargo run -q)
echo "software: vm-allocator 0.1.4"
echo "expected: 16 pages of a 64 KiB space, whatever the policy and wherever it starts"
echo "seen:     (start, pages by FirstMatch, pages by LastMatch)"
sed 's/^/          /' <<< "$seen"
[[ $seen == $'0 16 15\n4096 16 16' ]] || { echo "the behaviour has changed"; exit 1; }
