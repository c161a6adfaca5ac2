#!/usr/bin/env bash
# Software:  qemu-nbd and qemu-img 7.2 (Debian 12 qemu-utils 1:7.2+dfsg)
# Guess:     a persistent dirty bitmap becomes unusable only if a write was not recorded: a server that only
#            served reads and is killed has changed nothing; and a disabled bitmap is not touched anyhow.
# Happens:   opening the image for writing marks every bitmap "in-use" on disk, disabled ones too. After
#            SIGKILL all of them stay so, which means inconsistent: they cannot be read, enabled or merged, only
#            removed. `qemu-img check` says that no errors were found.
# Where:     QEMU block/qcow2-bitmap.c, qcow2_load_dirty_bitmaps sets BME_FLAG_IN_USE for each bitmap when the
#            image becomes writable.
# Meaning:   one power cut, one OOM kill of an idle VM, and the next incremental backup has to be a full one.
#            A monitoring check by exit status of qemu-img check does not see it; look at the flags in `info`.
set -euo pipefail
tmp=$(mktemp -d); trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$tmp"' EXIT
cd "$tmp"
qemu-img --version | grep -q 'version 7\.2\.' || echo "note: $(qemu-img --version | head -1), stated for 7.2"
qemu-img create -q -f qcow2 disk.qcow2 4M
qemu-img bitmap --add disk.qcow2 enabled
qemu-img bitmap --add --disable disk.qcow2 disabled
flags() {
    qemu-img info --output json disk.qcow2 | python3 -c '
import json, sys
print(*("%s %s;" % (it["name"], sorted(it["flags"])) for it in json.load(sys.stdin)["format-specific"]["data"]["bitmaps"]))'
}
before=$(flags)
qemu-nbd -t -f qcow2 -k "$tmp/socket" disk.qcow2 &
server=$!
for _ in $(seq 100); do [[ -S socket ]] && break; sleep 0.1; done
timeout 20 nbdinfo --size "nbd+unix:///?socket=$tmp/socket" > size     # no write
kill -9 "$server"
wait "$server" 2>/dev/null || true
after=$(flags)
qemu-img check -q disk.qcow2 && check=0 || check=$?
echo "software: $(qemu-img --version | head -1)"
echo "expected: after a killed server that only read: $before"
echo "seen:     $after qemu-img check exits $check"
[[ $before == "enabled ['auto']; disabled [];" && $after == "enabled ['auto', 'in-use']; disabled ['in-use'];" && $check == 0 ]] ||
    { echo "the behaviour has changed"; exit 1; }
