#!/usr/bin/env bash
# Software:  qemu-img 7.2 (Debian 12 qemu-utils 1:7.2+dfsg)
# Guess:     `qemu-img amend -o compat=0.10` refuses an image with persistent bitmaps, which version 2 cannot
#            hold, as it refuses other version 3 features (refcount width, data file).
# Happens:   it succeeds without a word; the bitmaps are gone from `info`, their clusters are leaked, and going
#            back to compat=1.1 does not bring them back.
# Where:     QEMU block/qcow2.c qcow2_downgrade checks several features, not the bitmaps extension, and the
#            rewritten version 2 header has no autoclear bit for it.
# Meaning:   a conversion for an old reader ends the chain of incremental backups; it is noticed at the next backup.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
qemu-img --version | grep -q 'version 7\.2\.' || echo "note: $(qemu-img --version | head -1), stated for 7.2"
qemu-img create -q -f qcow2 disk.qcow2 4M
qemu-img bitmap --add disk.qcow2 backup
qemu-io -f qcow2 -c 'write -q 1M 64k' disk.qcow2
bitmaps() { qemu-img info --output json disk.qcow2 2>/dev/null | python3 -c 'import json, sys; print(len(json.load(sys.stdin)["format-specific"]["data"].get("bitmaps", [])))'; }
before=$(bitmaps)
said=$(qemu-img amend -f qcow2 -o compat=0.10 disk.qcow2 2>&1) && status=0 || status=$?
leaks=$({ qemu-img check --output json disk.qcow2 2>/dev/null || true; } | sed -n 's/.*"leaks": \([0-9]*\).*/\1/p')
qemu-img amend -f qcow2 -o compat=1.1 disk.qcow2 2>/dev/null
back=$(bitmaps)
echo "software: $(qemu-img --version | head -1)"
echo "expected: an error, and $before bitmap as before"
echo "seen:     exit status $status, message '${said}', $leaks leaked clusters; back at compat=1.1 there are $back bitmaps"
[[ $before == 1 && $status == 0 && -z $said && $leaks -gt 0 && $back == 0 ]] || { echo "the behaviour has changed"; exit 1; }
