#!/usr/bin/env bash
# Software:  crate acpi_tables 0.2.1, read by ACPICA's iasl 20200925 (Debian acpica-tools 20200925-8)
# Guess:     aml::Register in an aml::ResourceTemplate makes the Generic Register descriptor of the
#            ACPI specification (section 6.4.3.7): tag 0x82, length 12, then the 12 bytes of the GAS.
# Happens:   the length that it writes is 18 (0x12 where 12 is meant); 12 bytes follow. Whoever walks the
#            template goes 6 bytes too far, into the next descriptor or past the end tag.
# Where:     acpi_tables src/aml.rs, `impl Aml for Register`: sink.word(0x12).
# Meaning:   a VMM's _CPC, _CST, _PCT or _PTC made with it is a resource template that a guest cannot
#            walk. The crate says nothing, the table's checksum is right, only that method fails in the guest.
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
use acpi_tables::aml::{Name, Register, ResourceTemplate, IO};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::{sdt::Sdt, Aml};

fn main() {
    let register = || Register::new(GAS::new(AddressSpace::FunctionalFixedHardware, 64, 0, AccessSize::ByteAccess, 0x199));
    let port = IO::new(0x3f8, 0x3f8, 1, 8);
    let mut aml = Vec::new();
    Name::new("PORT".into(), &ResourceTemplate::new(vec![&port])).to_aml_bytes(&mut aml);
    Name::new("BOTH".into(), &ResourceTemplate::new(vec![&register(), &port])).to_aml_bytes(&mut aml);
    let mut table = Sdt::new(*b"SSDT", 36, 2, *b"FIND  ", *b"FINDINGS", 1);
    table.append_slice(&aml);
    std::fs::write("crate.aml", table.as_slice()).unwrap();
    let mut descriptor = Vec::new();
    register().to_aml_bytes(&mut descriptor);
    println!("{}", u16::from_le_bytes([descriptor[1], descriptor[2]]));
}
EOF
length=$(cargo run -q)

# What ACPICA's own compiler makes of the same descriptor.
cat > own.asl <<'EOF'
DefinitionBlock ("own.aml", "SSDT", 2, "FIND", "FINDINGS", 1)
{
    Name (BOTH, ResourceTemplate () { Register (FFixedHW, 64, 0, 0x199, 1) IO (Decode16, 0x3F8, 0x3F8, 1, 8) })
}
EOF
"$iasl" own.asl >/dev/null 2>&1
own=$(python3 -c 'd=open("own.aml","rb").read(); i=d.index(b"\x82"); print(int.from_bytes(d[i+1:i+3],"little"))')
"$iasl" -d crate.aml >/dev/null 2>&1
templates=$(grep -c 'ResourceTemplate ()' crate.dsl || true)

echo "software: acpi_tables 0.2.1, iasl 20200925"
echo "expected: the descriptor's length is $own, as iasl writes it, and iasl reads 2 resource templates back"
echo "seen:     the descriptor's length is $length, and iasl recognises $templates of 2 templates (the other is an opaque Buffer)"
[[ $own == 12 && $length == 18 && $templates == 1 ]] || { echo "the behaviour has changed"; exit 1; }
