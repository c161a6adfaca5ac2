#!/usr/bin/env bash
# Software:  crate linux-loader 0.14.0 (rust-vmm), with vm-memory 0.18.0
# Guess:     Elf::load finds the PVH entry (the Xen note of type 18) in whichever PT_NOTE segment it is; an
#            image that has it has it.
# Happens:   each PT_NOTE overwrites the verdict of the one before: a kernel with the Xen note in the first
#            segment and a build id in a second one is reported as PvhEntryNotPresent. The other order works.
# Where:     linux-loader src/loader/elf/mod.rs, the loop over program headers assigns pvh_boot_cap in each turn.
# Meaning:   linkers open a second note segment whenever alignments differ (.note.gnu.property). A kernel that
#            QEMU boots by PVH is "not a PVH kernel" for a VMM with this loader, after a harmless relink.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
cat > image.py <<'EOF'
import struct, sys
def note(owner, kind, data, align):
    owner += b"\0"
    out = struct.pack("<III", len(owner), len(data), kind) + owner
    out += bytes(-len(out) % align) + data
    return out + bytes(-len(out) % align)
def image(name, segments):  # one PT_NOTE per (alignment, bytes)
    at = 64 + 56 * len(segments)
    heads = body = b""
    for align, data in segments:
        body += bytes(-(at + len(body)) % 8)
        place = at + len(body)
        heads += struct.pack("<IIQQQQQQ", 4, 4, place, 0, 0, len(data), len(data), align)
        body += data
    head = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x200000, 64, 0, 0, 64, 56, len(segments), 64, 0, 0)
    open(name, "wb").write(head + heads + body)
pvh = (4, note(b"Xen", 18, b"\0\0\x20\0", 4))
build = (4, note(b"GNU", 3, bytes(range(20)), 4))
image("pvh", [pvh])
image("build+pvh", [build, pvh])
image("pvh+build", [pvh, build])
EOF
python3 image.py
mkdir src
cat > Cargo.toml <<'EOF'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
linux-loader = { version = "=0.14.0", features = ["elf"] }
vm-memory = { version = "=0.18.0", features = ["backend-mmap"] }
EOF
cat > src/main.rs <<'EOF'
use linux_loader::loader::{elf::Elf, KernelLoader};
use vm_memory::{GuestAddress, GuestMemoryMmap};

fn main() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
    for name in ["pvh", "build+pvh", "pvh+build"] {
        let mut file = std::fs::File::open(name).unwrap();
        println!("{name}: {:?}", Elf::load(&memory, None, &mut file, None).unwrap().pvh_boot_cap);
    }
}
EOF
seen=$(cargo run -q)
echo "software: linux-loader 0.14.0"
echo "expected: PvhEntryPresent(GuestAddress(2097152)) for all three"
echo "seen:"
sed 's/^/          /' <<< "$seen"
[[ $seen == $'pvh: PvhEntryPresent(GuestAddress(2097152))\nbuild+pvh: PvhEntryPresent(GuestAddress(2097152))\npvh+build: PvhEntryNotPresent' ]] ||
    { echo "the behaviour has changed"; exit 1; }
