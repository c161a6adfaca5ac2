#!/usr/bin/env bash
# Software:  PyPI dissect.hypervisor 3.21 (with dissect.util 3.24, dissect.cstruct 4.7), beside qemu-img 7.2
# Guess:     what a VDI stream returns does not depend on how much is read at once.
# Happens:   a read of more than one block (1 MiB) uses the first block's mapping for all of it: behind a hole
#            everything is zeros, behind a data block comes whatever follows in the file. Reads of one block
#            are right. No error.
# Where:     dissect/hypervisor/disk/vdi.py, VDIStream._read: min(length, max(length, ...)) is always length.
# Meaning:   the same disk hashes differently with another buffer size; a copy by large reads (shutil, dd-like
#            loops, read()) is wrong for every VDI that was not written in order.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check dissect.hypervisor==3.21 dissect.util==3.24 dissect.cstruct==4.7
qemu-img create -q -f vdi disk.vdi 8M
qemu-io -f vdi -c 'write -q -P 65 5M 1M' -c 'write -q -P 66 1M 1M' disk.vdi      # A at 5 MiB, then B at 1 MiB
qemu-img convert -f vdi -O raw disk.vdi truth.raw
cat > read.py <<'EOF'
from pathlib import Path
from dissect.hypervisor.disk.vdi import VDI

def letters(data):  # one for each MiB
    return "".join(chr(data[at]) if data[at] else "." for at in range(0, len(data), 1 << 20))

print("qemu-img ", letters(open("truth.raw", "rb").read()))
for step in 1, 8:
    stream = VDI(Path("disk.vdi")).open()
    print(f"{step} MiB reads", letters(b"".join(stream.read(step << 20) for _ in range(8 // step))))
EOF
seen=$(timeout 60 venv/bin/python read.py)
echo "software: dissect.hypervisor 3.21, $(qemu-img --version | head -1)"
echo "expected: .B...A.. each time (one letter for each MiB)"
echo "seen:"
sed 's/^/          /' <<< "$seen"
[[ $seen == *'qemu-img  .B...A..'*'1 MiB reads .B...A..'* && $seen != *'8 MiB reads .B...A..'* ]] || { echo "the behaviour has changed"; exit 1; }
