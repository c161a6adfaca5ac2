#!/usr/bin/env bash
# Software:  qemu-img 7.2 (Debian 12 qemu-utils 1:7.2+dfsg)
# Guess:     `qemu-img snapshot -a X` and `-d X` speak of the same snapshot. X may be an ID or a name; QEMU gives
#            the IDs, the user the names.
# Happens:   -a (and convert -l) look for an ID first, -d for a name only. With a snapshot named "1" that
#            has ID 2, `-a 1` goes back to another one (ID 1, named "2"), and `-d 1` deletes the right one.
# Where:     QEMU block/qcow2-snapshot.c find_snapshot_by_id_or_name for going back; qemu-img.c img_snapshot uses
#            bdrv_snapshot_find (names) for deleting.
# Meaning:   whoever names snapshots by numbers (a rotation, days, build numbers) restores the wrong disk as soon as
#            numbers and IDs part. `convert -l snapshot.name=1` is unambiguous, -a has no such form.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
qemu-img --version | grep -q 'version 7\.2\.' || echo "note: $(qemu-img --version | head -1), stated for 7.2"
qemu-img create -q -f qcow2 disk.qcow2 64k
qemu-io -f qcow2 -c 'write -q -P 65 0 64k' disk.qcow2       # A
qemu-img snapshot -c 2 disk.qcow2                           # ID 1, named 2
qemu-io -f qcow2 -c 'write -q -P 66 0 64k' disk.qcow2       # B
qemu-img snapshot -c 1 disk.qcow2                           # ID 2, named 1
qemu-io -f qcow2 -c 'write -q -P 67 0 64k' disk.qcow2       # C
letter() { qemu-img convert -f qcow2 "$@" -O raw disk.qcow2 out.raw && head -c 1 out.raw; }
named=$(letter -l snapshot.name=1)
short=$(letter -l 1)
cp disk.qcow2 kept.qcow2
qemu-img snapshot -d 1 disk.qcow2
left=$(qemu-img snapshot -l disk.qcow2 | awk 'NR > 2 { print "ID " $1 " named " $2 }')
cp kept.qcow2 disk.qcow2
qemu-img snapshot -a 1 disk.qcow2
applied=$(letter)
echo "software: $(qemu-img --version | head -1)"
echo "expected: the snapshot named 1 holds $named; -a 1 restores it, -l 1 converts it, -d 1 deletes it, or all mean ID 1"
echo "seen:     -a 1 restores $applied, -l 1 converts $short, -d 1 leaves $left"
[[ $named == B && $applied == A && $short == A && $left == 'ID 1 named 2' ]] || { echo "the behaviour has changed"; exit 1; }
