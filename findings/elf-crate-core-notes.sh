#!/usr/bin/env bash
# Software:  crate elf 0.8.0, and QEMU 7.2 (dump-guest-memory)
# Guess:     a note segment whose p_align is 0 is read like one of 1 or 4: the ELF specification says of p_align
#            that 0 and 1 mean "no alignment required". A reader that cannot do it returns an error.
# Happens:   the iterator over the notes is simply empty. QEMU writes p_align = 0 into each guest memory dump,
#            so its NT_PRSTATUS and QEMU notes (the vCPUs' registers) are not there, without an error.
# Where:     elf src/note.rs: Note::parse_at returns UnexpectedAlignment(0), NoteIterator::next turns that into None
#            by .ok(). QEMU dump/dump.c leaves phdr.p_align at 0.
# Meaning:   a crash analyser for guest cores finds memory and no CPU; readelf -n shows them all.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"; mkdir src
cat > Cargo.toml <<'EOF'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
elf = "=0.8.0"
EOF
cat > src/main.rs <<'EOF'
fn main() {
    let bytes = std::fs::read("core").unwrap();
    let file = elf::ElfBytes::<elf::endian::AnyEndian>::minimal_parse(&bytes).unwrap();
    for segment in file.segments().unwrap().iter().filter(|it| it.p_type == elf::abi::PT_NOTE) {
        println!("{} {}", segment.p_align, file.segment_data_as_notes(&segment).unwrap().count());
    }
}
EOF
cargo build -q
# A machine of 16 MiB, never started, under TCG.
{ echo '{"execute": "qmp_capabilities"}'
  echo '{"execute": "dump-guest-memory", "arguments": {"paging": false, "protocol": "file:core"}}'
  echo '{"execute": "quit"}'
} | timeout 60 qemu-system-x86_64 -accel tcg -machine pc -m 16M -S -display none -nodefaults -qmp stdio > monitor.log
readelf=$(readelf -n core 2>/dev/null | grep -cE '^  (CORE|QEMU) ' || true)
seen=$(target/debug/finding)
echo "software: elf 0.8.0, $(qemu-system-x86_64 --version | head -1)"
echo "expected: $readelf notes, as readelf finds them"
echo "seen:     (p_align, notes) $seen"
[[ $readelf == 2 && $seen == '0 0' ]] || { echo "the behaviour has changed"; exit 1; }
