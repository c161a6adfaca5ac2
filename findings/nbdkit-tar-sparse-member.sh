#!/usr/bin/env bash
# Software:  nbdkit 1.32.5 (Debian 12), its tar filter, beside GNU tar
# Guess:     --filter=tar tar-entry=disk.img serves the file that `tar -x` extracts, or refuses what it cannot.
# Happens:   for a member that `tar -S` stored sparse, the export has the right size, but its bytes are the
#            archive's packed ones: data that belong behind a hole come at once, then the *next member's*
#            header and content follow as if they were the disk's.
# Where:     nbdkit filters/tar/tar.c asks `tar -tRvf` for the member's place and size and serves that range; the
#            sparse map is not looked at. nbdkit-tar-filter(1) does not mention sparse members.
# Meaning:   people pack disk images with -S because they are sparse. The image shows its first sector
#            rightly, so partition tables look well; everything behind the first hole is something else.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
nbdkit --version | grep -q 'nbdkit 1\.32\.' || echo "note: $(nbdkit --version), stated for 1.32.5"
truncate -s 1M disk.img
printf HEAD | dd of=disk.img conv=notrunc status=none
printf TAIL | dd of=disk.img conv=notrunc status=none bs=1 seek=1040000
head -c 2M /dev/zero | tr '\0' N > other.img
for how in plain sparse; do
    [[ $how == sparse ]] && flags=(-S) || flags=()
    tar --format=gnu "${flags[@]}" -cf $how.tar disk.img other.img
    tar -xOf $how.tar disk.img > $how.tar.img
    timeout 30 nbdkit -U - file $how.tar --filter=tar tar-entry=disk.img --run 'nbdcopy "$uri" '$how.nbd.img
done
describe() { python3 -c 'import sys; d=open(sys.argv[1],"rb").read(); print(len(d), "HEAD at", d.find(b"HEAD"), "TAIL at", d.find(b"TAIL"), "bytes of the other file:", d.count(b"N"))' "$1"; }
echo "software: $(nbdkit --version), $(tar --version | head -1)"
echo "expected: both archives give: $(describe sparse.tar.img)"
echo "seen:     plain  archive gives: $(describe plain.nbd.img)"
echo "          sparse archive gives: $(describe sparse.nbd.img)"
cmp -s disk.img sparse.tar.img && cmp -s disk.img plain.nbd.img && ! cmp -s disk.img sparse.nbd.img &&
    [[ $(stat -c %s sparse.nbd.img) == 1048576 ]] || { echo "the behaviour has changed"; exit 1; }
