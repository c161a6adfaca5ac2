#!/usr/bin/env bash
# Software:  PyPI dissect.hypervisor 3.21 (with dissect.util 3.24, dissect.cstruct 4.7), beside qemu-img 7.2
# Guess:     an overlay that is larger than its backing file reads as zeros where neither has data, as the
#            qcow2 specification says; the stream is as long as the virtual disk.
# Happens:   past the backing file's end the missing bytes are left out instead of zero-filled. What the
#            overlay holds behind them moves down: here data of offset 3 MiB is read at offset 1 MiB, and a
#            read of the whole 4 MiB disk returns 1.06 MiB. No exception, no warning.
# Where:     dissect/hypervisor/disk/qcow2.py, QCow2Stream._read: backing_file.read(run_length) is taken as it comes.
# Meaning:   growing a disk on top of a golden image (`qemu-img create -b base -F raw new 40G`) is the usual
#            cloud set-up; an evidence or backup tool built on this reads every such disk wrongly, silently.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
qemu-img --version | grep -q 'version 7\.2\.' || echo "note: $(qemu-img --version | head -1), stated for 7.2"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check dissect.hypervisor==3.21 dissect.util==3.24 dissect.cstruct==4.7

head -c 1M /dev/zero | tr '\0' A > base.raw
qemu-img create -q -f qcow2 -b base.raw -F raw overlay.qcow2 4M
qemu-io -f qcow2 -c 'write -q -P 66 3M 64k' overlay.qcow2      # 66 is 'B'
qemu-img convert -f qcow2 -O raw overlay.qcow2 truth.raw
seen=$(timeout 60 venv/bin/python - <<'EOF'
from pathlib import Path
from dissect.hypervisor.disk.qcow2 import QCow2
stream = QCow2(Path("overlay.qcow2")).open()
data = stream.read(stream.size)
print(stream.size, len(data), data.find(b"B"))
EOF
)
truth=$(python3 -c 'd=open("truth.raw","rb").read(); print(len(d), len(d), d.find(b"B"))')
echo "software: dissect.hypervisor 3.21, qemu-img 7.2"
echo "expected: (virtual size, bytes read, first offset of the overlay's data) $truth, as from qemu-img"
echo "seen:     $seen"
[[ $truth == '4194304 4194304 3145728' && $seen == '4194304 1114112 1048576' ]] || { echo "the behaviour has changed"; exit 1; }
