#!/usr/bin/env bash
# Software:  qemu-img 7.2 (Debian 12 qemu-utils 1:7.2+dfsg)
# Guess:     what `qemu-img convert -O vpc -o subformat=fixed` wrote, qemu-img knows again, as it knows a
#            dynamic VHD: there is a 'conectix' footer in both.
# Happens:   without -f vpc it is taken for a raw disk: 512 bytes larger, with the footer as the last sector
#            of the guest's disk. Converting it back and forth adds a footer each time; exit status 0.
# Where:     QEMU block/vpc.c vpc_probe looks at the first bytes only; a fixed VHD has its footer at the end.
# Meaning:   Azure takes fixed VHDs only. A pipeline that lets qemu-img detect formats makes disks that grow
#            by a sector, whose GPT backup header is not where it should be.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
qemu-img --version | grep -q 'version 7\.2\.' || echo "note: $(qemu-img --version | head -1), stated for 7.2"
head -c 4M /dev/zero | tr '\0' A > disk.raw
for kind in dynamic fixed; do
    qemu-img convert -f raw -O vpc -o "subformat=$kind,force_size=on" disk.raw $kind.vhd
    qemu-img convert -O raw $kind.vhd $kind.raw 2>/dev/null
    echo "$kind: taken for $(qemu-img info --output json $kind.vhd 2>/dev/null | sed -n 's/.*"format": "\(.*\)".*/\1/p'), $(stat -c %s $kind.raw) bytes, 'conectix' in the disk: $(grep -c conectix $kind.raw || true)"
done > seen
echo "software: $(qemu-img --version | head -1)"
echo "expected: both are vpc, both give the 4194304 bytes back"
sed 's/^/seen:     /' seen
diff -q seen - > /dev/null <<'EOF' || { echo "the behaviour has changed"; exit 1; }
dynamic: taken for vpc, 4194304 bytes, 'conectix' in the disk: 0
fixed: taken for raw, 4194816 bytes, 'conectix' in the disk: 1
EOF
