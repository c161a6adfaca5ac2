#!/usr/bin/env bash
# Software:  crate acpi_tables 0.2.1, read by ACPICA's iasl 20200925 (Debian acpica-tools 20200925-8)
# Guess:     aml::PowerResource writes ExtOpPrefix 0x5B, then PowerResOp 0x84, as aml::Device writes 0x5B 0x82.
# Happens:   the two bytes are swapped: 0x84 0x5B. 0x84 alone is ConcatResTemplate, so what follows is
#            another instruction; every byte after it in the table is read out of step.
# Where:     acpi_tables src/aml.rs, `impl Aml for PowerResource`.
# Meaning:   one power resource makes the whole DSDT or SSDT behind it unreadable in the guest.
#            The crate's tests compare bytes for the other objects, not for this one.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
chmod 755 "$tmp"; cd "$tmp"
apt-get -q download acpica-tools=20200925-8 >/dev/null 2>&1 || { echo "cannot get acpica-tools 20200925-8"; exit 2; }
dpkg -x acpica-tools_*.deb deb
iasl=$tmp/deb/usr/bin/iasl

mkdir src
cat > Cargo.toml <<'EOF'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
acpi_tables = "=0.2.1"
EOF
cat > src/main.rs <<'EOF'
use acpi_tables::aml::{Device, Name, PowerResource, ONE};
use acpi_tables::{sdt::Sdt, Aml};

fn write(file: &str, aml: &dyn Aml) {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    println!("{file} {:02x} {:02x}", bytes[0], bytes[1]);
    let mut table = Sdt::new(*b"SSDT", 36, 2, *b"FIND  ", *b"FINDINGS", 1);
    table.append_slice(&bytes);
    std::fs::write(file, table.as_slice()).unwrap();
}

fn main() {
    let status = Name::new("_STA".into(), &ONE);
    write("device.aml", &Device::new("DEV0".into(), vec![&status]));
    write("power.aml", &PowerResource::new("PRES".into(), 1, 3, vec![&status]));
}
EOF
cargo run -q > opcodes
read_back() { "$iasl" -d "$1.aml" > "$1.log" 2>&1 || true; grep -qE "$2 *\(" "$1.dsl" 2>/dev/null && echo yes || echo no; }
device=$(read_back device Device)
power=$(read_back power PowerResource)

echo "software: acpi_tables 0.2.1, iasl 20200925"
echo "expected: a Device and a PowerResource both begin with 5b and are read back"
echo "seen:     $(tr '\n' ';' < opcodes) Device read back: $device, PowerResource read back: $power"
grep -m1 'Unknown opcode' power.log | sed 's/^/          /' || true
grep -q '^power.aml 84 5b$' opcodes && [[ $device == yes && $power == no ]] || { echo "the behaviour has changed"; exit 1; }
