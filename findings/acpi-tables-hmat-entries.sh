#!/usr/bin/env bash
# Software:  crate acpi_tables 0.2.1
# Guess:     hmat::SystemLocality::set_entry_value(initiator, target, value) sets that pair's entry; the table has
#            one row of all targets for each initiator (ACPI, System Locality Latency and Bandwidth Information).
# Happens:   the row's length is taken to be the number of *initiators*. With 2 initiators and 3 targets the second
#            row starts one entry early: it overwrites (0, 2), and (1, 2) stays 0xffff, "unreachable".
#            Square tables are right, so are their tests.
# Where:     acpi_tables src/hmat.rs: entries[initiator_idx * self.initiators.len() + target_idx].
# Meaning:   a VM with memory-only nodes (CXL, PMEM, virtio-mem: more targets than initiators) gets wrong latencies
#            and bandwidths; the guest puts pages on the slow node. Length and checksum are right.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"; mkdir src
cat > Cargo.toml <<'EOF'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
acpi_tables = "=0.2.1"
EOF
cat > src/main.rs <<'EOF'
use acpi_tables::hmat::{DataType, LocalityType, MinTransferSize, SystemLocality};
use acpi_tables::Aml;

fn main() {
    let (initiators, targets) = (2, 3);
    let mut table = SystemLocality::new(
        LocalityType::Memory, DataType::AccessLatency, MinTransferSize::SizeByteAligned, 1000, initiators, targets);
    for initiator in 0..initiators {
        for target in 0..targets {
            table.set_entry_value(initiator, target, (10 * (initiator + 1) + target) as u16);
        }
    }
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    // 32 bytes of header, the two lists of proximity domains, then the entries.
    for row in bytes[32 + 4 * (initiators + targets)..].chunks(2 * targets) {
        let row: Vec<_> = row.chunks(2).map(|it| u16::from_le_bytes([it[0], it[1]]).to_string()).collect();
        print!("[{}]", row.join(" "));
    }
    println!();
}
EOF
seen=$(cargo run -q)
echo "software: acpi_tables 0.2.1"
echo "expected: [10 11 12][20 21 22] (one row for each initiator)"
echo "seen:     $seen"
[[ $seen == '[10 11 20][21 22 65535]' ]] || { echo "the behaviour has changed"; exit 1; }
