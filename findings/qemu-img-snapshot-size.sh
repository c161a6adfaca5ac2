#!/usr/bin/env bash
# Software:  qemu-img 7.2 (Debian 12 qemu-utils 1:7.2+dfsg)
# Guess:     `qemu-img convert -l SNAPSHOT` writes the disk as it was: the snapshot's data at the snapshot's
#            size, which each qcow2 snapshot entry records (disk_size in its extra data).
# Happens:   the data are the snapshot's, the size is today's: a snapshot of 1 MiB in a disk that was grown
#            to 2 MiB afterwards is written as 2 MiB, the rest zeros. `snapshot -a` does go back to 1 MiB.
# Where:     QEMU block/qcow2-snapshot.c: qcow2_snapshot_load_tmp loads the L1 table and leaves the size alone,
#            qcow2_snapshot_goto truncates.
# Meaning:   a backup taken from an internal snapshot by convert and one taken after `snapshot -a` differ in
#            size; the first has no GPT backup header at its end, and a check by size or hash fails.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
qemu-img --version | grep -q 'version 7\.2\.' || echo "note: $(qemu-img --version | head -1), stated for 7.2"
qemu-img create -q -f qcow2 disk.qcow2 1M
qemu-io -f qcow2 -c 'write -q -P 0x11 0 1M' disk.qcow2
qemu-img snapshot -c one disk.qcow2
qemu-img resize -q -f qcow2 disk.qcow2 2M
qemu-io -f qcow2 -c 'write -q -P 0x22 0 2M' disk.qcow2

qemu-img convert -f qcow2 -l one -O raw disk.qcow2 by-convert.raw
qemu-img snapshot -a one disk.qcow2
qemu-img convert -f qcow2 -O raw disk.qcow2 by-apply.raw
converted=$(stat -c %s by-convert.raw) applied=$(stat -c %s by-apply.raw)
content=$(cmp -n 1048576 by-convert.raw by-apply.raw && echo same || echo different)
echo "software: $(qemu-img --version | head -1)"
echo "expected: both ways of getting at the snapshot give 1048576 bytes"
echo "seen:     convert -l gives $converted bytes, snapshot -a and convert $applied (first MiB: $content)"
[[ $converted == 2097152 && $applied == 1048576 && $content == same ]] || { echo "the behaviour has changed"; exit 1; }
