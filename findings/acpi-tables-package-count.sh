#!/usr/bin/env bash
# Software:  crate acpi_tables 0.2.1, read by ACPICA's iasl 20200925 (Debian acpica-tools 20200925-8)
# Guess:     aml::Package with more than 255 elements is refused, or becomes a VarPackage (whose count is
#            an integer), as an ASL compiler does it.
# Happens:   NumElements is the length cast to a byte: a package of 258 elements says that it has 2, without
#            a word. The bytes of all 258 are there, behind a count that hides all but the first two.
# Where:     acpi_tables src/aml.rs, `impl Aml for Package`: children.len() as u8. PackageBuilder does the same.
# Meaning:   a _PRT for 64 slots of 4 pins has exactly 256 entries, hence says "none": no interrupt is
#            routed, and nothing in the table looks broken.
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
use acpi_tables::aml::{Name, Package};
use acpi_tables::{sdt::Sdt, Aml};

fn main() {
    let seven = 7u8;
    let mut aml = Vec::new();
    Name::new("LIST".into(), &Package::new(vec![&seven as &dyn Aml; 258])).to_aml_bytes(&mut aml);
    let mut table = Sdt::new(*b"SSDT", 36, 2, *b"FIND  ", *b"FINDINGS", 1);
    table.append_slice(&aml);
    std::fs::write("crate.aml", table.as_slice()).unwrap();
}
EOF
cargo run -q
"$iasl" -d crate.aml >/dev/null 2>&1
seen=$(grep -o 'Package (0x[0-9A-F]*)' crate.dsl || true)

python3 - <<'EOF'
items = ", ".join(["7"] * 258)
open("own.asl", "w").write('DefinitionBlock ("own.aml", "SSDT", 2, "FIND", "FINDINGS", 1) { Name (LIST, Package () { %s }) }' % items)
EOF
"$iasl" own.asl >/dev/null 2>&1
"$iasl" -d own.aml >/dev/null 2>&1
own=$(grep -o 'Package (0x[0-9A-F]*)' own.dsl || true)

echo "software: acpi_tables 0.2.1, iasl 20200925"
echo "expected: 258 elements come back as $own, as from iasl's own compiler"
echo "seen:     $seen"
[[ $own == 'Package (0x0102)' && $seen == 'Package (0x02)' ]] || { echo "the behaviour has changed"; exit 1; }
